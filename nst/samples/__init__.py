"""The bundled sample images, listed with author and licence in ``sources.yaml``."""

import functools
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

FOLDER = Path(__file__).parent


@functools.cache
def samples() -> dict[str, dict[str, str]]:
    """Return what is known of each sample: file, kind (content or style), title, author, licence, source."""
    known: Any = OmegaConf.to_container(OmegaConf.load(FOLDER / "sources.yaml"))
    return dict(known)
