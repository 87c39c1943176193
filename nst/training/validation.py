"""Validation pictures in TensorBoard: photograph, what the network makes of it, what the optimiser does."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from nst.images import rgb
from nst.tracking import Snapshot, Tracker, picture_steps

PICTURES = 8  # along the way
GAP = 6  # pixels between two pictures


@dataclass
class ValidationPhoto:
    """A photograph that a network is tried on."""

    name: str
    photo: Tensor  # ``(1, 3, H, W)`` RGB in [0, 1], on the device
    optimised: Tensor | None = None  # what the optimiser makes of it, ``(1, 3, H', W')``, if that is known


@dataclass
class ValidationPictures(Tracker):
    """Shows ``validation/<name>``: the photograph, what the network makes of it and, if known, the optimiser's picture.

    Args:
        photos: to be shown; the first is the content.
        paint: what the network makes of a photograph ``(1, 3, H, W)``: as large, RGB in [0, 1].
        show: is given a tag, a picture and its step.
        steps: how many there will be, to spread the pictures over.
    """

    photos: Sequence[ValidationPhoto]
    paint: Callable[[Tensor], Tensor]
    show: Callable[[str, Image.Image, int], None]
    steps: int

    def __post_init__(self) -> None:
        self.turns = picture_steps(self.steps, PICTURES)

    def step(self, snapshot: Snapshot) -> None:
        """Show the pictures if their turn has come, or if it is the last."""
        step = snapshot.step
        if step.index not in self.turns and not step.last:
            return
        for place, one in enumerate(self.photos):
            painted = snapshot.image if place == 0 else self.paint(one.photo)
            self.show(f"validation/{place + 1}_{one.name}", side_by_side(one.photo, painted, one.optimised), step.index)


def side_by_side(*pictures: Tensor | None) -> Image.Image:
    """Return pictures ``(1, 3, H, W)`` beside each other, at the size of the first, those that are None left out."""
    first, *others = [Image.fromarray(rgb.to_bytes(one)) for one in pictures if one is not None]
    row = [first, *(one.resize(first.size, Image.Resampling.LANCZOS) for one in others)]
    strip = Image.new("RGB", (len(row) * (first.width + GAP) - GAP, first.height), "white")
    for place, picture in enumerate(row):
        strip.paste(picture, (place * (first.width + GAP), 0))
    return strip
