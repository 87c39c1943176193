"""The optimiser's own pictures, made within a training: to compare a network with, or for it to learn from."""

import copy
import functools
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from nst import configuration, runtime
from nst.batching import grouping, together
from nst.errors import ConfigError, unknown
from nst.images.pixels import PixelSpace
from nst.networks.backbones import Backbone
from nst.optimization.loop import Outcome, optimize
from nst.optimization.state import CLAMPS, Callback, State, Step
from nst.setup.inputs import Inputs
from nst.setup.start import start
from nst.stylization.stylize import options_of, take_targets
from nst.tracking import Snapshot

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
    """What the optimiser made of contents of one size."""

    pictures: dict[str, Tensor]  # ``(1, 3, H, W)`` RGB, not clamped, on the CPU, by the content's name
    final: dict[str, dict[str, float]]  # the losses of each by tag, likewise
    seconds: float  # that it took, targets and all
    steps: int  # of the optimiser that were made
    reason: str  # why it stopped, in words


@dataclass
class _Watch(Callback):
    """Tells how many steps are done, and answers a signal between two."""

    stop: runtime.PoliteStop
    tell: Callable[[int], None]

    def step(self, step: Step) -> None:
        self.tell(step.index)

    def between(self, take_state: Callable[[], State] | None) -> None:
        self.stop.poll()


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
    several = len(contents) > 1
    stories = [
        functools.partial(
            _paint_one,
            _to_optimize(config, name),
            replace(inputs, content=content, shape=None),
            backbone,
            callback=_Watch(stop, watch if place == 0 else lambda step: None),
            take_targets=together.take_targets if several else take_targets,
        )
        for place, (name, content) in enumerate(contents.items())
    ]
    with runtime.seeded(config.seed):
        ended = together.run_together(stories) if several else [stories[0]()]
    for error in (end for end in ended if isinstance(end, BaseException)):
        raise error.__cause__ or error
    pictures = {name: picture for name, (picture, _) in zip(contents, ended, strict=True)}
    final = {name: Snapshot(outcome.last).losses for name, (_, outcome) in zip(contents, ended, strict=True)}
    last = ended[0][1]
    return Painted(pictures, final, time.perf_counter() - began, last.last.index, last.reason)


def _paint_one(
    config: DictConfig, inputs: Inputs, backbone: Backbone, callback: Callback, take_targets: Callable[..., Any]
) -> tuple[Tensor, Outcome]:
    """Paint a content; return the picture ``(1, 3, H, W)`` RGB on the CPU, and how the optimisation ended."""
    picture, space = start(config, inputs, backbone), PixelSpace(config.pixel_space, backbone.preprocessing)
    losses, fit = take_targets(config, backbone, inputs)
    with fit.explained():
        options, optimizer = options_of(config, space, picture, config.steps), configuration.build(config.optimizer)
        outcome = optimize(picture, losses, optimizer, options, callback)
    return inputs.canvas(space).decode(outcome.last.pixels).cpu(), outcome


def at_once(config: DictConfig) -> int:
    """Return how many contents to paint at once: ``training.painter.at_once``, or 1 if they would touch each other."""
    painter = config.training.painter
    alone = [grouping.has_line_search(painter.optimizer)]
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
            low, high = limits
            found.append(f"training.painter.{name}={value} is out of range: it must be from {low} to {high}.")
    if painter.get("clamp", "never") not in CLAMPS:
        found.append(unknown("training.painter.clamp", str(painter.get("clamp")), CLAMPS))
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
