"""What animations and videos have in common for whoever paints them.

A clip is read frame by frame and painted in segments: files in the run's folder that are whole or not there at all, so
that a run that was killed goes on after the last of them. When all are there, they are joined to one file.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from PIL import Image


class Segment(Protocol):
    """A segment of a painted clip that is being written."""

    def add(self, painted: np.ndarray) -> None:
        """Add a frame ``(H, W, 3)`` uint8."""

    def finish(self, path: Path) -> None:
        """Write the segment under its name, whole.

        Raises:
            CannotWrite: the disk is full, or the folder read-only.
        """


@dataclass
class Clip(ABC):
    """An animation or a video.

    Raises:
        UserError: it cannot be read.
    """

    path: Path  # its file
    background: tuple[int, int, int] = (255, 255, 255)  # what shows through transparent pixels, in bytes
    frames: int | None = None  # how many there are, as far as the file tells
    facts: dict[str, Any] = field(default_factory=dict)  # what the record tells of it
    notes: list[str] = field(default_factory=list)  # what could not be read or will not be kept, one sentence each
    per_segment: ClassVar[int]  # frames in each segment but the last
    suffix: ClassVar[str]  # of the painted file
    segment_suffix: ClassVar[str]

    @abstractmethod
    def __post_init__(self) -> None:  # named here, else a dataclass would not call those of its subclasses
        """Look at the file."""

    @abstractmethod
    def read(self) -> Iterator[Image.Image]:
        """Read the frames in order, upright RGB; what is broken at the end is left out and noted.

        Raises:
            UserError: there is not a single frame.
        """

    @abstractmethod
    def segment(self, folder: Path) -> Segment:
        """Begin a segment; ``folder`` is where it will be kept."""

    @abstractmethod
    def join(self, segments: Sequence[Path], path: Path) -> None:
        """Write the segments, which begin with the clip's first frame, as one file; ``read`` has come as far.

        Raises:
            CannotWrite: the disk is full, or the folder read-only.
        """
