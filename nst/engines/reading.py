"""What is asked of an engine: which loss of which layer, against which target."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor

from nst.losses import LayerLoss

Layer = str | tuple[str, str]  # one layer, or two that a loss compares with each other
Window = tuple[slice, slice]  # rows and columns of a map
Shapes = dict[str, tuple[int, ...]]  # of maps (C, H, W), by layer


class Wanted(NamedTuple):
    """A target to take.

    Attributes:
        layer: whose map; of two layers the loss is given a pair of maps.
        loss: that knows what to keep of it.
    """

    layer: Layer
    loss: LayerLoss


class Reading(NamedTuple):
    """A value to compute.

    Attributes:
        layer: whose map; of two layers the loss is given a pair of maps.
        loss: that compares it.
        target: what ``loss.target`` kept of the content or style image; its batch size is 1 or the picture's.
    """

    layer: Layer
    loss: LayerLoss
    target: Any


def each(layer: Layer) -> tuple[str, ...]:
    """Return the layers by name."""
    return (layer,) if isinstance(layer, str) else layer


def only(layer: Layer) -> str:
    """Return the name of the one layer; what is summed up looks at no more."""
    assert isinstance(layer, str)
    return layer


def together(layer: Layer, maps: Iterable[Tensor]) -> Any:
    """Return the maps of ``each(layer)`` as a loss is to be given them: a map, or a pair."""
    found = tuple(maps)
    return found[0] if isinstance(layer, str) else found
