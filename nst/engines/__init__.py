"""Engines: from an image to the value of every loss of every layer, with a gradient that autograd can follow.

``plain`` leaves everything to autograd and is what the others are tested against.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from nst.backbones import Backbone
from nst.engines.fused import Fused
from nst.engines.plain import Plain
from nst.engines.reading import Reading, Wanted

__all__ = ["ENGINES", "Engine", "Reading", "Wanted", "make"]
log = logging.getLogger(__name__)
ENGINES = ("auto", "plain", "fused")


class Engine(Protocol):
    """What every engine offers. An image is ``(B, 3, H, W)``, already preprocessed, in float32 or float64."""

    def targets(self, image: Tensor, wanted: dict[str, Wanted]) -> dict[str, Any]:
        """Return, by tag, what each loss keeps of an image; called without gradient."""

    def values(self, image: Tensor, readings: dict[str, Reading]) -> dict[str, Tensor]:
        """Return, by tag, the value ``(B,)`` of each loss, differentiable with respect to the image."""


def make(engine: str, backbone: nn.Module, dtype: torch.dtype) -> Engine:
    """Return an engine.

    Args:
        engine: ``auto``, ``plain`` or ``fused``.
        backbone: the network, on its device, in float32 or float64; it is not changed.
        dtype: what the network is to compute in: bfloat16, or the backbone's own.
    """
    if engine != "plain" and isinstance(backbone, Backbone):
        return Fused(backbone, dtype)
    if engine == "fused":
        log.info("%s is not one of this package's networks: engine=plain runs it", type(backbone).__name__)
    return Plain(backbone, dtype)
