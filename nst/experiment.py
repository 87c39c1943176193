"""The story of a run: load, extract, take targets, start image, optimise, save."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from nst import checkpoint, images, memory, provenance, resume, runtime, sweep
from nst import config as configuration
from nst.backbones import Backbone
from nst.check import check
from nst.cli import describe
from nst.errors import UserError
from nst.evaluator import Evaluator
from nst.files import CannotWrite, claim, remove_leftovers, sha256, write_json, writing
from nst.losses import TotalVariation
from nst.objective import LayerTerm, Losses, Objective, Shift
from nst.optimize import Between, Diverged, Evaluate, Outcome, State, Step, Watch, optimize
from nst.pixels import PixelSpace, with_margin
from nst.tracking import Snapshot, Tracker
from nst.tracking.frames import Frames
from nst.tracking.metrics import MetricsFile
from nst.tracking.previews import Previews
from nst.tracking.progress import progress
from nst.tracking.tensorboard import TensorBoard

log = logging.getLogger(__name__)
TARGETS_BYTES = 2**29  # content targets of so many shifts are kept; beyond that they are taken anew


class OutOfMemory(UserError):
    """Memory ran out; the message says what would fit."""


@dataclass
class Job:
    """What a run is told: its configuration, its folder, and what was typed, for the record.

    Attributes:
        config: the composed configuration.
        folder: where results go; it exists.
        choices: the option chosen of each group.
        overrides: what was typed on the command line, or chosen by a sweep.
        sweep: the folder of the sweep that the run belongs to, if any.
    """

    config: DictConfig
    folder: Path
    choices: dict[str, str]
    overrides: list[str]
    sweep: Path | None = None

    def picture(self, name: str) -> Path:
        """Return the path of a picture in the folder, with the suffix of the chosen format."""
        return self.folder / f"{name}{images.SUFFIXES[self.config.output_format]}"


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


def run_job(config: DictConfig) -> tuple[float, ...] | None:
    """Run one job under Hydra: in its output folder, with its status written whatever happens.

    Returns:
        What a sampler of sweeps is to make small: content and style distance; None if the job is not done.

    Raises:
        SystemExit: the only run failed, and has been reported. In a sweep the others go on, and nothing is raised.
        UserError: the folder of a single run cannot be used.
        Interrupted: Ctrl-C or a termination signal; the current picture has been saved then.
    """
    hydra = HydraConfig.get()
    choices = {str(k): str(v) for k, v in hydra.runtime.choices.items() if not str(k).startswith("hydra")}
    job = Job(config, Path(hydra.runtime.output_dir), choices, resume.without_resume(list(hydra.overrides.task)))
    if hydra.mode == RunMode.RUN:
        if not _attempt(job, resumable=config.resume is not None):
            raise SystemExit(1)
    else:
        job.sweep = Path(hydra.sweep.dir)
        _attempt_in_sweep(job)
    return objectives(resume.past(job.folder))


def objectives(past: resume.Past | None) -> tuple[float, ...] | None:
    """Return the content and style distance of a finished run, or None."""
    scores = (past.record.get("scores") if past and past.is_done else None) or {}
    values = [scores.get("content_distance"), scores.get("style_distance")]
    return tuple(float(value) for value in values if value is not None) if None not in values else None


def _attempt_in_sweep(job: Job) -> None:
    """Run a job so that the other jobs of its sweep do not suffer if it fails."""
    assert job.sweep is not None
    if (failed := sweep.stopped_after(job.sweep)) is not None:
        past = resume.past(job.folder)
        if past is None or not past.is_done:
            _write_status(job.folder, "skipped", reason=f"the sweep was stopped after {failed} failed")
        return
    try:
        done = _attempt(job, resumable=True)  # whatever is there is of this sweep: a cluster may begin a job twice
    except UserError as error:  # the folder cannot be used; what is in it stays as it is
        log.error("%s", describe(error))
        return
    except runtime.Interrupted:
        if HydraConfig.get().runtime.choices.get("hydra/launcher") == "basic":
            raise  # the sweep stops with its job, which ran in the same process
        return  # the signal was for this worker, and its launcher could make nothing of the exception
    if not done and job.config.on_failure == "stop":
        sweep.stop(job.sweep, job.folder.name)


def _attempt(job: Job, resumable: bool) -> bool:
    """Run a job, or carry on with it, or see that it is done; return False if it failed.

    Raises:
        UserError: the folder cannot be used; nothing in it was changed.
        Interrupted: a signal came.
    """
    lock = claim(job.folder)
    remove_leftovers(job.folder)
    try:
        past = resume.past(job.folder)
        if past is not None:
            if not resumable:
                sweep.refuse_used(job.folder, "a run", "hydra.run.dir")
            resume.refuse_changes(job.folder, job.config)
            if past.is_done and resume.result_is_there(job.folder, past.record):
                log.info("%s is finished already", job.folder)
                checkpoint.remove(job.folder)
                return True
        return _report_failure(job)
    finally:
        lock.release()


def _report_failure(job: Job) -> bool:
    """Run a job with its status on disk from beginning to end; return False if it failed."""
    started = _now()
    _write_status(job.folder, "running", started)
    with runtime.PoliteStop() as stop, runtime.seeded(job.config.seed):
        try:
            run(job, stop)
        except KeyboardInterrupt as error:
            _write_status(job.folder, "interrupted", started, str(error))
            raise
        except Exception as error:
            memory_ran_out = memory.is_out_of_memory(error)  # seen through what it was raised from
            message = describe(error)
            log.error("%s", message, exc_info=True)
            if not (memory_ran_out or isinstance(error, CannotWrite)):
                checkpoint.remove(job.folder)  # the run itself went wrong: another attempt starts from its beginning
            _write_status(job.folder, "out_of_memory" if memory_ran_out else "failed", started, message)
            return False
        _write_status(job.folder, "done", started)
        checkpoint.remove(job.folder)
        stop.poll()  # a signal that came while the result was being saved still ends the sweep
    return True


def run(job: Job, stop: runtime.PoliteStop) -> Outcome:
    """Optimise one picture and leave ``result.png``, ``metrics.csv``, ``run.json`` and TensorBoard events.

    A checkpoint in the folder is carried on from; anything else that an earlier attempt left there is replaced.

    Raises:
        UserError: a mistake the user can mend.
        Interrupted: a signal came; the current picture has been saved as ``interrupted.png``.
    """
    config, began = job.config, time.perf_counter()
    check(config)
    saved = checkpoint.load(job.folder)
    record = resume.read(job.folder / "run.json") if saved else {}
    threads = config.threads or record.get("machine", {}).get("threads", 0)
    with runtime.own_device(config.device) as device_name, runtime.threads(threads):
        device = runtime.prepare(device_name, config.precision)
        if saved is None:
            _clear(job.folder)
            record = _facts(job, device)
        else:
            _note_resumption(record, _facts(job, device), saved["step"])
        write_json(job.folder / "run.json", record)
        evaluator = configuration.build(config.evaluator)
        problem = pose(config, device)
        _note_problem(record, job, problem)
        record["evaluator"] = {"name": evaluator.name, **evaluator.settings} if evaluator else None
        write_json(job.folder / "run.json", record)
        return _optimise(job, stop, problem, evaluator, record, saved, began)


def _optimise(
    job: Job,
    stop: runtime.PoliteStop,
    problem: Problem,
    evaluator: Evaluator | None,
    record: dict[str, Any],
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
        with _memory_explained(problem.need, config.size, device):
            outcome = descend(config, problem, watch, is_logged, between, saved["descent"] if saved else None)
        peak = runtime.peak_memory_bytes(device)
        result = _save(job, problem, "result", latest[0].image)
        record["scores"] = _scores(evaluator, result, record) if evaluator else None
        if record["scores"]:
            trackers.tensorboard.scores(record["scores"], outcome.last.index)
        seconds = {"setup": ready - began, "optimisation": outcome.last.seconds, "total": elapsed()}
        _note_result(record, job, outcome, latest[0].values, seconds, peak)
        write_json(job.folder / "run.json", record)
        _remove_pictures(job, "interrupted", "best")
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
    dtype = runtime.PRECISIONS[config.precision]
    content, style = (_load(config, name).to(device, dtype) for name in (config.content, config.style))
    shape = images.unsqueezed(config.content, config.size) if config.fit == "square" else None

    layers = list(
        dict.fromkeys([*configuration.layer_weights(config, "content"), *configuration.layer_weights(config, "style")])
    )
    backbone = configuration.build(config.backbone, layers=layers, pooling=config.pooling).to(device, dtype)
    space = PixelSpace(config.pixel_space, backbone.preprocessing)

    need = _estimate_memory(config, backbone, content, style)
    with _memory_explained(need, config.size, device):
        evaluate = assemble(config, backbone, content, style)
        start = configuration.build(config.init)(content=content, style=style, space=space, seed=config.seed)
    return Problem(content, style, backbone, space, start, evaluate, shape, need)


def assemble(config: DictConfig, backbone: Backbone, content: Tensor, style: Tensor) -> Evaluate:
    """Take the targets of two images; return the losses of a picture as a function of its pixels and its shift.

    Args:
        config: names the losses, layers and weights.
        backbone: the frozen network.
        content: ``(1, 3, H, W)`` RGB in [0, 1].
        style: ``(1, 3, H', W')`` RGB in [0, 1].
    """
    space = PixelSpace(config.pixel_space, backbone.preprocessing)

    def features(pixels: Tensor, shift: Shift = (0, 0)) -> dict[str, Tensor]:
        seen = with_margin(pixels, config.margin)
        seen = seen.roll(shift, dims=(2, 3)) if shift != (0, 0) else seen
        maps: dict[str, Tensor] = backbone(space.to_network(seen))
        return maps

    combine = config.layers.get("combine", "mean")
    content_weights, style_weights = (configuration.layer_weights(config, kind) for kind in ("content", "style"))
    content_term = LayerTerm("content", configuration.build(config.content_loss), content_weights, combine)
    style_term = LayerTerm("style", configuration.build(config.style_loss), style_weights, combine)

    @torch.no_grad()
    def take_content_targets(shift: Shift) -> dict[str, Any]:
        with runtime.seeded(config.seed):  # so that when it happens makes no difference to a loss that draws numbers
            return content_term.targets(features(space.encode(content), shift))

    kept = [value for value in take_content_targets((0, 0)).values() if isinstance(value, Tensor)]
    size = sum(value.numel() * value.element_size() for value in kept)
    content_targets = functools.lru_cache(max(1, TARGETS_BYTES // max(size, 1)))(take_content_targets)

    with torch.no_grad():
        style_targets = style_term.targets(features(space.encode(style)))
    variation = TotalVariation(config.tv_kind, config.tv_reduction)
    objective = Objective(
        content_term, style_term, variation, content_targets, style_targets, config.alpha, config.beta, config.tv
    )

    def evaluate(pixels: Tensor, shift: Shift) -> Losses:
        return objective(features(pixels, shift), pixels, shift)

    return evaluate


def _estimate_memory(config: DictConfig, backbone: Backbone, content: Tensor, style: Tensor) -> memory.Need | None:
    """Estimate what the run will need, and warn if that is more than there is."""
    need = memory.estimate(
        functools.partial(assemble, config),
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
    free = memory.free_bytes(content.device)
    if need is not None and free is not None and (advice := memory.advice(need, free, config.size)):
        log.warning("%s", advice)
    return need


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
        progress(config.steps, saved["step"] if saved else 0),
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


def _scores(evaluator: Evaluator, result: Path, record: dict[str, Any]) -> dict[str, Any] | None:
    """Score a saved result; an input that has vanished meanwhile does not fail a run that is finished."""
    content, style = (Path(record[kind]["file"]) for kind in ("content", "style"))
    try:
        return dict(evaluator.scores(result, content, style, background=record["config"]["background"]))
    except UserError as error:
        log.warning("The result is not scored: %s", error)
        return None


def _facts(job: Job, device: torch.device) -> dict[str, Any]:
    """Return what ``run.json`` holds from the beginning."""
    config = job.config
    plan = resume.read(job.sweep / sweep.PLAN) if job.sweep else {}
    return {
        "config": resume.settings(config),
        "choices": job.choices,
        "overrides": job.overrides,
        **provenance.environment(device, job.folder),
        **{key: plan[key] for key in ("command", "arguments") if key in plan},  # a worker was begun with other words
        "seed": config.seed,
        "precision": config.precision,
        "content": provenance.image_file(config.content),
        "style": provenance.image_file(config.style),
        "init": provenance.image_file(str(config.init.path)) if config.init.get("path") else None,
    }


def _note_resumption(record: dict[str, Any], now: dict[str, Any], step: int) -> None:
    """Record that a run is carried on, and warn if that happens somewhere else than where it began."""
    changed = {
        f"{group}.{name}": (value, (now[group] or {}).get(name))
        for group in ("git", "versions", "machine", "determinism")
        for name, value in (record.get(group) or {}).items()
        if name != "diff" and value != (now[group] or {}).get(name)
    }
    for name, (then, here) in changed.items():
        log.warning("%s was %s when the run began and is %s now: the bytes may differ", name, then, here)
    record.setdefault("resumed", []).append(
        {"step": step, "time": _now(), "command": now["command"], "changed": changed}
    )


def _note_problem(record: dict[str, Any], job: Job, problem: Problem) -> None:
    """Record what is known once everything is loaded.

    Raises:
        UserError: the weights are not those that the run was begun with.
    """
    source = getattr(problem.backbone, "source", None)
    weights = asdict(source) if source is not None else None
    if weights and record.get("weights") and record["weights"].get("sha256") != weights.get("sha256"):
        raise UserError(
            f"{job.folder} was begun with other weights of the network (SHA-256 {record['weights'].get('sha256')}, "
            f"now {weights.get('sha256')}). Put the old ones back, or start a new run in another folder."
        )
    record["weights"] = weights
    record["memory_estimate_bytes"] = problem.need.total if problem.need else None
    record["size"] = {"width": problem.content.shape[3], "height": problem.content.shape[2]}


def _note_result(
    record: dict[str, Any],
    job: Job,
    outcome: Outcome,
    final: dict[str, float],
    seconds: dict[str, float],
    peak: int | None,
) -> None:
    """Record how the run ended."""
    record |= {
        "result": provenance.output_file(job.picture("result")),
        "outputs": {name: sha256(job.folder / name) for name in (job.picture("result").name, "metrics.csv")},
        "stopped_because": outcome.reason,
        "steps": outcome.last.index,
        "evaluations": outcome.last.evaluations,
        "final": final,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "peak_memory_bytes": peak,
    }


def _clear(folder: Path) -> None:
    """Remove what an earlier attempt left, so that a run can begin anew; its log is kept."""
    left = ["metrics.csv", "run.json", checkpoint.FILE, "result.png", "result.jpg"]
    left += [f"{name}{suffix}" for name in ("interrupted", "best") for suffix in images.SUFFIXES.values()]
    patterns = (*left, "uncommitted*.diff", "events.out.tfevents.*", "frames/*.png", "previews/*.jpg")
    for path in (path for pattern in patterns for path in folder.glob(pattern)):
        with writing(path):
            path.unlink()


def _remove_pictures(job: Job, *names: str) -> None:
    """Remove pictures of a run that was not finished then and is now."""
    for name in names:
        job.picture(name).unlink(missing_ok=True)


def _write_status(folder: Path, status: str, started: str | None = None, reason: str | None = None) -> None:
    """Write where a run stands, and which process says so."""
    about: dict[str, Any] = {"status": status, "started": started or _now()}
    about |= {} if status == "running" else {"ended": _now()}
    about |= {"reason": reason.removeprefix("Error: ")} if reason else {}
    write_json(folder / "status.json", about | {"pid": os.getpid(), "host": platform.node()})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
