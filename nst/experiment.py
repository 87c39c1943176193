"""The story of a run: load, extract, take targets, start image, optimise, save."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from nst import checkpoint, engines, images, launchers, memory, resume, runtime, sweep
from nst import config as configuration
from nst.backbones import Backbone
from nst.check import check
from nst.errors import UserError
from nst.evaluator import Evaluator
from nst.files import CannotWrite
from nst.losses import TotalVariation
from nst.objective import LayerTerm, Losses, Objective, Shift
from nst.optimize import Between, Diverged, Evaluate, Outcome, State, Step, Watch, optimize
from nst.pixels import PixelSpace, with_margin
from nst.record import Job, Record
from nst.tracking import Snapshot, Tracker
from nst.tracking.frames import Frames
from nst.tracking.metrics import MetricsFile
from nst.tracking.previews import Previews
from nst.tracking.progress import progress
from nst.tracking.tensorboard import TensorBoard

log = logging.getLogger(__name__)
TARGETS_BYTES = 2**29  # content targets of so many shifts are kept; beyond that they are taken anew


TILES = (2048, 1536, 1024, 768, 512, 384, 256, 128)  # sides that tile=auto tries


class OutOfMemory(UserError):
    """Memory ran out; the message says what would fit."""


@dataclass
class Problem:
    """What is to be optimised: two images, a network, and a start.

    Attributes:
        content: ``(1, 3, H, W)`` RGB in [0, 1].
        style: ``(1, 3, H', W')`` RGB in [0, 1].
        backbone: the frozen network.
        space: where the optimiser works.
        start: ``(1, 3, H, W)`` in that space.
        evaluate: losses of pixels that are rolled by a shift before the network sees them.
        shape: (width, height) to save at, if not the pixels' own: a squeezed picture gets its aspect ratio back.
        need: the memory it is estimated to need, if that can be told.
    """

    content: Tensor
    style: Tensor
    backbone: Backbone
    space: PixelSpace
    start: Tensor
    evaluate: Evaluate
    shape: tuple[int, int] | None
    need: memory.Need | None


def run(job: Job, stop: runtime.PoliteStop) -> Outcome:
    """Optimise one picture and leave ``result.png``, ``metrics.csv``, ``run.json`` and TensorBoard events.

    A checkpoint in the folder is carried on from; anything else that an earlier attempt left there is replaced.

    Raises:
        UserError: a mistake the user can mend.
        Interrupted: a signal came; the current picture has been saved as ``interrupted.png``.
    """
    config, began = job.config, time.perf_counter()
    check(config)
    before = resume.read(job.folder / "run.json")
    saved = checkpoint.load(job.folder) if "machine" in before else None  # a checkpoint of what, if not of a record?
    if saved and not _can_take_back(job.folder, saved):
        saved = None
    threads = config.threads or (before["machine"]["threads"] if saved else 0)
    with runtime.own_device(config.device) as device_name, runtime.threads(threads):
        device = runtime.prepare(device_name, config.precision)
        record = Record.carry_on(job, device, saved["step"]) if saved else Record.begin(job, device)
        evaluator = configuration.build(config.evaluator)
        problem = pose(config, device)
        record.note_weights(getattr(problem.backbone, "source", None))
        record.note(
            evaluator={"name": evaluator.name, **evaluator.settings} if evaluator else None,
            memory_estimate_bytes=problem.need.total if problem.need else None,
            size={"width": problem.content.shape[3], "height": problem.content.shape[2]},
        )
        return _optimise(job, stop, problem, evaluator, record, saved, began)


def _optimise(
    job: Job,
    stop: runtime.PoliteStop,
    problem: Problem,
    evaluator: Evaluator | None,
    record: Record,
    saved: dict[str, Any] | None,
    began: float,
) -> Outcome:
    """Descend from the start or a checkpoint, watched by the trackers; save, score and record the result."""
    config, device = job.config, problem.content.device
    log.info("%s", _headline(job, problem, saved))
    trackers = _trackers(job, problem, evaluator, saved)
    keeper = checkpoint.Checkpoints(job.folder, config.checkpoint_steps, config.checkpoint_seconds)
    earlier = saved["elapsed"] if saved else 0.0
    latest: list[Snapshot] = []

    def is_logged(index: int) -> bool:
        return index % config.log_every == 0

    def elapsed() -> float:
        return earlier + time.perf_counter() - began

    def watch(step: Step) -> None:
        snapshot = Snapshot(step, problem.space, is_logged(step.index) or step.last)
        latest[:] = [snapshot]
        for tracker in vars(trackers).values():
            tracker.step(snapshot)

    def between(take_state: Callable[[], State] | None) -> None:
        done = latest[0].step.index + 1 if latest else 0
        if take_state is not None and (stop.asked is not None or keeper.is_due(done)):
            keeper.save(
                done,
                {
                    "step": done,
                    "descent": take_state(),
                    "random": checkpoint.random_state(),
                    "trackers": {name: tracker.position() for name, tracker in vars(trackers).items()},
                    "elapsed": elapsed(),
                },
            )
        stop.poll()

    status, ready = "failed", time.perf_counter()
    stop.hold()
    try:
        if saved is not None:
            checkpoint.restore_random_state(saved["random"])
        with _memory_explained(problem.need, config.size, device), _checkpoint_only_of_health(job.folder):
            outcome = descend(config, problem, watch, is_logged, between, saved["descent"] if saved else None)
        peak = runtime.peak_memory_bytes(device)
        result = _save(job, problem, "result", latest[0].image)
        scores = _scores(evaluator, result, record.facts) if evaluator else None
        if scores:
            trackers.tensorboard.scores(scores, outcome.last.index)
        seconds = {"setup": ready - began, "optimisation": outcome.last.seconds, "total": elapsed()}
        record.note(scores=scores)
        record.note_result(outcome, latest[0].values, seconds, peak)
        for name in ("interrupted", "best"):  # what an earlier attempt left
            job.picture(name).unlink(missing_ok=True)
        status = "done"
    except runtime.Interrupted:
        status = "interrupted"
        if latest:
            path = _save(job, problem, "interrupted", latest[0].image)
            log.warning("Interrupted at step %d of %d; the picture is in %s", latest[0].step.index, config.steps, path)
        raise
    except Diverged as error:
        if error.best is not None:
            path = _save(job, problem, "best", problem.space.decode(error.best).cpu())
            log.warning("The best picture so far is in %s", path)
        raise
    finally:
        stop.release()
        for tracker in vars(trackers).values():
            tracker.close(status)
    log.info("%s in %.1f s: %s", outcome.reason, seconds["total"], result)
    return outcome


def pose(config: DictConfig, device: torch.device) -> Problem:
    """Load the images and the network, take the targets, and make the start image.

    Raises:
        UserError: an image or the weights cannot be had, or do not fit.
    """
    dtype = runtime.pixel_dtype(config.precision)
    content, style = (_load(config, name).to(device, dtype) for name in (config.content, config.style))
    shape = images.unsqueezed(config.content, config.size) if config.fit == "square" else None

    layers = list(
        dict.fromkeys([*configuration.layer_weights(config, "content"), *configuration.layer_weights(config, "style")])
    )
    backbone = configuration.build(config.backbone, layers=layers, pooling=config.pooling).to(device, dtype)
    space = PixelSpace(config.pixel_space, backbone.preprocessing)

    runtime.keep_freed_memory()

    dtype = runtime.network_dtype(config.precision, device)
    need, tile = _fit_into_memory(config, dtype, backbone, content, style)
    with _memory_explained(need, config.size, device):
        evaluate = assemble(config, dtype, tile, backbone, content, style)
        start = configuration.build(config.init)(content=content, style=style, space=space, seed=config.seed)
    return Problem(content, style, backbone, space, start, evaluate, shape, need)


def assemble(
    config: DictConfig,
    network_dtype: torch.dtype,
    tile: int | None,
    backbone: Backbone,
    content: Tensor,
    style: Tensor,
) -> Evaluate:
    """Take the targets of two images; return the losses of a picture as a function of its pixels and its shift.

    Args:
        config: names the losses, layers and weights.
        network_dtype: what the network computes in.
        tile: pixels of a tile's side at most, or None for the whole picture at once.
        backbone: the frozen network.
        content: ``(1, 3, H, W)`` RGB in [0, 1].
        style: ``(1, 3, H', W')`` RGB in [0, 1].
    """
    space = PixelSpace(config.pixel_space, backbone.preprocessing)
    engine = engines.make(config.engine, backbone, network_dtype, tile)

    def seen(pixels: Tensor, shift: Shift = (0, 0)) -> Tensor:
        framed = with_margin(pixels, config.margin)
        return space.to_network(framed.roll(shift, dims=(2, 3)) if shift != (0, 0) else framed)

    combine = config.layers.get("combine", "mean")
    content_weights, style_weights = (configuration.layer_weights(config, kind) for kind in ("content", "style"))
    content_term = LayerTerm("content", configuration.build(config.content_loss), content_weights, combine)
    style_term = LayerTerm("style", configuration.build(config.style_loss), style_weights, combine)

    @torch.no_grad()
    def take_content_targets(shift: Shift) -> dict[str, Any]:
        with runtime.seeded(config.seed):  # so that when it happens makes no difference to a loss that draws numbers
            return engine.targets(seen(space.encode(content), shift), content_term.wanted())

    kept = [value for value in take_content_targets((0, 0)).values() if isinstance(value, Tensor)]
    size = sum(value.numel() * value.element_size() for value in kept)
    content_targets = functools.lru_cache(max(1, TARGETS_BYTES // max(size, 1)))(take_content_targets)

    with torch.no_grad():
        style_targets = engine.targets(seen(space.encode(style)), style_term.wanted())
    variation = TotalVariation(config.tv_kind, config.tv_reduction)
    objective = Objective(content_term, style_term, variation, config.alpha, config.beta, config.tv)
    style_readings = style_term.readings(style_targets)

    def evaluate(pixels: Tensor, shift: Shift) -> Losses:
        readings = content_term.readings(content_targets(shift)) | style_readings
        return objective(engine.values(seen(pixels, shift), readings), pixels)

    return evaluate


def _fit_into_memory(
    config: DictConfig, network_dtype: torch.dtype, backbone: Backbone, content: Tensor, style: Tensor
) -> tuple[memory.Need | None, int | None]:
    """Estimate what the run will need, and choose the tile: as large as fits, if ``tile=auto`` and the whole does not.

    Returns:
        The need, if it can be told, and the tile, or None for the whole picture. If nothing fits, there is a warning.

    Raises:
        UserError: ``tile`` is a number, and the network or a loss does not allow tiles.
    """
    free = memory.free_bytes(content.device)

    def estimate(tile: int | None) -> memory.Need | None:
        return memory.estimate(
            functools.partial(assemble, config, network_dtype, tile),
            backbone,
            (content.shape[2], content.shape[3]),
            (style.shape[2], style.shape[3]),
            configuration.build(config.optimizer),
            config.steps,
            max(config.jitter, 1) ** 2,
            content.dtype,
            content.device,
            TARGETS_BYTES,
        )

    losses = [configuration.build(node) for node in (config.content_loss, config.style_loss)]
    obstacle = engines.untileable(backbone, losses)
    if config.tile not in ("auto", "none"):
        if obstacle:
            raise UserError(f"tile={config.tile}: {obstacle}, so that it cannot be computed in tiles. Use tile=none.")
        tile: int | None = int(config.tile)
    else:
        tile = None
    need = estimate(tile)
    if need is None or free is None or need.further <= free:
        return need, tile
    if config.tile == "auto" and obstacle is None:
        for smaller in (side for side in TILES if side < max(content.shape[2:])):
            tiled = estimate(smaller)
            if tiled is not None and tiled.further <= free:
                log.info(
                    "At once this picture would need about %s, and %s are free: it is computed in tiles of %d pixels, "
                    "with the same gradient",
                    memory.amount(need.further),
                    memory.amount(free),
                    smaller,
                )
                return tiled, smaller
    elif config.tile == "auto":
        log.info("The picture is not computed in tiles: %s", obstacle)
    if advice := memory.advice(need, free, config.size):
        log.warning("%s", advice)
    return need, tile


def descend(
    config: DictConfig,
    problem: Problem,
    watch: Watch,
    is_logged: Callable[[int], bool],
    between: Between = lambda take_state: None,
    state: State | None = None,
) -> Outcome:
    """Optimise a problem as the configuration says; see ``nst.optimize.optimize``."""
    return optimize(
        problem.start,
        problem.evaluate,
        configuration.build(config.optimizer),
        config.steps,
        watch,
        is_logged,
        problem.space.bounds(problem.start),
        config.clamp,
        config.jitter,
        config.seed,
        between,
        state,
    )


def _load(config: DictConfig, name: str) -> Tensor:
    return images.load(name, config.size, config.fit, config.resample, config.background)


@contextlib.contextmanager
def _memory_explained(need: memory.Need | None, size: int, device: torch.device) -> Iterator[None]:
    """Turn an error of the block that says that memory ran out into one that says what would fit."""
    free = memory.free_bytes(device)
    try:
        yield
    except Exception as error:
        if not memory.is_out_of_memory(error):
            raise
        fits = memory.advice(need, free, size) if need is not None and free is not None else None
        raise OutOfMemory(f"Out of memory. {fits or 'Lower size, or choose a smaller backbone.'}") from error


@contextlib.contextmanager
def _checkpoint_only_of_health(folder: Path) -> Iterator[None]:
    """Remove the checkpoint if the descent itself goes wrong, so that another attempt starts from its beginning.

    What goes wrong before (weights that have moved, an image) or around it (memory, a full disk) leaves it in place.
    """
    try:
        yield
    except Exception as error:
        if not (memory.is_out_of_memory(error) or isinstance(error, CannotWrite)):
            checkpoint.remove(folder)
        raise


@dataclass
class Trackers:
    """Everything that watches a run, by the names that a checkpoint knows."""

    metrics: MetricsFile
    tensorboard: TensorBoard
    frames: Frames
    previews: Previews
    progress: Tracker


def _trackers(job: Job, problem: Problem, evaluator: Evaluator | None, saved: dict[str, Any] | None) -> Trackers:
    """Make everything that watches the run, each where it stood at the checkpoint."""
    config, shape = job.config, problem.shape
    positions = saved["trackers"] if saved else {}
    board = TensorBoard(
        job.folder,
        config.steps,
        OmegaConf.to_yaml(config, resolve=True),
        _hparams(job),
        shape,
        evaluator.name if evaluator else None,
        positions.get("tensorboard"),
    )
    if saved is None:
        start = problem.space.decode(problem.start)
        for tag, picture in (("content", problem.content), ("style", problem.style), ("start", start)):
            board.picture(tag, picture)
    return Trackers(
        MetricsFile(job.folder / "metrics.csv", positions.get("metrics")),
        board,
        Frames(job.folder / "frames", config.save_every, shape),
        Previews(job.folder / "previews", config.steps, shape),
        progress(config.steps, saved["step"] if saved else 0, alone=not launchers.in_worker()),
    )


def _hparams(job: Job) -> dict[str, Any]:
    """Return what the HParams tab compares: what a sweep varies, else everyday knobs, groups and whatever was typed.

    The tab shows only five columns unasked, so that fewer are better.
    """
    if keys := resume.read(job.sweep / sweep.PLAN).get("swept") if job.sweep else None:
        found = {key: job.choices.get(key, OmegaConf.select(job.config, key, default=None)) for key in sorted(keys)}
        return {key: value for key, value in found.items() if value is not None}
    everyday = ("content", "style", "alpha", "beta", "tv", "steps", "size", "pooling", "seed")
    hparams = {name: job.config[name] for name in everyday}
    hparams |= {group: job.choices[group] for group in configuration.GROUPS if group in job.choices}
    for override in job.overrides:
        key = override.partition("=")[0].lstrip("+~")
        value = OmegaConf.select(job.config, key, default=None)
        if value is not None and key not in hparams and not OmegaConf.is_config(value):
            hparams[key] = value
    return hparams


def _headline(job: Job, problem: Problem, saved: dict[str, Any] | None) -> str:
    height, width = problem.content.shape[2:]
    begin = f", carried on from step {saved['step']}" if saved else ""
    names = (Path(str(name)).name for name in (job.config.content, job.config.style))
    chosen = ", ".join(job.choices[group] for group in ("backbone", "optimizer") if group in job.choices)
    return (
        f"{' in the manner of '.join(names)}: {width} x {height} pixels, {chosen}, "
        f"{job.config.steps} steps on {problem.content.device}{begin}"
    )


def _save(job: Job, problem: Problem, name: str, image: Tensor) -> Path:
    """Save the first picture of a batch."""
    path = job.picture(name)
    images.save(path, images.encode(image[:1], job.config.output_format, job.config.jpeg_quality, problem.shape))
    return path


def _can_take_back(folder: Path, saved: dict[str, Any]) -> bool:
    """Tell whether the files that the trackers go on with are as long as the checkpoint remembers, or longer."""
    positions = saved["trackers"]
    lengths = {"metrics.csv": positions["metrics"], **positions["tensorboard"]["files"]}
    short = [name for name, size in lengths.items() if not _is_as_long(folder / name, size)]
    if short:
        log.warning(
            "%s of %s is cut short or gone: the run starts again from its beginning.", " and ".join(short), folder
        )
    return not short


def _is_as_long(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size >= size


def _scores(evaluator: Evaluator, result: Path, facts: dict[str, Any]) -> dict[str, Any] | None:
    """Score a saved result; an input that has vanished meanwhile does not fail a run that is finished."""
    content, style = (Path(facts[kind]["file"]) for kind in ("content", "style"))
    try:
        return dict(evaluator.scores(result, content, style, background=facts["config"]["background"]))
    except UserError as error:
        log.warning("The result is not scored: %s", error)
        return None
