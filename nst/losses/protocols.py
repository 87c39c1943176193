"""What a loss may be: all that the framework asks of one, each as a small Protocol or a declared attribute.

A loss of one's own is any class with the two methods of ``LayerLoss``; whatever else stands here is optional, and
needs no base class.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

Layer = str | tuple[str, ...]  # one layer, or several that a loss takes together


@runtime_checkable
class LayerLoss(Protocol):
    """What every content or style loss has; it sees one layer at a time."""

    def target(self, features: Tensor) -> Any:
        """Return what is needed of the content or style image's map ``(B, C, H, W)``; called once, without gradient."""

    def __call__(self, features: Tensor, target: Any) -> Tensor:
        """Return ``(B,)``: how far each image's map ``(B, C, H, W)`` is from the target, differentiably."""


@runtime_checkable
class SummedLoss(LayerLoss, Protocol):
    """A function of sums over positions, which can be summed up over the tiles of a large picture; see ``is_summed``.

    Then ``loss(features, target)`` is ``loss.value(loss.sums(features, target), target, shape)``, where ``shape`` is
    the map's ``(C, H, W)``. The fused engine has fast ways to ``functional.channel_products`` and
    ``functional.squared_differences``; any other function will do. If ``target_is_map``, the target is a map of the
    same height and width and is cut into tiles with it; otherwise ``target_of_sums(sums, shape)`` makes the target of
    the sums, which are then taken with the target None. A class whose losses are not all such sets ``sums`` to None in
    the others.
    """

    target_is_map: bool

    def sums(self, features: Tensor, target: Any) -> Tensor:
        """Return sums over all positions, ``(B, ...)``."""

    def value(self, sums: Tensor, target: Any, shape: Sequence[int]) -> Tensor:
        """Return ``(B,)`` from the sums."""


@runtime_checkable
class DrawingLoss(Protocol):
    """A loss that draws random numbers: the same for the same seed and step, whatever was drawn before."""

    def begin_step(self, step: int, seed: int) -> None:
        """Tell the loss which step of which run begins."""


@runtime_checkable
class SizedLoss(Protocol):
    """A loss that wants to know how large the picture is."""

    def for_picture(self, height: int, width: int) -> LayerLoss:
        """Return the loss for a picture of so many pixels."""


@runtime_checkable
class MatchingLoss(Protocol):
    """A style loss whose target depends on what is to be painted."""

    def to_match(self, content: Tensor, start: Tensor) -> Tensor | None:
        """Return the picture whose maps ``match`` is given, or None if it does not ask.

        Args:
            content: the content image, ``(1, 3, H, W)`` RGB in [0, 1].
            start: the picture that the scale begins with, likewise, not clamped.
        """

    def match(self, target: Any, features: Any) -> Any:
        """Return the target for a picture, given the style image's, and the maps of the picture to match."""


@dataclass(frozen=True)
class Traits:
    """What a loss may declare as attributes of these names, and what holds of one that does not; see ``traits``."""

    scale: float = 1.0  # multiplies the whole term
    couples_layers: bool = False  # it is given pairs of maps, of each layer and the next one listed
    joins_layers: bool = False  # it is given all layers' maps as one tuple, and told the layers by ``for_layers``
    turns: int = 1  # quarter turns of the style image whose targets it is given to join by ``joined``
    takes_guide: bool = False  # it can look at a region: it is called with ``guide``, weights of positions
    waits_for_the_device: bool = False  # a step with it is not recorded as a CUDA graph


def traits(loss: object) -> Traits:
    """Return what a loss declares of itself."""
    names = (field.name for field in fields(Traits))
    return Traits(**{name: getattr(loss, name) for name in names if hasattr(loss, name)})


def is_summed(loss: object) -> bool:
    """Tell whether a loss is a ``SummedLoss`` whose parts were not left behind by a subclass that changes the whole."""
    if not isinstance(loss, SummedLoss):
        return False
    order = type(loss).__mro__

    def depth(name: str) -> int:
        return next(i for i, cls in enumerate(order) if name in vars(cls))

    whole_and_part = [("__call__", "value")] + ([] if loss.target_is_map else [("target", "target_of_sums")])
    return all(hasattr(loss, part) and depth(whole) >= depth(part) for whole, part in whole_and_part)


def is_guidable(loss: object) -> bool:
    """Tell whether a loss can be confined to a region."""
    return traits(loss).takes_guide
