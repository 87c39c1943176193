"""What can be painted, read and written: pictures, folders of them, and clips (animated GIFs and the like, videos).

A clip is read frame by frame and painted in parts: files in the run's folder that are whole or not there at all, so
that a run that was killed goes on after the last of them. When all are there, they are joined to one file.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nst.errors import UserError
from nst.files import SUFFIXES, is_folder, pictures_below
from nst.images import decoding, rgb

KINDS = ("picture", "folder", "animation", "video")
ANIMATED = ("GIF", "PNG", "WEBP")  # other formats hold several pictures for other reasons: pages, two eyes
VIDEOS = (
    *(".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg"),
    *(".mpg", ".mts", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
)  # suffixes of files that are not even tried as pictures
log = logging.getLogger(__name__)
SMALLEST_SIDE = 16  # pixels that a network needs at least


@dataclass(frozen=True)
class Sizing:
    """At which size the network sees a picture, and at which its painting is saved.

    Args:
        size: pixels of the side that ``fit`` names; 0 keeps the picture's own size, whatever ``fit`` says.
        fit: see ``nst.images.rgb.load``.
        resample: see there.
        background: see there.
    """

    size: int = 0
    fit: str = "long"
    resample: str = "lanczos"
    background: str = "white"

    def load(self, path: Path) -> Tensor:
        """Load a picture as the network is to see it, ``(1, 3, H, W)`` float32 in [0, 1].

        Raises:
            UserError: the file is missing, broken or too small.
        """
        return self.seen(rgb.opened(str(path), self.background), path)

    def seen(self, picture: Image.Image, path: Path) -> Tensor:
        """Return an upright RGB picture as the network is to see it, ``(1, 3, H, W)`` float32 in [0, 1].

        Raises:
            UserError: a side would be shorter than ``SMALLEST_SIDE`` pixels.
        """
        shape = picture.size if self.size == 0 else rgb.fitted(*picture.size, self.size, self.fit, path)
        if min(shape) < SMALLEST_SIDE:
            raise UserError(
                f"{path} would be painted at {shape[0]} x {shape[1]} pixels, and the network needs {SMALLEST_SIDE} on "
                f"each side. Choose a larger size."
            )
        if shape != picture.size:
            picture = picture.resize(shape, rgb.RESAMPLINGS[self.resample])
        return tensor(np.array(picture))

    def kept(self, width: int, height: int, path: Path) -> tuple[int, int] | None:
        """Return the (width, height) to save at, if not that at which the network paints: what was squeezed."""
        squeezed = self.size != 0 and self.fit == "square"
        return rgb.fitted(width, height, self.size, "long", path) if squeezed else None


def tensor(array: np.ndarray) -> Tensor:
    """Return ``(H, W, 3)`` uint8 as ``(1, 3, H, W)`` float32 in [0, 1]."""
    return torch.from_numpy(array).permute(2, 0, 1)[None].contiguous().float() / 255


@dataclass(frozen=True)
class Frame:
    """One frame of a clip.

    Attributes:
        number: from 0.
        picture: upright RGB.
    """

    number: int
    picture: Image.Image


class Part(Protocol):
    """A part of a painted clip that is being written."""

    def add(self, painted: np.ndarray) -> None:
        """Add a frame ``(H, W, 3)`` uint8."""

    def keep(self, path: Path) -> None:
        """Write the part under its name, whole.

        Raises:
            CannotWrite: the disk is full, or the folder read-only.
        """


class Clip(Protocol):
    """An animation or a video.

    Attributes:
        path: its file.
        frames: how many there are, as far as the file tells; None if it does not.
        per_part: frames in each part but the last.
        suffix: of the painted file; ``part_suffix`` of its parts.
        facts: what the record tells of it.
        notes: what of it could not be read or will not be kept, one sentence each.
    """

    path: Path
    frames: int | None
    per_part: int
    suffix: str
    part_suffix: str
    facts: dict[str, Any]
    notes: list[str]

    def read(self) -> Iterator[Frame]:
        """Read the frames in order; what is broken at the end is left out and noted.

        Raises:
            UserError: there is not a single frame.
        """

    def part(self, folder: Path) -> Part:
        """Begin a part; ``folder`` is where it will be kept."""

    def join(self, parts: Sequence[Path], path: Path) -> None:
        """Write the parts, which begin with the clip's first frame, as one file; ``read`` has come as far.

        Raises:
            CannotWrite: the disk is full, or the folder read-only.
        """


def kind_of(name: str) -> str:
    """Return which of ``KINDS`` a path, or the name of a sample, stands for.

    Raises:
        UserError: there is nothing of that name.
    """
    if is_folder(name):
        return "folder"
    path = rgb.locate(name)
    if path.suffix.lower() in VIDEOS:
        return "video"
    try:
        with decoding.opened(path) as file:
            return "animation" if file.format in ANIMATED and getattr(file, "is_animated", False) else "picture"
    except Exception:  # what is wrong is told by whoever reads it
        return "video" if _is_video(path) else "picture"


def _is_video(path: Path) -> bool:
    """Tell whether FFmpeg finds moving pictures in a file, whatever its name."""
    with contextlib.suppress(Exception):
        import av  # an extra package

        av.logging.set_level(av.logging.PANIC)
        with av.open(str(path)) as container:
            if re.search(r"image2|_pipe|jpeg|gif|png|webp", container.format.name):  # a picture that is broken
                return False
            return any(stream.codec_context is not None for stream in container.streams.video)
    return False


def open_clip(name: str, background: str) -> Clip:
    """Return the animation or the video that a path stands for.

    Raises:
        UserError: it cannot be read.
    """
    path = rgb.locate(name)
    if kind_of(name) == "animation":
        from nst.applying.animation import Animation  # here, as for videos: each needs a library of its own

        return Animation(path, decoding.parse_color(background))
    from nst.applying.video import Video

    return Video(path, decoding.parse_color(background))


def pictures_in(folder: Path, leave_out: Path | None = None) -> dict[Path, str]:
    """Return the pictures in a folder and below it, each with the name of its painting, in the order of their names.

    Hidden files and folders do not count, nor does whatever has not the suffix of a picture.

    Args:
        folder: to look in.
        leave_out: a folder that is not looked in: where the paintings go.

    Returns:
        ``{path: name}``; names are relative to the folder of the paintings, without their suffix, with forward slashes.

    Raises:
        UserError: there is no picture, or a folder cannot be read.
    """
    try:
        below, left_out = pictures_below(folder, leave_out)
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: {error.strerror or error}.") from error
    if not below:
        raise UserError(f"There is no picture in {folder}: no file that ends in {', '.join(sorted(SUFFIXES))}.")
    if left_out:
        log.info("%d files in %s have not the suffix of a picture, and are left out", left_out, folder)
    found = [folder / name for name in sorted(below, key=lambda name: (_natural(name), name))]
    return dict(zip(found, _names([path.relative_to(folder) for path in found]), strict=True))


def _names(paths: Sequence[Path]) -> list[str]:
    """Return a name for each painting: the picture's without its suffix, with it where two would be the same.

    Upper and lower case count as the same, since on some systems they are.
    """
    plain = [path.with_suffix("").as_posix() for path in paths]
    count: dict[str, int] = {}
    for name in plain:
        count[name.casefold()] = count.get(name.casefold(), 0) + 1
    taken = {key for key, number in count.items() if number == 1}
    names = []
    for path, name in zip(paths, plain, strict=True):
        if count[name.casefold()] > 1:
            name = whole = path.as_posix()
            number = 2
            while name.casefold() in taken:
                name, number = f"{whole}-{number}", number + 1
            taken.add(name.casefold())
        names.append(name)
    return names


def _natural(text: str) -> list[tuple[int, int, str]]:
    """Return a sort key that counts the numbers in a text as numbers."""
    parts = re.split(r"([0-9]+)", text)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]
