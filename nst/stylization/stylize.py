"""The main story: one picture, from its images to its result. Read it from top to bottom."""

import contextlib
import logging
from collections.abc import Callable

import torch
from omegaconf import DictConfig
from torch import Tensor

from nst import configuration, runtime
from nst.images.pixels import PixelSpace
from nst.networks.backbones import Backbone
from nst.optimization import schedule
from nst.optimization.loop import optimize
from nst.optimization.state import Options, at_size
from nst.runs.session import Session
from nst.setup import fitting
from nst.setup.check import check
from nst.setup.fitting import MemoryPlan
from nst.setup.inputs import Inputs, load_images
from nst.setup.network import load_network
from nst.setup.objective import LossWithTargets
from nst.setup.start import detail, start
from nst.stylization.reporting import Reporter

log = logging.getLogger(__name__)
LARGE = 2048  # pixels from which on it takes a while until the first step


def take_targets(config: DictConfig, network: Backbone, images: Inputs) -> tuple[LossWithTargets, MemoryPlan]:
    """Take content and style targets; return the loss of a picture, and how it fits into the memory."""
    return fitting.take_targets([config], network, [images])


TakeTargets = Callable[[DictConfig, Backbone, Inputs], tuple[LossWithTargets, MemoryPlan]]


def stylize(session: Session, take_targets: TakeTargets = take_targets) -> None:
    """Optimise one picture as the session's configuration says, and leave it in the session's folder.

    Args:
        session: of the run.
        take_targets: returns the function to minimise.

    Raises:
        UserError: a mistake the user can mend.
        Interrupted: a signal came; the current picture has been saved as ``interrupted.png``.
    """
    config, scales = session.config, schedule.scales(session.config)
    check(config)
    saved = session.load_checkpoint()
    if scales[-1].size >= LARGE:
        log.info("Reading images of %d pixels and their targets; that takes a while ...", scales[-1].size)
    with session.computing() as device, contextlib.ExitStack() as begun:
        session.begin_record()
        images = load_images(schedule.at(config, -1), device)
        reporter = Reporter(session, images)
        network = load_network(config, device)
        session.record.note_weights(getattr(network, "source", None))
        tile = memory = None
        if len(scales) > 1:  # the largest scale decides for all
            memory = fitting.plan_memory(schedule.at(config, -1), network, images, session.batch_size)
            tile = str(memory.tile or "none")

        state, outcome, begin = saved.get("descent"), None, saved.get("begin", 0)
        for number in range(saved.get("scale", 0), len(scales)):
            is_last = number == len(scales) - 1
            config = schedule.at(session.config, number)
            config.tile = tile or config.tile
            inputs = images if is_last else load_images(config, device)
            space = PixelSpace(config.pixel_space, network.preprocessing)
            # of a further scale only the size counts here: its pixels come with the state, from the scale before
            picture = torch.empty_like(inputs.content) if number else start(config, inputs, network)
            options = options_of(config, space, picture, begin + scales[number].steps, is_last)
            is_first = outcome is None  # of this process: the first of the run, or that of the checkpoint
            if outcome is not None:
                size, carry = (picture.shape[2], picture.shape[3]), schedule.carries(session.config)
                state = at_size(outcome.state, size, options, carry, added=detail(config, inputs, network))
                del outcome  # and with it what L-BFGS remembers
            began_with = saved.get("start") if is_first and saved else state["pixels"] if state else picture
            inputs.start = None if began_with is None else space.decode(began_with.to(picture))
            with runtime.seeded(config.seed):  # so that losses that draw do not depend on where a run is carried on
                losses, plan = take_targets(config, network, inputs)
            reporter.at_scale(number, begin, inputs.canvas(space), began_with if losses.keeps_start else None)
            if is_first:
                reporter.begin(losses, memory or plan, space, picture)
                session.restore_random_state()
                begun.enter_context(session.holding_signals())
                begun.enter_context(reporter.keeping_what_there_is())
            else:
                log.info("Scale %d: %d x %d pixels, from step %d", number + 1, *picture.shape[:1:-1], begin)
            optimizer = configuration.build(config.optimizer)
            with session.optimising(), plan.explained():
                outcome = optimize(picture, losses, optimizer, options, callback=reporter, state=state)
            reporter.end_scale(outcome)
            begin = outcome.last.index
            del losses  # and with it the targets, of which the next scale has larger ones
        reporter.finish(outcome)  # saves the picture, scores and records it


def options_of(config: DictConfig, space: PixelSpace, picture: Tensor, end: int, is_last: bool = True) -> Options:
    """Return how a picture is optimised, as the configuration of a scale says, until a step."""
    black, white = space.bounds(picture)
    bounds = black, white
    if config.clamp_range is not None:
        low, high = (picture.new_full((1, 3, 1, 1), limit) for limit in config.clamp_range)
        bounds = low, high
    in_own_unit = config.optimizer_units == "pixels" or config.pixel_space == "unit"
    return Options(
        steps=end,
        log_every=config.log_every,
        clamp=config.clamp,
        bounds=bounds,
        clamp_until=config.clamp_until,
        jitter=config.jitter,
        seed=config.seed,
        average=config.average,
        lr_schedule=configuration.build(schedule.with_length(config.lr_schedule, config.steps)),
        clip_gradient=config.clip_gradient,
        stop_change=config.stop_change,
        unit=None if in_own_unit else white - black,
        parameterization=configuration.build(config.parameterization),
        is_last=is_last,
    )
