"""Whether a run fits into the memory: in tiles if it must, and what to say if it does not."""

import contextlib
import gc
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from nst import configuration, engines, runtime
from nst.errors import UserError
from nst.networks.backbones import Backbone
from nst.runs.session import Retry
from nst.runtime import memory
from nst.setup import estimate, network, objective
from nst.setup.estimate import Need
from nst.setup.inputs import Inputs
from nst.setup.objective import TARGETS_BYTES, PictureLoss

log = logging.getLogger(__name__)
TILES = (2048, 1536, 1024, 768, 512, 384, 256, 128)  # sides that tile=auto tries


class OutOfMemory(UserError):
    """Memory ran out; the message says what would fit."""


@dataclass(frozen=True)
class Fit:
    """How a batch fits into the memory.

    Attributes:
        need: what it is estimated to need, if that can be told.
        tile: pixels of a tile's side at most, or None for the whole picture at once.
        advice: what would fit, if this will probably not.
    """

    need: Need | None
    tile: int | None
    advice: str | None = None

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Turn an error of the block that says that memory ran out into one that says what would fit."""
        try:
            yield
        except Exception as error:
            if isinstance(error, OutOfMemory | Retry) or not memory.is_out_of_memory(error):
                raise
            advice = self.advice or "Lower size, or choose a smaller backbone."
            raise OutOfMemory(f"Out of memory. {advice}") from error


def fit_into_memory(config: DictConfig, backbone: Backbone, inputs: Inputs, pictures: int = 1) -> Fit:
    """Estimate what a batch will need, and choose the tile: as large as fits, if ``tile=auto`` and the whole does not.

    If nothing fits, there is a warning.

    Raises:
        UserError: ``tile`` is a number, and the network or a loss does not allow tiles.
    """
    device = inputs.content.device
    runtime.give_back_freed_memory()  # what an earlier run needed
    obstacle = engines.untileable(backbone, objective.losses_of(config, inputs))
    if config.tile not in ("auto", "none") and obstacle:
        raise UserError(f"tile={config.tile}: {obstacle}, so that it cannot be computed in tiles. Use tile=none.")
    tile = None if config.tile in ("auto", "none") else int(config.tile)
    need = of_images(estimate_memory(config, backbone, inputs, tile), pictures)
    free = memory.free_bytes(device)
    if need is not None and free is not None and need.further > free:
        forget()
        free = memory.free_bytes(device)
    if need is None or free is None or need.further <= free:
        return Fit(need, tile)
    if config.tile == "auto" and obstacle is None:
        for smaller in (side for side in TILES if side < max(inputs.content.shape[2:])):
            tiled = of_images(estimate_memory(config, backbone, inputs, smaller), pictures)
            if tiled is not None and tiled.further <= free:
                log.info(
                    "The whole picture at once would need about %s, and %s are free: it is computed in tiles of %d "
                    "pixels, with the same gradient",
                    *(memory.amount(need.further), memory.amount(free), smaller),
                )
                return Fit(tiled, smaller)
    elif config.tile == "auto":
        log.info("The picture is not computed in tiles: %s", obstacle)
    advice = estimate.advice(need, free, config.size, "fewer images at once" if pictures > 1 else "a smaller backbone")
    if advice:
        log.warning("%s", advice)
    return Fit(need, tile, advice)


def forget() -> None:
    """Give back the memory that is kept for runs to come."""
    objective.forget()
    network.forget()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def take_targets(
    configs: Sequence[DictConfig], backbone: Backbone, inputs: Sequence[Inputs]
) -> tuple[PictureLoss, Fit]:
    """Take the targets of one picture or of several that are computed as one batch; return their loss.

    Raises:
        Retry: the pictures cannot be put together.
        OutOfMemory: they do not fit.
    """
    fit = fit_into_memory(configs[0], backbone, inputs[0], len(configs))
    with fit.explained():
        return PictureLoss(configs, backbone, inputs, fit.tile), fit


def estimate_memory(config: DictConfig, backbone: Backbone, inputs: Inputs, tile: int | None = None) -> Need | None:
    """Estimate what a picture alone will need."""
    content = inputs.content
    masks = [mask if mask is None else mask.to("meta") for mask in inputs.masks]
    protected = inputs.protected if inputs.protected is None else inputs.protected.to("meta")

    def rehearsed(network: nn.Module, content: Tensor, *styles: Tensor) -> PictureLoss:
        shapes = Inputs(content, list(styles), masks=masks, protected=protected)
        return PictureLoss([config], cast(Backbone, network), [shapes], tile)

    return estimate.needed(
        rehearsed,
        backbone,
        content=(content.shape[2], content.shape[3]),
        styles=[(style.shape[2], style.shape[3]) for style in inputs.styles],
        optimizer=configuration.build(config.optimizer),
        steps=config.steps,
        shifts=max(config.jitter, 1) ** 2,
        dtype=content.dtype,
        device=content.device,
        targets_bytes=TARGETS_BYTES,
    )


def of_images(need: Need | None, number: int) -> Need | None:
    """Return what a batch of so many images will need, given what one does."""
    return need and Need(need.fixed + number * (need.total - need.fixed), need.fixed, need.held)
