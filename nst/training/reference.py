"""The optimiser's own pictures, made within a training: to compare a network with, or for it to learn from."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from nst import configuration, runtime
from nst.batching import grouping
from nst.errors import ConfigError, unknown
from nst.networks.backbones import Backbone
from nst.optimization import state
from nst.setup.inputs import Inputs
from nst.setup.posing import memory_explained, pose_together, start
from nst.stylization import stylize
from nst.tracking import Numbers

log = logging.getLogger(__name__)
# Of ``training.painter``, with the range of those that are numbers.
SETTINGS: dict[str, tuple[int, int] | None] = {
    "optimizer": None,
    "steps": (1, 1_000_000),
    "clamp": None,
    "jitter": (0, 64),
    "margin": (0, 256),
    "at_once": (1, 1024),
}
# What a training has another use for, or none.
PLAIN: dict[str, Any] = {
    "init": {"_target_": "nst.optimization.initial.from_content", "_partial_": True},
    "lr_schedule": {"_target_": "nst.optimization.schedule.unchanged"},
}


@dataclass
class Painted:
    """What the optimiser made of contents of one size.

    Attributes:
        pictures: ``(1, 3, H, W)`` RGB, not clamped, on the CPU, by the content's name.
        final: the losses of each by tag, likewise.
        seconds: that it took, targets and all.
        steps: of the optimiser that were made.
        reason: why it stopped, in words.
    """

    pictures: dict[str, Tensor]
    final: dict[str, dict[str, float]]
    seconds: float
    steps: int
    reason: str


def paint(
    config: DictConfig,
    inputs: Inputs,
    contents: Mapping[str, Tensor],
    backbone: Backbone,
    stop: runtime.PoliteStop,
    watch: Callable[[int], None] = lambda step: None,
) -> Painted:
    """Paint contents by optimising their pixels, all of them at once, each as ``task=optimize`` would paint it.

    That is: with the losses, layers, weights, network, precision and seed of the training's configuration, and with
    optimiser, steps, clamp, jitter and margin of its node ``training.painter``; starting from the content.

    Args:
        config: of the training.
        inputs: whose styles to paint in, on the device.
        contents: ``(1, 3, H, W)`` RGB in [0, 1], all of one size, on the device, by names that are distinct.
        backbone: the frozen network.
        stop: a signal to stop is answered between two steps.
        watch: is told how many steps are done, after each.

    Raises:
        UserError: they do not fit into the memory, or a loss became NaN or infinite.
        Interrupted: a signal came.
    """
    began = time.perf_counter()
    configs = [_to_optimize(config, name) for name in contents]
    device = inputs.style.device
    works = [replace(inputs, content=content, shape=None) for content in contents.values()]

    def between(take_state: object) -> None:
        stop.poll()

    with runtime.seeded(config.seed):
        starts = [start(one, work, backbone) for one, work in zip(configs, works, strict=True)]
        problem = pose_together(configs, works, starts, backbone, device)
        with memory_explained(problem.need, max(starts[0].shape[2:]), device):
            outcome = stylize.descend(
                configs, problem, lambda step: watch(step.index), lambda index: index % config.log_every == 0, between
            )
    pixels, numbers = outcome.last.pixels.split(1), Numbers(outcome.last.losses)
    pictures = [canvas.decode(own).cpu() for canvas, own in zip(problem.canvases, pixels, strict=True)]
    return Painted(
        dict(zip(contents, pictures, strict=True)),
        dict(zip(contents, numbers.of_images, strict=True)),
        time.perf_counter() - began,
        outcome.last.index,
        outcome.reason,
    )


def at_once(config: DictConfig) -> int:
    """Return how many contents to paint at once: ``training.painter.at_once``, or 1 if they would touch each other."""
    painter = config.training.painter
    alone = [not grouping.treats_images_alone(painter)]
    alone += [config.backbone.get("_target_") != "nst.networks.backbones.load"]
    alone += [not grouping.is_per_image(configuration.build(config[f"{kind}_loss"])) for kind in ("content", "style")]
    return 1 if any(alone) else int(painter.at_once)


def settings(config: DictConfig) -> dict[str, Any]:
    """Return what the optimiser paints with, resolved, for the record."""
    found: Any = OmegaConf.to_container(config.training.painter, resolve=True)
    return dict(found)


def problems(painter: Any) -> list[str]:
    """Return what is wrong with the node ``training.painter``, one message each."""
    if not isinstance(painter, Mapping):
        return ["training.painter must say how the optimiser paints: optimizer, steps, clamp, jitter, margin, at_once."]
    found = [unknown("argument of training.painter", str(name), SETTINGS) for name in painter if name not in SETTINGS]
    found += [f"training.painter.{name} is missing." for name in SETTINGS if name not in painter]
    for name, limits in SETTINGS.items():
        value: Any = painter.get(name)
        if limits is None or name not in painter:
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            found.append(f"training.painter.{name}={value} is no whole number.")
        elif not limits[0] <= value <= limits[1]:
            found.append(
                f"training.painter.{name}={value} is out of range: it must be from {limits[0]} to {limits[1]}."
            )
    if painter.get("clamp", "never") not in state.CLAMPS:
        found.append(unknown("training.painter.clamp", str(painter.get("clamp")), state.CLAMPS))
    return found


def _to_optimize(config: DictConfig, content: str) -> DictConfig:
    """Return the configuration of a training as that of the optimisation of a content."""
    if wrong := problems(config.training.painter):
        raise ConfigError(wrong)
    one = copy.deepcopy(config)
    for name, value in {**PLAIN, **settings(config), "content": content}.items():
        if name != "at_once":
            one[name] = value
    if "task" in one:
        one.task = "optimize"
    return one
