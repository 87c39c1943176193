"""Small pictures along the way, for the report's step slider: kept by failed and killed runs as well."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

from PIL import Image

from nst.files import writing
from nst.images import rgb
from nst.tracking import Snapshot
from nst.tracking.tensorboard import picture_steps

LONGEST_SIDE = 256
QUALITY = 85


class Previews:
    """Saves the start, log-spaced steps and the last as ``<folder>/<step>.jpg``, small and the same bytes each time.

    Args:
        folder: made when the first picture comes.
        steps: how many there will be, to spread the pictures over.
        shape: (width, height) of the result, if not the picture's own.
        written: what ``position`` returned, of a run that is carried on.
    """

    def __init__(
        self, folder: Path, steps: int, shape: tuple[int, int] | None = None, written: dict[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.turns = {0} | picture_steps(steps)
        self.shape = shape
        self.written = dict(written or {})

    def step(self, snapshot: Snapshot) -> None:
        """Save the picture if its turn has come, or if it is the last.

        Raises:
            UserError: the picture cannot be written.
        """
        index = snapshot.step.index
        if index in self.turns or snapshot.step.last:
            with writing(self.folder):
                self.folder.mkdir(exist_ok=True)
            picture = Image.fromarray(rgb.to_bytes(snapshot.image, self.shape))
            rgb.save(path := self.folder / f"{index:06d}.jpg", data := encode(picture))
            self.written[f"{self.folder.name}/{path.name}"] = hashlib.sha256(data).hexdigest()

    def position(self) -> dict[str, str]:
        """Return the SHA-256 of each picture saved so far, by its path in the run's folder."""
        return dict(self.written)

    def close(self, status: str) -> None:
        """Do nothing: every picture is complete on disk."""


def encode(picture: Image.Image) -> bytes:
    """Return an RGB picture as a JPEG file whose long side has at most ``LONGEST_SIDE`` pixels; none is enlarged."""
    scale = LONGEST_SIDE / max(picture.size)
    if scale < 1:
        width, height = (max(1, round(side * scale)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "jpeg", quality=QUALITY)
    return buffer.getvalue()
