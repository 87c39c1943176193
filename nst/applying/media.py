"""What can be painted: pictures, folders of them, and clips (animated GIFs and the like, videos)."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_tensor

from nst.applying.animation import Animation
from nst.applying.clips import Clip
from nst.applying.video import Video, holds_video
from nst.errors import UserError
from nst.files import SUFFIXES, is_folder, pictures_below
from nst.images import decoding, rgb
from nst.runs.folders import in_order
from nst.transformers.layers import SMALLEST

ANIMATED = ("GIF", "PNG", "WEBP")  # other formats hold several pictures for other reasons: pages, two eyes
# Suffixes of files that are not even tried as pictures.
VIDEOS = ".3gp .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .vob .webm .wmv"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sizing:
    """At which size the network sees a picture, and at which its painting is saved; see ``nst.images.rgb.load``."""

    size: int = 0  # pixels of the side that ``fit`` names; 0 keeps the picture's own size, whatever ``fit`` says
    fit: str = "long"
    resample: str = "lanczos"
    background: str = "white"

    def seen(self, picture: Image.Image, path: Path) -> Tensor:
        """Return an upright RGB picture as the network is to see it, ``(1, 3, H, W)`` float32 in [0, 1].

        Raises:
            UserError: a side would be shorter than a network needs.
        """
        shape = picture.size if self.size == 0 else rgb.fitted(*picture.size, self.size, self.fit, path)
        if min(shape) < SMALLEST:
            raise UserError(
                f"{path} would be painted at {shape[0]} x {shape[1]} pixels, and the network needs {SMALLEST} on "
                f"each side. Choose a larger size."
            )
        if shape != picture.size:
            picture = picture.resize(shape, rgb.RESAMPLINGS[self.resample])
        pixels: Tensor = to_tensor(picture)
        return pixels[None]

    def kept(self, width: int, height: int, path: Path) -> tuple[int, int] | None:
        """Return the (width, height) to save at, if not that at which the network paints: what was squeezed."""
        squeezed = self.size != 0 and self.fit == "square"
        return rgb.fitted(width, height, self.size, "long", path) if squeezed else None


def kind_of(name: str) -> str:
    """Return what a path, or the name of a sample, stands for: ``picture``, ``folder``, ``animation`` or ``video``.

    Raises:
        UserError: there is nothing of that name.
    """
    if is_folder(name):
        return "folder"
    path = rgb.locate(name)
    if path.suffix.lower() in VIDEOS.split():
        return "video"
    try:
        with decoding.opened(path) as file:
            return "animation" if file.format in ANIMATED and getattr(file, "is_animated", False) else "picture"
    except Exception:  # what is wrong is told by whoever reads it
        return "video" if holds_video(path) else "picture"


def open_clip(name: str, background: str) -> Clip:
    """Return the animation or the video that a path stands for.

    Raises:
        UserError: it cannot be read.
    """
    kind = Animation if kind_of(name) == "animation" else Video
    return kind(rgb.locate(name), decoding.parse_color(background))


def pictures_in(folder: Path, leave_out: Path | None = None) -> dict[Path, str]:
    """Return the pictures in a folder and below it, each with the name of its painting, in the order of their names.

    Hidden files and folders do not count, nor does ``leave_out``, where the paintings go. Names are relative to the
    folder of the paintings, without their suffix, with forward slashes.

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
    paths = [Path(name) for name in sorted(below, key=in_order)]
    return {folder / path: name for path, name in zip(paths, _names(paths), strict=True)}


def _names(paths: Sequence[Path]) -> list[str]:
    """Return a name for each painting: the picture's without its suffix, with it where two would be the same.

    Upper and lower case count as the same, since on some systems they are.
    """
    plain = [path.with_suffix("").as_posix() for path in paths]
    count = Counter(name.casefold() for name in plain)
    taken = {key for key, number in count.items() if number == 1}
    names = []
    for path, name in zip(paths, plain, strict=True):
        if count[name.casefold()] > 1:
            name, number = path.as_posix(), 2
            while name.casefold() in taken:
                name, number = f"{path.as_posix()}-{number}", number + 1
            taken.add(name.casefold())
        names.append(name)
    return names
