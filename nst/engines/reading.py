"""What is asked of an engine: which loss of which layer, against which target."""

from __future__ import annotations

from typing import Any, NamedTuple

from nst.losses import LayerLoss

Window = tuple[slice, slice]  # rows and columns of a map
Shapes = dict[str, tuple[int, ...]]  # of maps (C, H, W), by layer


class Wanted(NamedTuple):
    """A target to take.

    Attributes:
        layer: whose map.
        loss: that knows what to keep of it.
    """

    layer: str
    loss: LayerLoss


class Reading(NamedTuple):
    """A value to compute.

    Attributes:
        layer: whose map.
        loss: that compares it.
        target: what ``loss.target`` kept of the content or style image; its batch size is 1 or the picture's.
    """

    layer: str
    loss: LayerLoss
    target: Any
