"""The story of a run: load, extract, take targets, start image, optimise, save."""

from __future__ import annotations

import contextlib
import csv
import functools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from nst import configuration, runtime
from nst.errors import UserError
from nst.evaluation.evaluator import Evaluator
from nst.files import CannotWrite
from nst.images import rgb
from nst.images.canvas import Canvas
from nst.images.pixels import PixelSpace
from nst.networks.backbones import Backbone
from nst.optimization import schedule
from nst.optimization.loop import Outcome, optimize
from nst.optimization.state import Between, Bounds, Box, Diverged, Lost, State, Step, Watch, at_size, join, split
from nst.runs import checkpoint, launchers, logs, resume
from nst.runs.record import Job, Record
from nst.runtime import memory
from nst.setup.check import check
from nst.setup.inputs import Inputs, load
from nst.setup.posing import (
    Apart,
    Problem,
    build_look,
    build_network,
    fit_into_memory,
    memory_explained,
    pose_together,
    start,
)
from nst.tracking import Numbers, Snapshot, Tracker, watchers
from nst.tracking.frames import Frames
from nst.tracking.inside import Inside
from nst.tracking.metrics import MetricsFile
from nst.tracking.previews import Previews
from nst.tracking.progress import progress
from nst.tracking.tensorboard import TensorBoard

log = logging.getLogger(__name__)


Ended = Outcome | Exception
LARGE = 2048  # pixels from which on it takes a while until the first step
MOVED = 1e-3  # share of the loss by which a descent has moved it at least
BOUNDED = ("Adam", "AdamW", "Adamax", "NAdam", "RAdam", "KerasAdam")  # whose steps are not longer than their rate


@dataclass
class Part:
    """One job's part in a batch: what it begins with, who watches it, how it ends.

    Attributes:
        job: the job.
        tell: is told at once how it ended.
        ended: how it did; None while it goes on.
        saved: its checkpoint, if it is carried on from one.
        since: seconds of optimisation that it has behind it beyond those of the batch.
        final: its images at the size of the last scale.
        inputs: its images at the size of the scale at hand.
        start: ``(1, 3, H, W)``, at that size; of a scale that begins with the result of another only the shape counts.
        record: its ``run.json``.
        trackers: its own.
        latest: what they have seen last.
    """

    job: Job
    tell: Callable[[Job, Ended], None]
    ended: Ended | None = None
    saved: dict[str, Any] | None = None
    since: float = 0.0
    final: Inputs = field(init=False)
    inputs: Inputs = field(init=False)
    start: Tensor = field(init=False)
    record: Record = field(init=False)
    trackers: Trackers | None = None
    latest: Snapshot | None = None

    @contextlib.contextmanager
    def on_its_own(self, aloud: bool = True, descent: bool = False) -> Iterator[None]:
        """Let what goes wrong in the block, but for want of memory, end this job only; log to its log."""
        with logs.speaking_for(self.job.folder, aloud):
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
            part.saved = checkpoint.to_carry_on_from(part.job.folder)
    goers = _going(parts)
    if len({part.saved["step"] if part.saved else 0 for part in goers}) > 1:
        raise Apart("They stand at different steps.")
    if (side := schedule.scales(common)[-1].size) >= LARGE:
        log.info("Reading images of %d pixels and their targets; that takes a while ...", side)
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
                part.final = load(schedule.at(part.job.config, -1), device)
        evaluator = configuration.build(common.evaluator)
        if goers := _going(goers):
            backbone = build_network(common, device)
            for part in goers:
                with part.on_its_own():
                    part.record.note_weights(getattr(backbone, "source", None))
        if goers := _going(goers):
            _optimise(goers, stop, backbone, evaluator, began)
    return [part.ended for part in parts if part.ended is not None]


@dataclass
class _Scale:
    """A scale of a run, posed.

    Attributes:
        number: from 0.
        begin: the index of its first step.
        parts: the jobs that descend together.
        configs: theirs, for this scale.
        problem: what they descend on.
    """

    number: int
    begin: int
    parts: list[Part]
    configs: list[DictConfig]
    problem: Problem


def _pose(parts: Sequence[Part], backbone: Backbone, number: int, begin: int, tile: str) -> _Scale | None:
    """Load the images of a scale, take the targets, and make the start of the first one; None if no job is left."""
    device, is_last = parts[0].final.content.device, number == len(schedule.scales(parts[0].job.config)) - 1
    for part in parts:
        with part.on_its_own():
            config = schedule.at(part.job.config, number)
            part.inputs = part.final if is_last else load(config, device)
            part.start = part.inputs.content if number else start(config, part.inputs, backbone)
    if not (goers := _going(parts)):
        return None
    configs = [schedule.at(part.job.config, number) for part in goers]
    for config in configs:
        config.tile = tile
    starts, inputs = [part.start for part in goers], [part.inputs for part in goers]
    # a run that is carried on with poses this scale first: a loss that draws must draw the same then
    with runtime.seeded(configs[0].seed) if number else contextlib.nullcontext():
        problem = pose_together(configs, inputs, starts, backbone, device)
    return _Scale(number, begin, goers, configs, problem)


