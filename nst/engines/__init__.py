"""Engines: from an image to the value of every loss of every layer, with a gradient that autograd can follow.

``plain`` leaves everything to autograd and is what the others are tested against.
"""

import logging
from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from nst.engines import tiles
from nst.engines.fused import Fused
from nst.engines.plain import Plain
from nst.losses.objective import LossRequest, TargetRequest
from nst.losses.protocols import is_summed, traits
from nst.networks.backbones import Backbone

__all__ = ["ENGINES", "Engine", "LossRequest", "TargetRequest", "make", "untileable"]
log = logging.getLogger(__name__)
ENGINES = ("auto", "plain", "fused")


class Engine(Protocol):
    """What every engine offers. An image is ``(B, 3, H, W)``, already preprocessed, in float32 or float64."""

    def describe(self, losses: Iterable[object]) -> str:
        """Say what computes these losses, for the log and the record."""

    def targets(self, image: Tensor, wanted: dict[str, TargetRequest]) -> dict[str, Any]:
        """Return, by tag, what each loss keeps of an image; called without gradient."""

    def values(self, image: Tensor, requests: dict[str, LossRequest]) -> dict[str, Tensor]:
        """Return, by tag, the value ``(B,)`` of each loss, differentiable with respect to the image."""


def make(
    engine: str, backbone: nn.Module, dtype: torch.dtype, tile: int | None = None, compiled: bool = False
) -> Engine:
    """Return an engine: ``auto``, ``plain`` or ``fused``.

    Args:
        backbone: the network, on its device, in float32 or float64; it is not changed.
        dtype: what the network is to compute in: bfloat16, or the backbone's own.
        tile: pixels of a tile's side at most, or None for the whole picture at once; see ``untileable``.
        compiled: let torch.compile work on the network of the plain engine, which is then the one.
    """
    whole: Plain | Fused
    if engine != "plain" and isinstance(backbone, Backbone) and not compiled:
        whole = Fused(backbone, dtype)
    else:
        if engine == "fused" and not isinstance(backbone, Backbone):
            name = getattr(backbone, "name", type(backbone).__name__)
            log.info("engine=fused: %s is not made for it, engine=plain runs it", name)
        whole = Plain(backbone, dtype, compiled)
    if tile is None:
        return whole
    fields = tiles.receptive_fields(backbone)
    assert fields is not None
    return tiles.Tiled(whole, fields, tile)


def untileable(backbone: nn.Module, losses: Iterable[object]) -> str | None:
    """Return why a picture cannot be computed in tiles with this network and these losses, or None if it can."""
    for loss in losses:
        if traits(loss).couples_layers or traits(loss).joins_layers:
            return f"{type(loss).__name__} compares layers with each other"
        if not is_summed(loss):
            return f"{type(loss).__name__} is no function of sums over positions"
    if tiles.receptive_fields(backbone) is None:
        name = getattr(backbone, "name", type(backbone).__name__)
        return f"the network ({name}) has a layer whose reach is not known"
    return None
