"""What is asked of an engine: which loss of which layer, against which target."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nst.errors import UserError
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


def target_of(wanted: Wanted, maps: Any) -> Any:
    """Return what a loss keeps of the content or style image's map, or pair of maps.

    Raises:
        UserError: a loss of one's own fails.
    """
    try:
        return wanted.loss.target(maps)
    except Exception as error:
        _tell(error, wanted.loss, "target", wanted.layer)
        raise


def value_of(reading: Reading, maps: Any) -> Tensor:
    """Return what a loss gives for the picture's map, or pair of maps.

    Raises:
        UserError: a loss of one's own fails, or gives nothing that a descent could follow.
    """
    try:
        value: Any = reading.loss(maps, reading.target)
    except Exception as error:
        _tell(error, reading.loss, "__call__", reading.layer)
        raise
    where = f"{type(reading.loss).__name__}.__call__ for {'-'.join(each(reading.layer))}"
    if not isinstance(value, Tensor):
        raise UserError(
            f"{where} gave {type(value).__name__} {value!r:.40}: one value per image is needed, a tensor (B,)."
        )
    if not value.is_floating_point():
        raise UserError(f"{where} gave whole numbers ({value.dtype}), which have no gradient. Compute in floats.")
    follows = (maps if isinstance(maps, Tensor) else maps[0]).requires_grad and torch.is_grad_enabled()
    if follows and not value.requires_grad:
        raise UserError(
            f"{where} has no gradient, so that nothing could be learnt from it: it is detached from the map on the way "
            "(detach, item, numpy, a comparison, no_grad)."
        )
    return value


def _tell(error: Exception, loss: object, method: str, layer: Layer) -> None:
    """Raise UserError for an error of somebody's own loss; ours, and those of memory, are left as they are."""
    memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "memory" in str(error).lower()
    if not (type(loss).__module__.startswith("nst.") or isinstance(error, UserError) or memory):
        name, where = f"{type(loss).__name__}.{method}", "-".join(each(layer))
        raise UserError(f"{name} failed for {where}: {type(error).__name__}: {error} (more in run.log).") from error