def recorded_threads(job: Job) -> int:
    """Return on how many threads a run was begun."""
    return int(resume.read(job.folder / "run.json")["machine"]["threads"])


def _going(parts: Sequence[Part]) -> list[Part]:
    return [part for part in parts if part.ended is None]


class _NobodyLeft(Exception):
    """Every job of the batch has ended, none as it should."""


def _optimise(
    parts: list[Part], stop: runtime.PoliteStop, backbone: Backbone, evaluator: Evaluator | None, began: float
) -> None:
    """Descend from the start or the checkpoints, from scale to scale, watched by the trackers; save, score and record
    the results."""
    config, device = parts[0].job.config, parts[0].final.content.device
    plan, steps = schedule.scales(config), schedule.total_steps(config)
    first = parts[0].saved or {}
    begin, tile, need = first.get("step", 0), config.tile, None
    if len(plan) > 1:  # the largest scale decides, for all of them, and before the first
        largest = schedule.at(config, -1)
        need, side = fit_into_memory(largest, backbone, parts[0].final, len(parts))
        tile = str(side or "none")
    posed = _pose(parts, backbone, first.get("scale", 0), first.get("begin", 0), tile)
    if posed is None:
        return
    scale, parts, alone = posed, posed.parts, len(posed.parts) == 1
    states = [part.saved["descent"] for part in parts if part.saved]
    state = None if not states else states.pop() if alone else join(states)
    need = need or scale.problem.need
    for index, part in enumerate(parts):
        with part.on_its_own():
            if not alone:
                names = [other.job.folder.name for other in parts]
                part.record.note(batch={"images": len(parts), "index": index, "jobs": names})
            height, width = part.final.content.shape[2:]
            width, height = part.final.shape or (width, height)  # a squeezed picture is saved at its own shape
            part.record.note(
                evaluator={"name": evaluator.name, **evaluator.settings} if evaluator else None,
                memory_estimate_bytes=need.total if need else None,
                size={"width": width, "height": height},
            )
            if len(plan) > 1 and "scales" not in part.record.facts:
                part.record.note(scales=[vars(one) for one in plan])
            problem = scale.problem
            part.record.note_computation(precision=problem.precision, engine=problem.engine, tile=problem.tile)
            log.info("%s%s", "" if alone else f"{part.job.folder.name}: ", _headline(part, problem, device))
            if (warning := _rate_too_low(part.job.config, problem.space, problem.start)) and not part.saved:
                log.warning("%s", warning)
            if part.saved and state is not None:
                own, joint = part.saved.pop("descent")["progress"], state["progress"]
                part.since = own["seconds"] - joint["seconds"]
            part.trackers = _trackers(part, scale.problem.canvases[index], evaluator, alone)
    bar = None if alone else progress(steps, begin, alone=not launchers.in_worker())
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
        for index, part in enumerate(scale.parts):
            if part.ended is None and part.trackers is not None:
                canvas = scale.problem.canvases[index]
                part.latest = Snapshot(step, canvas, logged, index, numbers, part.since)
                with part.on_its_own(aloud=alone, descent=True):
                    for tracker in vars(part.trackers).values():
                        tracker.step(part.latest)
        if not (goers := _going(parts)):
            raise _NobodyLeft
        if bar is not None and goers[0].latest is not None:
            with logs.speaking_for(logs.CONSOLE_ONLY):
                bar.step(goers[0].latest)

    def between(take_state: Callable[[], State] | None) -> None:
        if take_state is not None and (stop.asked is not None or keeper.is_due(done)):
            with keeper.saving(done):
                save(take_state())
        stop.poll()

    def save(descent: State) -> None:
        for index, part in enumerate(scale.parts):
            if part.ended is None:
                with part.on_its_own():
                    own = descent if alone else split(descent, index)
                    own["progress"]["seconds"] += part.since
                    content = {
                        "step": done,
                        "scale": scale.number,
                        "begin": scale.begin,
                        "descent": own,
                        "random": checkpoint.random_state(),
                        "trackers": {name: tracker.position() for name, tracker in vars(part.trackers).items()},
                        "elapsed": elapsed(part),
                    }
                    checkpoint.save(part.job.folder, content)

    def lost(index: int, error: Diverged) -> None:
        part = scale.parts[index]
        if part.ended is None:
            with part.on_its_own():
                part.forget(error)
                if error.best is not None:
                    path = _save(part, "best", scale.problem.canvases[index].decode(error.best).cpu())
                    log.warning("The best picture so far is in %s", path)
                raise error

    ready = time.perf_counter()
    stop.hold()
    try:
        if not _going(parts):
            return
        if state is not None:
            checkpoint.restore_random_state(parts[0].saved["random"] if parts[0].saved else {})
        while True:
            with memory_explained(scale.problem.need, plan[scale.number].size, device):
                is_last = scale.number == len(plan) - 1
                outcome = descend(
                    scale.configs,
                    scale.problem,
                    watch,
                    is_logged,
                    between,
                    state,
                    lost,
                    scale.begin + plan[scale.number].steps,
                    more=not is_last,
                )
            if len(plan) > 1:
                _note_scale(scale, outcome)
            if is_last:
                break
            following = _next(scale, outcome, backbone, tile)
            del outcome  # and with it what L-BFGS remembers
            if following is None:
                raise _NobodyLeft
            scale, state = following
        peak = runtime.peak_memory_bytes(device)
        for index, part in enumerate(scale.parts):
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
                    log.warning("Interrupted at step %d of %d; the picture is in %s", at, steps, path)
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


