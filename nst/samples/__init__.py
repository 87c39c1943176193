"""The bundled sample images, listed with author and licence in ``sources.yaml``."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

FOLDER = Path(__file__).parent


def samples() -> dict[str, dict[str, str]]:
    """Return what is known of each sample: file, kind (content or style), title, author, licence, source."""
    known: Any = OmegaConf.to_container(OmegaConf.load(FOLDER / "sources.yaml"))
    return dict(known)
