"""Intermediate pictures as PNG files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from nst.images import rgb
from nst.tracking import Snapshot


class Frames:
    """Saves the picture every so many steps as ``<folder>/<step>.png``.

    Args:
        folder: made when the first picture comes.
        every: steps between two pictures; 0 saves none.
        shape: (width, height) to save at, if not the picture's own.
        written: what ``position`` returned, of a run that is carried on.
    """

    def __init__(
        self, folder: Path, every: int, shape: tuple[int, int] | None = None, written: dict[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.every = every
        self.shape = shape
        self.written = dict(written or {})

    def step(self, snapshot: Snapshot) -> None:
        """Save the picture if its turn has come, or if it is the last."""
        index = snapshot.step.index
        if self.every and (index % self.every == 0 or snapshot.step.last):
            self.folder.mkdir(exist_ok=True)
            data = rgb.encode(snapshot.image, shape=self.shape)
            rgb.save(path := self.folder / f"{index:06d}.png", data)
            self.written[f"{self.folder.name}/{path.name}"] = hashlib.sha256(data).hexdigest()

    def position(self) -> dict[str, str]:
        """Return the SHA-256 of each picture saved so far, by its path in the run's folder."""
        return dict(self.written)

    def close(self, status: str) -> None:
        """Do nothing: every picture is complete on disk."""
