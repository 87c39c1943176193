"""What a training method is: it has data, and losses of what the network makes of them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import nn

from nst.errors import ConfigError
from nst.losses.objective import Losses
from nst.networks.backbones import Backbone
from nst.runtime import PoliteStop
from nst.setup.inputs import Inputs

CROPS = (16, 2048)
RANGES = {"batch": (1, 65536), "workers": (0, 1024), "crop": CROPS, "side": CROPS, "count": (1, 100_000)}


@dataclass
class TrainingContext:
    """What a training method works with.

    Attributes:
        config: of the run.
        folder: of the run, for what is made on the way; several processes share it, and only the first one writes.
        inputs: ``content`` and the styles, ``(1, 3, H, W)`` RGB in [0, 1] each, at ``size``, on the
            device and of the type (float32, or float64 if the precision is that) in which losses are computed.
        backbone: the frozen network that the losses look through.
        stop: a signal is answered by ``stop.poll()``, between two things that need not be made again.
        note: adds facts to ``run.json``.
        writes: this process is the one that writes.
    """

    config: DictConfig
    folder: Path
    inputs: Inputs
    backbone: Backbone
    stop: PoliteStop
    note: Callable[..., None]
    writes: bool = True


@dataclass
class TrainingMethod(ABC):
    """What a network is trained on, and by which losses: the group ``training``.

    Args:
        batch: items of a step; step n has the items n * batch to n * batch + batch - 1.
        crop: pixels of the sides of pictures.
        flip: whether half of them are flipped left to right.
        scale: of crops of photographs, see ``Photos``.
        workers: threads that load items ahead.
        validation: names of further photographs that are shown painted.
        reference: whether the optimiser's own picture of the content is wanted, to compare with.
        painter: how that optimiser paints; see ``nst.training.reference``.

    Raises:
        ConfigError: all that is wrong with the arguments.

    Attributes:
        features: what compares feature maps, if anything does; see ``nst.training.features``.
    """

    batch: int = 4
    crop: int = 128
    flip: bool = True
    scale: float = 0.5
    workers: int = 0
    validation: Sequence[str] = ()
    reference: bool = False
    painter: Mapping[str, Any] | None = None
    features: Any = field(init=False, default=None)

    def __post_init__(self) -> None:
        if wrong := self.problems():
            raise ConfigError(wrong)

    def problems(self) -> list[str]:
        """Return what is wrong with the arguments, a sentence each."""
        found = [
            f"training.{name}={getattr(self, name)} is out of range: it must be from {low} to {high}."
            for name, (low, high) in RANGES.items()
            if not low <= getattr(self, name, low) <= high
        ]
        if not 0 < self.scale <= 1:
            found.append(f"training.scale={self.scale} is out of range: it must be above 0, and 1 at most.")
        return found

    @abstractmethod
    def prepare(self, context: TrainingContext) -> None:
        """Take targets, find photographs, make pairs; may take long, and goes on with what an earlier attempt made.

        Raises:
            UserError: something that it needs cannot be had.
        """

    @abstractmethod
    def item(self, index: int) -> Any:
        """Return an item, tensors on the CPU and numbers: the same for the same index, in whichever process."""

    @abstractmethod
    def losses(self, network: nn.Module, items: Any) -> Losses:
        """Return what is to be made small, ``(B,)`` each, differentiable with respect to the network's weights.

        Args:
            network: takes photographs ``(B, 3, H, W)`` and the weights of the styles ``(B, S)``, see
                ``nst.transformers``.
            items: of a step, put together by ``torch.utils.data.default_collate``, on the device.
        """

    def begin_step(self, step: int) -> None:
        """Tell losses that draw random numbers which step begins."""
        if self.features is not None:
            self.features.begin_step(step)

    @abstractmethod
    def about(self) -> dict[str, Any]:
        """Return what to record of the data, with what was found broken so far."""