def _note_scale(scale: _Scale, outcome: Outcome) -> None:
    """Record how a scale ended."""
    numbers = Numbers(outcome.last.losses)
    for index, part in enumerate(scale.parts):
        if part.ended is None:
            with part.on_its_own():
                height, width = part.start.shape[2:]
                how: dict[str, Any] = {
                    "steps": outcome.last.index - scale.begin,
                    "evaluations": outcome.last.evaluations,
                }
                how |= {"width": width, "height": height, "stopped_because": outcome.reason}
                how |= {"seconds": round(outcome.last.seconds + part.since, 3), "final": numbers.of_images[index]}
                scales = [*part.record.facts["scales"]]
                scales[scale.number] = scales[scale.number] | how
                part.record.note(scales=scales)


def _next(scale: _Scale, outcome: Outcome, backbone: Backbone, tile: str) -> tuple[_Scale, State] | None:
    """Pose the next scale for the jobs that are left, and return it with the state that it begins with."""
    number, begin, config = scale.number + 1, outcome.last.index, scale.configs[0]
    several, indices = len(scale.parts) > 1, {id(part): index for index, part in enumerate(scale.parts)}
    parts = _going(scale.parts)
    del scale.problem  # and with it the targets, of which the next has larger ones
    following = _pose(parts, backbone, number, begin, tile)
    if following is None:
        return None
    left = [indices[id(part)] for part in following.parts]
    state = join([split(outcome.state, index) for index in left]) if several else outcome.state
    height, width = following.problem.start.shape[2:]
    log.info("Scale %d: %d x %d pixels, from step %d", number + 1, width, height, begin)
    box = Box(config.clamp, _bounds(config, following.problem), config.clamp_until)
    return following, at_size(state, (height, width), box, schedule.carries(config))


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
    scores = watchers.scores(evaluator, result, part.record.facts) if evaluator else None
    if scores:
        part.trackers.tensorboard.scores(scores, outcome.last.index)
    seconds = seconds | {"total": elapsed()}
    part.record.note(scores=scores)
    part.record.note_result(outcome, part.latest.values, seconds, peak)
    for name in ("interrupted", "best"):  # what an earlier attempt left
        part.job.picture(name).unlink(missing_ok=True)
    part.close("done")
    if warning := _has_hardly_moved(part.job.folder / "metrics.csv"):
        log.warning("%s", warning)
    log.info("%s in %.1f s: %s", outcome.reason, seconds["total"], result)
    if part.job.sweep is None:
        log.info("Go on from this picture: init=file init.path=%s", result)
    part.end(outcome)


def descend(
    configs: DictConfig | Sequence[DictConfig],
    problem: Problem,
    watch: Watch,
    is_logged: Callable[[int], bool],
    between: Between = lambda take_state: None,
    state: State | None = None,
    lost: Lost | None = None,
    end: int | None = None,
    more: bool = False,
) -> Outcome:
    """Optimise a problem as the configuration of its job, or of each of its jobs, says; see ``optimize``.

    Args:
        configs: of the jobs, for one scale.
        problem: of this scale.
        watch: see ``optimize``, as for what follows.
        is_logged: see there.
        between: see there.
        state: see there.
        lost: see there.
        end: index of the step to end at; None: ``steps`` of the configuration.
        more: another scale follows.
    """
    configs = [configs] if isinstance(configs, DictConfig) else configs
    config = configs[0]
    return optimize(
        problem.start,
        problem.evaluate,
        configuration.build(config.optimizer),
        config.steps if end is None else end,
        watch,
        is_logged,
        _bounds(config, problem),
        config.clamp,
        config.jitter,
        [config.seed for config in configs],
        between,
        state,
        lost,
        problem.begin_step,
        config.clamp_until,
        config.average,
        configuration.build(schedule.with_length(config.lr_schedule, config.steps)),
        config.clip_gradient,
        config.stop_change,
        more,
        _unit(config, problem),
    )


