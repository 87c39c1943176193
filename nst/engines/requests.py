"""What is asked of an engine, by tag, and how a loss, perhaps somebody's own, is given what it asked for."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from nst.errors import UserError
from nst.losses.objective import LossRequest, TargetRequest
from nst.losses.protocols import Layer

Window = tuple[slice, slice]  # rows and columns of a map
Shapes = dict[str, tuple[int, ...]]  # of maps (C, H, W), by layer
Sums = tuple[dict[str, Tensor], Shapes]  # by tag, and the shapes of whole maps


def each(layer: Layer) -> tuple[str, ...]:
    """Return the layers by name."""
    return (layer,) if isinstance(layer, str) else layer


def only(layer: Layer) -> str:
    """Return the name of the one layer; what is summed up looks at no more."""
    assert isinstance(layer, str)
    return layer


def given(layer: Layer, maps: Iterable[Tensor]) -> Any:
    """Return the maps of ``each(layer)`` as a loss is to be given them: a map, or a pair."""
    found = tuple(maps)
    return found[0] if isinstance(layer, str) else found


def is_ours(loss: object) -> bool:
    """Tell whether a loss is one of this package's: it changes no map in place, and its errors are not the user's."""
    return type(loss).__module__.startswith("nst.")


def target_of(wanted: TargetRequest, maps: Any) -> Any:
    """Return what a loss keeps of a map, or pair of maps; raise UserError if a loss of one's own fails."""
    try:
        return wanted.loss.target(maps)
    except Exception as error:
        _explain(error, wanted.loss, "target", wanted.layer)
        raise


def value_of(request: LossRequest, maps: Any) -> Tensor:
    """Return what a loss gives for the picture's map, or pair of maps.

    Raises:
        UserError: a loss of one's own fails, or gives nothing that a descent could follow.
    """
    try:
        value: Any = request.loss(maps, request.target)
    except Exception as error:
        _explain(error, request.loss, "__call__", request.layer)
        raise
    where = f"{type(request.loss).__name__}.__call__ for {'-'.join(each(request.layer))}"
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


def _explain(error: Exception, loss: object, method: str, layer: Layer) -> None:
    """Raise UserError for an error of somebody's own loss; ours, and those of memory, are left as they are."""
    memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "memory" in str(error).lower()
    if not (is_ours(loss) or isinstance(error, UserError) or memory):
        name, where = f"{type(loss).__name__}.{method}", "-".join(each(layer))
        raise UserError(f"{name} failed for {where}: {type(error).__name__}: {error} (more in run.log).") from error
