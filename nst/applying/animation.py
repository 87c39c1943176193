"""Animations that Pillow reads (GIF, WebP, PNG), painted as a GIF with their times and repetitions."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from nst.applying.clips import Clip
from nst.errors import UserError
from nst.files import write_atomic
from nst.images import decoding, rgb

TICK = 10  # milliseconds: what a GIF counts time in
SHORTEST = 20  # milliseconds; browsers show shorter frames for 100
PLAYS = ("PNG", "WEBP")  # formats that say how often they are shown in all


@dataclass
class Animation(Clip):
    """An animation; Pillow composes each frame from those before it (disposal).

    Attributes:
        loop: how often it is repeated, 0 for ever; None: it is shown once.
        durations: of the frames that have been read, in milliseconds.
    """

    per_segment, suffix, segment_suffix = 1, ".gif", ".png"

    def __post_init__(self) -> None:
        self.durations: list[int] = []
        try:
            with decoding.opened(self.path) as file:
                self.frames, self.loop = getattr(file, "n_frames", 1), file.info.get("loop")
                if file.format in PLAYS and self.loop:  # a GIF says how often it is repeated after the first time
                    self.loop = self.loop - 1 or None
                self.facts = {"format": file.format, "frames": self.frames, "loop": self.loop}
                self.facts |= {"width": file.width, "height": file.height}
        except Exception as error:  # decoders raise whatever a broken file drives them to
            raise self._unreadable(error) from error

    def read(self) -> Iterator[Image.Image]:
        """Read the frames in order; see ``Clip``."""
        self.durations.clear()
        with decoding.opened(self.path) as file:
            sequence = iter(ImageSequence.Iterator(file))
            while True:
                try:
                    frame = next(sequence, None)
                    if frame is None:
                        break
                    picture = decoding.flattened(frame.copy(), self.background)
                except Exception as error:
                    if not self.durations:
                        raise self._unreadable(error) from error
                    count = len(self.durations)
                    self.notes.append(f"{self.path} is broken after {count} frames ({error}); they are kept.")
                    return
                self.durations.append(round(float(frame.info.get("duration", 0))))
                yield picture
        if len(self.durations) < (self.frames or 0):
            self.notes.append(f"{self.path} ends after {len(self.durations)} of {self.frames} frames; they are kept.")

    def segment(self, folder: Path) -> Still:
        """Begin a segment; see ``Clip``."""
        return Still()

    def join(self, segments: Sequence[Path], path: Path) -> None:
        """Write the frames as one GIF; see ``Clip``.

        Pillow writes frames that are equal to the one before as a longer duration of that one.
        """
        if any(0 < duration < SHORTEST for duration in self.durations):
            self.notes.append(f"Frames shorter than {SHORTEST} ms are shown for {SHORTEST}: a GIF has no shorter ones.")
        pictures = _opened(segments)
        options: dict[str, Any] = {"duration": _in_ticks(self.durations[: len(segments)])}
        options |= {} if self.loop is None else {"loop": self.loop}
        buffer = io.BytesIO()  # Pillow seeks back
        next(pictures).save(buffer, "GIF", save_all=True, append_images=pictures, optimize=False, **options)
        write_atomic(path, lambda file: file.write(buffer.getbuffer()))

    def _unreadable(self, error: Exception) -> UserError:
        return UserError(f"{self.path} cannot be read as an animation: {error}. Is the file complete?")


class Still:
    """A segment that is one frame, as a PNG of the 256 colours that the GIF will have."""

    def add(self, painted: np.ndarray) -> None:
        """Set the frame; see ``Segment``."""
        self.picture = Image.fromarray(painted).quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)

    def finish(self, path: Path) -> None:
        """Write the frame; see ``Segment``."""
        buffer = io.BytesIO()
        self.picture.save(buffer, "PNG")
        rgb.save(path, buffer.getvalue())


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
