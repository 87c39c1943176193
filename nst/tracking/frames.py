"""Intermediate pictures as PNG files."""

from __future__ import annotations

from pathlib import Path

from nst import images
from nst.tracking import Snapshot


class Frames:
    """Saves the picture every so many steps as ``<folder>/<step>.png``.

    Args:
        folder: made when the first picture comes.
        every: steps between two pictures; 0 saves none.
        shape: (width, height) to save at, if not the picture's own.
    """

    def __init__(self, folder: Path, every: int, shape: tuple[int, int] | None = None) -> None:
        self.folder = folder
        self.every = every
        self.shape = shape

    def step(self, snapshot: Snapshot) -> None:
        """Save the picture if its turn has come, or if it is the last."""
        index = snapshot.step.index
        if self.every and (index % self.every == 0 or snapshot.step.last):
            self.folder.mkdir(exist_ok=True)
            images.save(self.folder / f"{index:06d}.png", images.encode(snapshot.image[:1], shape=self.shape))

    def position(self) -> None:
        """Return nothing: a picture that is saved again is the same."""

    def close(self, status: str) -> None:
        """Do nothing: every picture is complete on disk."""
