"""What a run optimises, without the run; and runs in this process, without Hydra around them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from command_line import ROOT, sketch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import Tensor

from nst import configuration, runtime
from nst.images.canvas import Canvas
from nst.images.pixels import PixelSpace
from nst.losses.objective import Losses, Roll
from nst.networks.backbones import Backbone
from nst.optimization.loop import Outcome, optimize
from nst.optimization.state import Callback, Step
from nst.runs.record import Job
from nst.runs.session import Session
from nst.setup import fitting
from nst.setup.fitting import MemoryPlan
from nst.setup.inputs import Inputs, load_images
from nst.setup.network import load_network
from nst.setup.objective import PictureLoss
from nst.setup.start import start
from nst.stylization.stylize import options_of, stylize

CONF = ROOT / "conf"
CPU = torch.device("cpu")


def composed(*overrides: str) -> DictConfig:
    """Compose what is typed; of the small experiment unless it names another."""
    configuration.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("config", sketch(*overrides))


@dataclass
class Problem:
    """What a run of one scale optimises, ready to go."""

    config: DictConfig
    inputs: Inputs
    backbone: Backbone
    space: PixelSpace
    start: Tensor
    losses: PictureLoss
    fit: MemoryPlan

    @property
    def canvas(self) -> Canvas:
        return self.inputs.canvas(self.space)

    @property
    def engine(self) -> str:
        return self.losses.describe()

    def evaluate(self, pixels: Tensor | None = None, shift: Roll = (0, 0), step: int = 0) -> Losses:
        """Return the losses of pixels, or of the start."""
        return self.losses(self.start if pixels is None else pixels, shift, step)

    def gradient(self, pixels: Tensor, shift: Roll = (0, 0)) -> Tensor:
        pixels = pixels.detach().requires_grad_(True)
        return torch.autograd.grad(self.evaluate(pixels, shift).total.sum(), pixels)[0]

    def optimize(self, callback: Callback | None = None, picture: Tensor | None = None, **changes: Any) -> Outcome:
        """Optimise the start, or another picture, as the configuration says but for what changes in its options."""
        options = replace(options_of(self.config, self.space, self.start, self.config.steps), **changes)
        optimizer = configuration.build(self.config.optimizer)
        return optimize(self.start if picture is None else picture, self.losses, optimizer, options, callback)


class Steps(Callback):
    """Keeps every step that it is handed."""

    def __init__(self) -> None:
        self.seen: list[Step] = []

    def step(self, step: Step) -> None:
        self.seen.append(step)


def pose(config: DictConfig, device: torch.device = CPU) -> Problem:
    """Load images and network, take the targets, and make the start, as a run of one scale does."""
    inputs, backbone = load_images(config, device), load_network(config, device)
    losses, fit = fitting.take_targets([config], backbone, [inputs])
    return Problem(config, inputs, backbone, losses.space, start(config, inputs, backbone), losses, fit)


def posed(*overrides: str) -> Problem:
    return pose(composed(*overrides))


def job(folder: Path, *overrides: str) -> Job:
    folder.mkdir(parents=True, exist_ok=True)
    return Job(composed(*overrides), folder, {}, list(overrides))


def run_here(job: Job, story: Callable[[Session], object] = stylize, stop: runtime.PoliteStop | None = None) -> Session:
    """Tell a job's story in this process, and return its session; what goes wrong is raised."""
    session = Session(job, stop or runtime.PoliteStop())
    with runtime.seeded(job.config.seed):
        story(session)
    return session


def stylized(folder: Path, *overrides: str, stop: runtime.PoliteStop | None = None) -> Session:
    """Optimise a picture in this process, and return its session; what goes wrong is raised."""
    return run_here(job(folder, *overrides), stop=stop)