def _unit(config: DictConfig, problem: Problem) -> Tensor | None:
    """Return what the optimiser counts pixels in, ``(1, 3, 1, 1)``; None where that is the pixels' own unit."""
    if config.optimizer_units == "pixels" or config.pixel_space == "unit":
        return None
    black, white = problem.space.bounds(problem.start)
    return white - black


def _rate_too_low(config: DictConfig, space: PixelSpace, like: Tensor) -> str | None:
    """Return what to tell of a rate at which no pixel gets from black to white, or None.

    A step of Adam and its relatives moves a pixel by about the learning rate at most.
    """
    rate, steps = config.optimizer.get("lr"), schedule.total_steps(config)
    if str(config.optimizer.get("_target_")).rpartition(".")[2] not in BOUNDED or not isinstance(rate, int | float):
        return None
    black, white = space.bounds(like)
    reach = 1.0 if config.optimizer_units == "range" else float((white - black).abs().min())
    if rate * steps >= reach:
        return None
    return (
        f"optimizer.lr={rate:g} moves a pixel by {rate * steps / reach:.2g} of the range from black to white at most "
        f"in {steps} steps: raise optimizer.lr or steps, or the picture stays close to its start."
    )


def _has_hardly_moved(metrics: Path) -> str | None:
    """Return what to tell of a descent that has left the loss where it was, or None."""
    with metrics.open(newline="", encoding="utf-8") as file:
        totals = [float(row["loss/total"]) for row in csv.DictReader(file)]
    if len(totals) < 2 or max(totals) - min(totals) > MOVED * max(totals):
        return None
    return (
        f"The loss has hardly changed, {totals[0]:.6g} at first and {totals[-1]:.6g} in the end: the picture is about "
        "what it was. Raise optimizer.lr; L-BFGS, whose steps grow with the gradient, wants larger weights instead "
        "(alpha and beta, both by the same factor)."
    )


def _bounds(config: DictConfig, problem: Problem) -> Bounds:
    """Return what pixels are clamped to: black and white, or the limits of the configuration."""
    if config.clamp_range is None:
        return problem.space.bounds(problem.start)
    low, high = (problem.start.new_full((1, 3, 1, 1), limit) for limit in config.clamp_range)
    return low, high


@dataclass
class Trackers:
    """Everything that watches a run, by the names that a checkpoint knows."""

    metrics: MetricsFile
    tensorboard: TensorBoard
    frames: Frames
    previews: Previews
    progress: Tracker
    inside: Inside


def _trackers(part: Part, canvas: Canvas, evaluator: Evaluator | None, alone: bool) -> Trackers:
    """Make everything that watches a job, each where it stood at the checkpoint."""
    inputs, config, steps = part.final, part.job.config, schedule.total_steps(part.job.config)
    common = watchers.of_any_task(
        part.job, inputs, steps, evaluator, part.saved, lambda: canvas.decode(part.start), in_turn=alone
    )
    look = build_look(config, inputs.content.device)
    begun = part.saved is not None
    return Trackers(
        **common, inside=Inside(look, common["tensorboard"].show, steps, inputs.content, inputs.style, begun=begun)
    )


def _headline(part: Part, problem: Problem, device: torch.device) -> str:
    job = part.job
    height, width = part.final.content.shape[2:]
    scales = len(schedule.scales(job.config))
    size = f"{width} x {height} pixels" + (f" in {scales} scales" if scales > 1 else "")
    begin = f", carried on from step {part.saved['step']}" if part.saved else ""
    styles = ", ".join(Path(style.image).name for style in configuration.styles(job.config))
    chosen = ", ".join(job.choices[group] for group in ("backbone", "optimizer") if group in job.choices)
    return (
        f"{Path(str(job.config.content)).name} in the manner of {styles}: {size}, {chosen}, "
        f"{schedule.total_steps(job.config)} steps on {device} in {problem.precision} ({problem.engine}){begin}"
    )


def _save(part: Part, name: str, image: Tensor) -> Path:
    """Save a picture ``(1, 3, H, W)`` of a job."""
    path, config = part.job.picture(name), part.job.config
    rgb.save(path, rgb.encode(image, config.output_format, config.jpeg_quality, part.inputs.shape))
    return path
