"""Training a network that paints: lessons say what is to be made small, ``train`` does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from omegaconf import DictConfig
from torch import nn

from nst.losses.objective import Losses
from nst.networks.backbones import Backbone
from nst.runtime import PoliteStop
from nst.setup.inputs import Inputs


@dataclass
class Context:
    """What a lesson works with.

    Attributes:
        config: of the run.
        folder: of the run, for what is made on the way; several processes share it, and only the first one writes.
        inputs: ``content`` and the styles, ``(1, 3, H, W)`` RGB in [0, 1] each, on the device, at ``size``.
        backbone: the frozen network that the losses look through.
        device: to compute on.
        dtype: of pictures and losses: float32, or float64 if the precision is that.
        stop: a signal is answered by ``stop.poll()``, between two things that need not be made again.
        note: adds facts to ``run.json``.
        writes: this process is the one that writes.
    """

    config: DictConfig
    folder: Path
    inputs: Inputs
    backbone: Backbone
    device: torch.device
    dtype: torch.dtype
    stop: PoliteStop
    note: Callable[..., None]
    writes: bool = True


class Lesson(Protocol):
    """What a network is taught. Made from the node of the group ``training``, whose arguments it is given.

    Attributes:
        batch: items of a step; step n has the items n * batch to n * batch + batch - 1.
        workers: threads that make items ahead.
        validation: names of further photographs that are shown painted.
        reference: the optimiser's own picture is wanted, to compare with.
    """

    batch: int
    workers: int
    validation: list[str]
    reference: bool

    def prepare(self, context: Context) -> None:
        """Take targets, find photographs, make pairs; may take long, and goes on with what an earlier attempt made.

        Raises:
            UserError: something that it needs cannot be had.
        """

    def item(self, index: int) -> Any:
        """Return an item, tensors on the CPU and numbers: the same for the same index, in whichever process."""

    def losses(self, network: nn.Module, items: Any) -> Losses:
        """Return what is to be made small, ``(B,)`` each, differentiable with respect to the network's weights.

        Args:
            network: takes photographs ``(B, 3, H, W)`` and the weights of the styles ``(B, S)``, see
                ``nst.transformers``.
            items: of a step, put together by ``torch.utils.data.default_collate``, on the device.
        """

    def about(self) -> dict[str, Any]:
        """Return what to record of the data, with what was found broken so far."""
