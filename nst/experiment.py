"""The story of a run: load, extract, take targets, start image, optimise, save."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from nst import checkpoint, engines, images, joblog, launchers, memory, resume, runtime, sweep
from nst import config as configuration
from nst.backbones import Backbone
from nst.check import check
from nst.engines import Reading
from nst.errors import UserError
from nst.evaluator import Evaluator
from nst.files import CannotWrite
from nst.losses import TotalVariation
from nst.objective import LayerTerm, Losses, Objective, Roll, Shift, together
from nst.optimize import Between, Diverged, Evaluate, Lost, Outcome, State, Step, Watch, join, optimize, split
from nst.pixels import PixelSpace, with_margin
from nst.record import Job, Record
from nst.tracking import Numbers, Snapshot, Tracker
from nst.tracking.frames import Frames
from nst.tracking.metrics import MetricsFile
from nst.tracking.previews import Previews
from nst.tracking.progress import ProgressLines, progress
from nst.tracking.tensorboard import TensorBoard

log = logging.getLogger(__name__)
TARGETS_BYTES = 2**29  # content targets of so many shifts are kept; beyond that they are taken anew


class OutOfMemory(UserError):
    """Memory ran out; the message says what would fit."""


class Apart(UserError):
    """The jobs of a batch cannot go on as one; what they are to do instead: run in smaller batches, or one by one."""


@dataclass
class Inputs:
    """What a job works on.

    Attributes:
        content: ``(1, 3, H, W)`` RGB in [0, 1].
        style: ``(1, 3, H', W')`` RGB in [0, 1].
        shape: (width, height) to save at, if not the pixels' own: a squeezed picture gets its aspect ratio back.
    """

    content: Tensor
    style: Tensor
    shape: tuple[int, int] | None


@dataclass
class Problem:
    """What is to be optimised: the images of one or several jobs, a network, and where they start.

    Attributes:
        inputs: of each job.
        backbone: the frozen network.
        space: where the optimiser works.
        start: ``(B, 3, H, W)`` in that space, an image for each job.
        evaluate: losses of pixels that are rolled by a shift before the network sees them.
        need: the memory it is estimated to need, if that can be told.
    """

    inputs: list[Inputs]
    backbone: Backbone
    space: PixelSpace
    start: Tensor
    evaluate: Evaluate
    need: memory.Need | None

    @property
    def content(self) -> Tensor:
        """The content image of the first job."""
        return self.inputs[0].content

    @property
    def style(self) -> Tensor:
        """The style image of the first job."""
        return self.inputs[0].style


Ended = Outcome | Exception


@dataclass
class Part:
    """One job's part in a batch: what it begins with, who watches it, how it ends.

    Attributes:
        job: the job.
        tell: is told at once how it ended.
        ended: how it did; None while it goes on.
        saved: its checkpoint, if it is carried on from one.
        since: seconds of optimisation that it has behind it beyond those of the batch.
        inputs: its images.
        start: ``(1, 3, H, W)``.
        record: its ``run.json``.
        trackers: its own.
        latest: what they have seen last.
    """

    job: Job
    tell: Callable[[Job, Ended], None]
    ended: Ended | None = None
    saved: dict[str, Any] | None = None
    since: float = 0.0
    inputs: Inputs = field(init=False)
    start: Tensor = field(init=False)
    record: Record = field(init=False)
    trackers: Trackers | None = None
    latest: Snapshot | None = None

    @contextlib.contextmanager
    def on_its_own(self, aloud: bool = True, descent: bool = False) -> Iterator[None]:
        """Let what goes wrong in the block, but for want of memory, end this job only; log to its log."""
        with joblog.speaking_for(self.job.folder, aloud):
            try:
                yield
            except Exception as error:
                if memory.is_out_of_memory(error):
                    raise
                if descent:
                    self.forget(error)
                self.end(error)

    def end(self, ended: Ended) -> None:
        """Take note of how the job ended."""
        self.ended = ended
        if isinstance(ended, Exception):
            with contextlib.suppress(UserError):  # the disk may be full; that has been told
                self.close("failed")
            self.latest = None  # which holds the pictures of all its neighbours
        self.tell(self.job, ended)

    def close(self, status: str) -> None:
        """Close whatever watches."""
        for tracker in vars(self.trackers).values() if self.trackers else ():
            tracker.close(status)

    def forget(self, error: Exception) -> None:
        """Remove the checkpoint after the descent went wrong, so that another attempt starts from its beginning.

        What goes wrong around it (memory, a full disk) leaves it in place.
        """
        if not (memory.is_out_of_memory(error) or isinstance(error, CannotWrite)):
            checkpoint.remove(self.job.folder)


def run(job: Job, stop: runtime.PoliteStop) -> Outcome:
    """Optimise one picture: ``run_together`` with a single job.

    Raises:
        UserError: a mistake the user can mend.
        Interrupted: a signal came; the current picture has been saved as ``interrupted.png``.
    """
    (ended,) = run_together([job], stop)
    if isinstance(ended, Exception):
        raise ended
    return ended


def run_together(
    jobs: Sequence[Job], stop: runtime.PoliteStop, tell: Callable[[Job, Ended], None] = lambda job, ended: None
) -> list[Ended]:
    """Optimise the pictures of several jobs as one batch; each leaves what it would leave alone.

    That is ``result.png``, ``metrics.csv``, ``run.json`` and TensorBoard events. A checkpoint in a job's folder is
    carried on from; anything else that an earlier attempt left there is replaced.

    Args:
        jobs: with the same configuration, but for what may differ inside a batch (see ``nst.batch``).
        stop: a signal to stop is answered between two steps.
        tell: is told how a job ended as soon as it has.

    Returns:
        How each job ended: its outcome, or what went wrong with it.

    Raises:
        Apart: the jobs are no batch after all.
        Interrupted: a signal came; the current pictures have been saved as ``interrupted.png``.
        Exception: whatever goes wrong for all of them.
    """
    common, began = jobs[0].config, time.perf_counter()
    parts = [Part(job, tell) for job in jobs]
    for part in parts:
        with part.on_its_own():
            check(part.job.config)
            part.saved = _to_carry_on_from(part.job)
    goers = _going(parts)
    if len({part.saved["step"] if part.saved else 0 for part in goers}) > 1:
        raise Apart("They stand at different steps.")
    threads = common.threads or next((recorded_threads(part.job) for part in goers if part.saved), 0)
    with runtime.own_device(common.device) as device_name, runtime.threads(threads):
        device = runtime.prepare(device_name, common.precision)
        for part in goers:
            with part.on_its_own():
                part.record = (
                    Record.carry_on(part.job, device, part.saved["step"])
                    if part.saved
                    else Record.begin(part.job, device)
                )
                part.inputs = load(part.job.config, device)
        evaluator = configuration.build(common.evaluator)
        if goers := _going(goers):
            backbone = build_network(common, device)
            for part in goers:
                with part.on_its_own():
                    part.record.note_weights(getattr(backbone, "source", None))
                    part.start = start(part.job.config, part.inputs, backbone)
        if goers := _going(goers):
            configs, inputs = [part.job.config for part in goers], [part.inputs for part in goers]
            problem = pose_together(configs, inputs, [part.start for part in goers], backbone, device)
            _optimise(goers, stop, problem, evaluator, began)
    return [part.ended for part in parts if part.ended is not None]


def recorded_threads(job: Job) -> int:
    """Return on how many threads a run was begun."""
    return int(resume.read(job.folder / "run.json")["machine"]["threads"])


def _going(parts: Sequence[Part]) -> list[Part]:
    return [part for part in parts if part.ended is None]


def _to_carry_on_from(job: Job) -> dict[str, Any] | None:
    """Return the checkpoint to carry on from, if there is one and the files that it goes with are there."""
    if "machine" not in resume.read(job.folder / "run.json"):
        return None  # a checkpoint of what, if not of a record?
    saved = checkpoint.load(job.folder)
    return saved if saved and _can_take_back(job.folder, saved) else None


class _NobodyLeft(Exception):
    """Every job of the batch has ended, none as it should."""


def _optimise(
    parts: list[Part], stop: runtime.PoliteStop, problem: Problem, evaluator: Evaluator | None, began: float
) -> None:
    """Descend from the start or the checkpoints, watched by the trackers; save, score and record the results."""
    config, device, alone = parts[0].job.config, problem.content.device, len(parts) == 1
    begin = parts[0].saved["step"] if parts[0].saved else 0
    states = [part.saved["descent"] for part in parts if part.saved]
    state = None if not states else states.pop() if alone else join(states)
    for index, part in enumerate(parts):
        with part.on_its_own():
            if not alone:
                names = [other.job.folder.name for other in parts]
                part.record.note(batch={"images": len(parts), "index": index, "jobs": names})
            part.record.note(
                evaluator={"name": evaluator.name, **evaluator.settings} if evaluator else None,
                memory_estimate_bytes=problem.need.total if problem.need else None,
                size={"width": problem.start.shape[3], "height": problem.start.shape[2]},
            )
            log.info("%s%s", "" if alone else f"{part.job.folder.name}: ", _headline(part, device))
            if part.saved and state is not None:
                own, joint = part.saved.pop("descent")["progress"], state["progress"]
                part.since = own["seconds"] - joint["seconds"]
            part.trackers = _trackers(part, problem.space, evaluator, alone)
    bar = None if alone else progress(config.steps, begin, alone=not launchers.in_worker())
    keeper = checkpoint.Checkpoints(config.checkpoint_steps, config.checkpoint_seconds)
    done = begin

    def is_logged(index: int) -> bool:
        return index % config.log_every == 0

    def elapsed(part: Part) -> float:
        return (part.saved["elapsed"] if part.saved else 0.0) + time.perf_counter() - began

    def watch(step: Step) -> None:
        nonlocal done
        done = step.index + 1
        logged, numbers = is_logged(step.index) or step.last, Numbers(step.losses)
        for index, part in enumerate(parts):
            if part.ended is None and part.trackers is not None:
                part.latest = Snapshot(step, problem.space, logged, index, numbers, part.since)
                with part.on_its_own(aloud=alone, descent=True):
                    for tracker in vars(part.trackers).values():
                        tracker.step(part.latest)
        if not (goers := _going(parts)):
            raise _NobodyLeft
        if bar is not None and goers[0].latest is not None:
            with joblog.speaking_for(joblog.CONSOLE_ONLY):
                bar.step(goers[0].latest)

    def between(take_state: Callable[[], State] | None) -> None:
        if take_state is not None and (stop.asked is not None or keeper.is_due(done)):
            with keeper.saving(done):
                save(take_state())
        stop.poll()

    def save(descent: State) -> None:
        for index, part in enumerate(parts):
            if part.ended is None:
                with part.on_its_own():
                    own = descent if alone else split(descent, index)
                    own["progress"]["seconds"] += part.since
                    content = {
                        "step": done,
                        "descent": own,
                        "random": checkpoint.random_state(),
                        "trackers": {name: tracker.position() for name, tracker in vars(part.trackers).items()},
                        "elapsed": elapsed(part),
                    }
                    checkpoint.save(part.job.folder, content)

    def lost(index: int, error: Diverged) -> None:
        part = parts[index]
        if part.ended is None:
            with part.on_its_own():
                part.forget(error)
                if error.best is not None:
                    path = _save(part, "best", problem.space.decode(error.best).cpu())
                    log.warning("The best picture so far is in %s", path)
                raise error

    ready = time.perf_counter()
    stop.hold()
    try:
        if not _going(parts):
            return
        if state is not None:
            checkpoint.restore_random_state(parts[0].saved["random"] if parts[0].saved else {})
        with _memory_explained(problem.need, config.size, device):
            outcome = descend([part.job.config for part in parts], problem, watch, is_logged, between, state, lost)
        peak = runtime.peak_memory_bytes(device)
        for index, part in enumerate(parts):
            if part.ended is None and part.latest is not None:
                with part.on_its_own():
                    last = replace(part.latest.step, losses=outcome.last.losses.of(index))
                    seconds = {"setup": ready - began, "optimisation": last.seconds}
                    _finish(
                        part, Outcome(last, outcome.reason), evaluator, seconds, functools.partial(elapsed, part), peak
                    )
    except runtime.Interrupted:
        for part in _going(parts):
            with part.on_its_own():
                if part.latest is not None:
                    path, at = _save(part, "interrupted", part.latest.image), part.latest.step.index
                    log.warning("Interrupted at step %d of %d; the picture is in %s", at, config.steps, path)
                part.close("interrupted")
        raise
    except _NobodyLeft:
        return
    except Diverged:
        return  # the last of them; each has been told of
    except Exception as error:
        for part in _going(parts):
            with contextlib.suppress(UserError):
                part.close("failed")
            if alone:
                part.forget(error)
        raise
    finally:
        stop.release()
        if bar is not None:
            bar.close("")


def _finish(
    part: Part,
    outcome: Outcome,
    evaluator: Evaluator | None,
    seconds: dict[str, float],
    elapsed: Callable[[], float],
    peak: int | None,
) -> None:
    """Save, score and record the result of a job."""
    assert part.latest is not None
    assert part.trackers is not None
    result = _save(part, "result", part.latest.image)
    scores = _scores(evaluator, result, part.record.facts) if evaluator else None
    if scores:
        part.trackers.tensorboard.scores(scores, outcome.last.index)
    seconds = seconds | {"total": elapsed()}
    part.record.note(scores=scores)
    part.record.note_result(outcome, part.latest.values, seconds, peak)
    for name in ("interrupted", "best"):  # what an earlier attempt left
        part.job.picture(name).unlink(missing_ok=True)
    part.close("done")
    log.info("%s in %.1f s: %s", outcome.reason, seconds["total"], result)
    part.end(outcome)


def pose(config: DictConfig, device: torch.device) -> Problem:
    """Load the images and the network of a single job, take the targets, and make the start image.

    Raises:
        UserError: an image or the weights cannot be had, or do not fit.
    """
    inputs, backbone = load(config, device), build_network(config, device)
    return pose_together([config], [inputs], [start(config, inputs, backbone)], backbone, device)


def load(config: DictConfig, device: torch.device) -> Inputs:
    """Load the images of a job.

    Raises:
        UserError: an image cannot be had.
    """
    dtype = runtime.pixel_dtype(config.precision)
    content, style = (
        images.load(name, config.size, config.fit, config.resample, config.background).to(device, dtype)
        for name in (config.content, config.style)
    )
    return Inputs(content, style, images.unsqueezed(config.content, config.size) if config.fit == "square" else None)


def build_network(config: DictConfig, device: torch.device) -> Backbone:
    """Make the network, with its weights, on the device.

    Raises:
        UserError: the weights cannot be had.
    """
    weights = (configuration.layer_weights(config, kind) for kind in ("content", "style"))
    layers = list(dict.fromkeys(layer for of_kind in weights for layer in of_kind))
    dtype = runtime.pixel_dtype(config.precision)
    backbone: Backbone = configuration.build(config.backbone, layers=layers, pooling=config.pooling)
    return backbone.to(device, dtype)


def start(config: DictConfig, inputs: Inputs, backbone: Backbone) -> Tensor:
    """Return the picture that a job starts from, ``(1, 3, H, W)`` in its pixel space."""
    space = PixelSpace(config.pixel_space, backbone.preprocessing)
    with runtime.seeded(config.seed):
        picture: Tensor = configuration.build(config.init)(
            content=inputs.content, style=inputs.style, space=space, seed=config.seed
        )
    return picture


def pose_together(
    configs: Sequence[DictConfig],
    inputs: list[Inputs],
    starts: list[Tensor],
    backbone: Backbone,
    device: torch.device,
) -> Problem:
    """Take the targets of one or several jobs that have their images and starts.

    Raises:
        Apart: the jobs cannot be put together.
        OutOfMemory: they do not fit.
    """
    config = configs[0]
    need = of_images(estimate_memory(config, backbone, inputs[0]), len(configs))
    free = memory.free_bytes(device)
    smaller = "fewer images at once" if len(configs) > 1 else "a smaller backbone"
    if need is not None and free is not None and (advice := memory.advice(need, free, config.size, smaller)):
        log.warning("%s", advice)
    with _memory_explained(need, config.size, device):
        dtype = runtime.network_dtype(config.precision, device)
        contents, styles = [one.content for one in inputs], [one.style for one in inputs]
        evaluate = assemble(configs, dtype, backbone, contents, styles)
        space = PixelSpace(config.pixel_space, backbone.preprocessing)
        return Problem(inputs, backbone, space, torch.cat(starts), evaluate, need)


def assemble(
    configs: Sequence[DictConfig],
    network_dtype: torch.dtype,
    backbone: Backbone,
    contents: Sequence[Tensor],
    styles: Sequence[Tensor],
) -> Evaluate:
    """Take the targets of images; return the losses of pictures as a function of their pixels and their shifts.

    Args:
        configs: of each job; they name the losses, layers and weights.
        network_dtype: what the network computes in.
        backbone: the frozen network.
        contents: of each job, ``(1, 3, H, W)`` RGB in [0, 1]; all of one size.
        styles: of each job, ``(1, 3, H', W')`` RGB in [0, 1].

    Raises:
        Apart: a loss keeps something of an image that cannot be put into a batch.
    """
    config = configs[0]
    space = PixelSpace(config.pixel_space, backbone.preprocessing)
    engine = engines.make(config.engine, backbone, network_dtype)

    def seen(pixels: Tensor, shift: Roll = (0, 0)) -> Tensor:
        return space.to_network(_rolled(with_margin(pixels, config.margin), shift))

    content_term, style_term = (_term(configs, kind, contents[0]) for kind in ("content", "style"))

    @torch.no_grad()
    def take(image: Tensor, term: LayerTerm, shift: Shift = (0, 0)) -> dict[str, Any]:
        """Take targets in a batch as large as the pictures', or kernels might round otherwise and 0 would not be 0."""
        copies = space.encode(image).expand(len(configs), -1, -1, -1).contiguous()
        return _of_one(engine.targets(seen(copies, shift), term.wanted()), len(configs))

    def take_content_targets(job: int, shift: Shift) -> dict[str, Any]:
        with runtime.seeded(configs[job].seed):  # so that when it happens makes no difference to a loss that draws
            return take(contents[job], content_term, shift)

    kept = [value for value in take_content_targets(0, (0, 0)).values() if isinstance(value, Tensor)]
    size = sum(value.numel() * value.element_size() for value in kept)
    content_targets = functools.lru_cache(max(1, TARGETS_BYTES // max(size, 1)))(take_content_targets)
    first_of_content = _first_of_each([config.content for config in configs])

    @functools.lru_cache(1)
    def content_readings(shift: Roll) -> dict[str, Reading]:
        shifts = _of_each(shift, len(configs))
        return content_term.readings(
            _joined([content_targets(*one) for one in zip(first_of_content, shifts, strict=True)])
        )

    @functools.cache
    def style_targets(job: int) -> dict[str, Any]:
        return take(styles[job], style_term)

    first_of_style = _first_of_each([config.style for config in configs])
    style_readings = style_term.readings(_joined([style_targets(job) for job in first_of_style]))
    variation = TotalVariation(config.tv_kind, config.tv_reduction)
    alpha, beta, tv = (together([c[name] for c in configs], contents[0]) for name in ("alpha", "beta", "tv"))
    objective = Objective(content_term, style_term, variation, alpha, beta, tv)

    def evaluate(pixels: Tensor, shift: Roll) -> Losses:
        return objective(engine.values(seen(pixels, shift), content_readings(shift) | style_readings), pixels)

    return evaluate


def estimate_memory(config: DictConfig, backbone: Backbone, inputs: Inputs) -> memory.Need | None:
    """Estimate what a job alone will need."""
    content, style = inputs.content, inputs.style
    network_dtype = runtime.network_dtype(config.precision, content.device)
    return memory.estimate(
        lambda network, content, style: assemble([config], network_dtype, cast(Backbone, network), [content], [style]),
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


def of_images(need: memory.Need | None, number: int) -> memory.Need | None:
    """Return what a batch of so many images will need, given what one does."""
    return need and memory.Need(need.fixed + number * (need.total - need.fixed), need.fixed, need.held)


def _term(configs: Sequence[DictConfig], kind: str, like: Tensor) -> LayerTerm:
    config = configs[0]
    loss, combine = configuration.build(config[f"{kind}_loss"]), config.layers.get("combine", "mean")
    weights = [configuration.layer_weights(config, kind) for config in configs]
    return LayerTerm.of_batch(kind, loss, weights, combine, like)


def _first_of_each(names: Sequence[str]) -> list[int]:
    """Return, for each name, where it stands first, so that images of one name are seen by the network once."""
    return [names.index(name) for name in names]


def _of_each(shift: Roll, images: int) -> tuple[Shift, ...]:
    """Return the shift of each image."""
    return shift if isinstance(shift[0], tuple) else (shift,) * images


def _rolled(pixels: Tensor, shift: Roll) -> Tensor:
    """Roll the images ``(B, 3, H, W)`` of a batch, all by the same shift or each by its own."""
    if shift == (0, 0):
        return pixels
    if isinstance(shift[0], int):
        return pixels.roll(shift, dims=(2, 3))
    rolled = (image.roll(own, dims=(2, 3)) for image, own in zip(pixels.split(1), shift, strict=True))
    return torch.cat(list(rolled))


def _of_one(targets: dict[str, Any], copies: int) -> dict[str, Any]:
    """Return the targets of one image, given those of a batch of so many copies.

    Raises:
        Apart: a target has no row for each image.
    """
    for tag, target in targets.items() if copies > 1 else ():
        if not isinstance(target, Tensor) or target.shape[:1] != (copies,):
            raise Apart(f"What the loss of {tag} keeps of an image is no tensor with a row for each image.")
    return {tag: target[:1].clone() for tag, target in targets.items()} if copies > 1 else targets


def _joined(targets: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the targets of a batch: its images' one after the other, or the one that they share."""
    first = targets[0]
    if all(other is first for other in targets):
        return first
    return {tag: torch.cat([other[tag] for other in targets]) for tag in first}


def descend(
    configs: DictConfig | Sequence[DictConfig],
    problem: Problem,
    watch: Watch,
    is_logged: Callable[[int], bool],
    between: Between = lambda take_state: None,
    state: State | None = None,
    lost: Lost | None = None,
) -> Outcome:
    """Optimise a problem as the configuration of its job, or of each of its jobs, says; see ``optimize``."""
    configs = [configs] if isinstance(configs, DictConfig) else configs
    config = configs[0]
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
        [config.seed for config in configs],
        between,
        state,
        lost,
    )


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


@dataclass
class Trackers:
    """Everything that watches a run, by the names that a checkpoint knows."""

    metrics: MetricsFile
    tensorboard: TensorBoard
    frames: Frames
    previews: Previews
    progress: Tracker


def _trackers(part: Part, space: PixelSpace, evaluator: Evaluator | None, alone: bool) -> Trackers:
    """Make everything that watches a job, each where it stood at the checkpoint."""
    job, inputs, config, shape = part.job, part.inputs, part.job.config, part.inputs.shape
    positions = part.saved["trackers"] if part.saved else {}
    begin = part.saved["step"] if part.saved else 0
    board = TensorBoard(
        job.folder,
        config.steps,
        OmegaConf.to_yaml(config, resolve=True),
        _hparams(job),
        shape,
        evaluator.name if evaluator else None,
        positions.get("tensorboard"),
    )
    if part.saved is None:
        for tag, picture in (("content", inputs.content), ("style", inputs.style), ("start", space.decode(part.start))):
            board.picture(tag, picture)
    return Trackers(
        MetricsFile(job.folder / "metrics.csv", positions.get("metrics")),
        board,
        Frames(job.folder / "frames", config.save_every, shape),
        Previews(job.folder / "previews", config.steps, shape),
        progress(config.steps, begin, alone=not launchers.in_worker()) if alone else ProgressLines(config.steps, begin),
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


def _headline(part: Part, device: torch.device) -> str:
    job = part.job
    height, width = part.start.shape[2:]
    begin = f", carried on from step {part.saved['step']}" if part.saved else ""
    names = (Path(str(name)).name for name in (job.config.content, job.config.style))
    chosen = ", ".join(job.choices[group] for group in ("backbone", "optimizer") if group in job.choices)
    return (
        f"{' in the manner of '.join(names)}: {width} x {height} pixels, {chosen}, "
        f"{job.config.steps} steps on {device}{begin}"
    )


def _save(part: Part, name: str, image: Tensor) -> Path:
    """Save a picture ``(1, 3, H, W)`` of a job."""
    path, config = part.job.picture(name), part.job.config
    images.save(path, images.encode(image, config.output_format, config.jpeg_quality, part.inputs.shape))
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
