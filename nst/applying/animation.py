"""Animations that Pillow reads (GIF, WebP, PNG), painted as a GIF with their times and repetitions."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageSequence

from nst.applying.media import Frame
from nst.errors import UserError
from nst.files import write_atomic
from nst.images import decoding, rgb

log = logging.getLogger(__name__)
TICK = 10  # milliseconds: what a GIF counts time in
SHORTEST = 20  # milliseconds; browsers show shorter frames for 100
PLAYS = ("PNG", "WEBP")  # formats that say how often they are shown in all


@dataclass
class Animation:
    """An animation; see ``nst.applying.media.Clip``.

    Pillow composes each frame from those before it (disposal); what is transparent shows the background.

    Attributes:
        loop: how often it is repeated, 0 for ever; None: it is shown once.
        durations: of the frames that have been read, in milliseconds.
    """

    path: Path
    background: tuple[int, int, int]
    per_part: int = 1
    suffix: str = ".gif"
    part_suffix: str = ".png"
    frames: int | None = None
    loop: int | None = None
    durations: list[int] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        try:
            with decoding.opened(self.path) as file:
                self.frames, self.loop = getattr(file, "n_frames", 1), file.info.get("loop")
                if file.format in PLAYS and self.loop:  # a GIF says how often it is repeated after the first time
                    self.loop = self.loop - 1 or None
                width, height = file.size
                self.facts = {"format": file.format, "frames": self.frames, "loop": self.loop}
        except Exception as error:  # decoders raise whatever a broken file drives them to
            raise UserError(f"{self.path} cannot be read as an animation: {error}. Is the file complete?") from error
        self.facts |= {"width": width, "height": height}

    def read(self) -> Iterator[Frame]:
        """Read the frames in order; see ``Clip``."""
        self.durations.clear()
        with decoding.opened(self.path) as file:
            sequence = iter(ImageSequence.Iterator(file))
            while True:
                number = len(self.durations)
                try:
                    frame = next(sequence, None)
                    if frame is None:
                        break
                    picture = decoding.flattened(frame.copy(), self.background)
                except Exception as error:
                    if number == 0:
                        raise UserError(
                            f"{self.path} cannot be read as an animation: {error}. Is the file complete?"
                        ) from error
                    self.notes.append(f"{self.path} is broken after {number} frames ({error}); they are kept.")
                    return
                self.durations.append(round(float(frame.info.get("duration", 0))))
                yield Frame(number, picture)
        if self.frames is not None and number < self.frames:
            self.notes.append(f"{self.path} ends after {number} of {self.frames} frames; they are kept.")

    def part(self, folder: Path) -> Still:
        """Begin a part; see ``Clip``."""
        return Still()

    def join(self, parts: Sequence[Path], path: Path) -> None:
        """Write the parts as one GIF; see ``Clip``.

        Pillow writes frames that are equal to the one before as a longer duration of that one.
        """
        if any(0 < duration < SHORTEST for duration in self.durations):
            self.notes.append(f"Frames shorter than {SHORTEST} ms are shown for {SHORTEST}: a GIF has no shorter ones.")
        pictures = _opened(parts)
        options: dict[str, Any] = {"duration": _in_ticks(self.durations[: len(parts)])}
        options |= {} if self.loop is None else {"loop": self.loop}
        buffer = io.BytesIO()  # Pillow seeks back
        next(pictures).save(buffer, "GIF", save_all=True, append_images=pictures, optimize=False, **options)

        def write(file: BinaryIO) -> None:
            file.write(buffer.getbuffer())

        write_atomic(path, write)


class Still:
    """A part that is one frame, as a PNG of the 256 colours that the GIF will have."""

    def __init__(self) -> None:
        self.data = b""

    def add(self, painted: np.ndarray) -> None:
        """Set the frame; see ``Part``."""
        buffer = io.BytesIO()
        Image.fromarray(painted).quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(buffer, "PNG")
        self.data = buffer.getvalue()

    def keep(self, path: Path) -> None:
        """Write the frame; see ``Part``."""
        rgb.save(path, self.data)


def _opened(paths: Sequence[Path]) -> Iterator[Image.Image]:
    for path in paths:
        with decoding.opened(path) as file:
            yield file.copy()


def _in_ticks(durations: Sequence[int]) -> list[int]:
    """Round durations in milliseconds to what a GIF can hold and browsers show, so that as little as can be adds up."""
    made, behind = [], 0.0
    for duration in durations:
        shown = max(round((duration + behind) / TICK) * TICK, SHORTEST)
        behind += duration - shown
        made.append(shown)
    return made
