"""The story of a run: load, extract, take targets, start image, optimise, save."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from nst import config as configuration
from nst import images, provenance, runtime
from nst.backbones import Backbone
from nst.check import check
from nst.cli import describe
from nst.errors import Reported, UserError
from nst.files import write_json
from nst.losses import TotalVariation
from nst.objective import LayerTerm, Losses, Objective, Shift
from nst.optimize import Diverged, Evaluate, Outcome, Step, Watch, optimize
from nst.pixels import PixelSpace, with_margin
from nst.sweep import swept_keys
from nst.tracking import Snapshot, Tracker
from nst.tracking.frames import Frames
from nst.tracking.metrics import MetricsFile
from nst.tracking.progress import progress
from nst.tracking.tensorboard import TensorBoard

log = logging.getLogger(__name__)
TARGETS_BYTES = 2**29  # content targets of so many shifts are kept; beyond that they are taken anew


@dataclass
class Job:
    """What a run is told: its configuration, its folder, and what was typed, for the record.

    Attributes:
        config: the composed configuration.
        folder: where results go; it exists.
        choices: the option chosen of each group.
        overrides: what was typed on the command line.
    """

    config: DictConfig
    folder: Path
    choices: dict[str, str]
    overrides: list[str]

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
    """

    content: Tensor
    style: Tensor
    backbone: Backbone
    space: PixelSpace
    start: Tensor
    evaluate: Evaluate
    shape: tuple[int, int] | None


def run_job(config: DictConfig) -> None:
    """Run one job under Hydra: in its output folder, with its status written whatever happens.

    Raises:
        SystemExit: the only run failed, and has been reported.
        Reported: a run of a sweep failed, and has been reported; the others go on.
        Interrupted: Ctrl-C or a termination signal; the current picture has been saved then.
    """
    hydra = HydraConfig.get()
    choices = {str(k): str(v) for k, v in hydra.runtime.choices.items() if not str(k).startswith("hydra")}
    job = Job(config, Path(hydra.runtime.output_dir), choices, [str(line) for line in hydra.overrides.task])
    _refuse_used_folder(job.folder)
    status: dict[str, Any] = {"status": "running", "started": _now()}
    _write_status(job.folder, status)
    failure: str | None = None
    with runtime.PoliteStop() as stop, runtime.seeded(config.seed):
        try:
            run(job, stop)
        except KeyboardInterrupt as error:
            _write_status(job.folder, status | {"status": "interrupted", "ended": _now(), "reason": str(error)})
            raise
        except Exception as error:
            message = describe(error)
            log.error("%s", message, exc_info=True)
            _write_status(job.folder, status | {"status": "failed", "ended": _now(), "error": message})
            failure = message
        if failure is not None:
            # Raised anew, out of reach of the error itself: a sweep keeps what is raised here until its end, and the
            # error's traceback would keep this run's network and pictures in memory.
            raise SystemExit(1) if hydra.mode == RunMode.RUN else Reported(failure)
        _write_status(job.folder, status | {"status": "done", "ended": _now()})
        stop.poll()  # a signal that came while the result was being saved still ends the sweep


def run(job: Job, stop: runtime.PoliteStop) -> Outcome:
    """Optimise one picture and leave ``result.png``, ``metrics.csv``, ``run.json`` and TensorBoard events.

    Raises:
        UserError: a mistake the user can mend.
        Interrupted: a signal came; the current picture has been saved as ``interrupted.png``.
    """
    config, began = job.config, time.perf_counter()
    check(config)
    device = runtime.prepare(config.device, config.precision)
    problem = pose(config, device)

    log.info("%s", _headline(job, problem))
    trackers = _trackers(job, problem)
    latest: list[Snapshot] = []

    def is_logged(index: int) -> bool:
        return index % config.log_every == 0

    def watch(step: Step) -> None:
        snapshot = Snapshot(step, problem.space, is_logged(step.index) or step.last)
        latest[:] = [snapshot]
        for tracker in trackers:
            tracker.step(snapshot)
        if not step.last:
            stop.poll()

    status, ready = "failed", time.perf_counter()
    stop.hold()
    try:
        outcome = descend(config, problem, watch, is_logged)
        _save(job, problem, "result", latest[0].image)
        seconds = {
            "setup": ready - began,
            "optimisation": outcome.last.seconds,
            "total": time.perf_counter() - began,
        }
        write_json(job.folder / "run.json", _record(job, problem, device, outcome, latest[0].values, seconds))
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
        for tracker in trackers:
            tracker.close(status)
    log.info("%s in %.1f s: %s", outcome.reason, seconds["total"], job.picture("result"))
    return outcome


def pose(config: DictConfig, device: torch.device) -> Problem:
    """Load the images and the network, take the targets, and make the start image.

    Raises:
        UserError: an image or the weights cannot be had, or do not fit.
    """
    dtype = runtime.PRECISIONS[config.precision]
    content, style = (_load(config, name).to(device, dtype) for name in (config.content, config.style))

    shape = images.unsqueezed(config.content, config.size) if config.fit == "square" else None

    content_weights, style_weights = (configuration.layer_weights(config, kind) for kind in ("content", "style"))
    layers = list(dict.fromkeys([*content_weights, *style_weights]))
    backbone = configuration.build(config.backbone, layers=layers, pooling=config.pooling).to(device, dtype)
    space = PixelSpace(config.pixel_space, backbone.preprocessing)

    def features(pixels: Tensor, shift: Shift = (0, 0)) -> dict[str, Tensor]:
        seen = with_margin(pixels, config.margin)
        seen = seen.roll(shift, dims=(2, 3)) if shift != (0, 0) else seen
        maps: dict[str, Tensor] = backbone(space.to_network(seen))
        return maps

    combine = config.layers.get("combine", "mean")
    content_term = LayerTerm("content", configuration.build(config.content_loss), content_weights, combine)
    style_term = LayerTerm("style", configuration.build(config.style_loss), style_weights, combine)

    @torch.no_grad()
    def take_content_targets(shift: Shift) -> dict[str, Any]:
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

    start = configuration.build(config.init)(content=content, style=style, space=space, seed=config.seed)
    return Problem(content, style, backbone, space, start, evaluate, shape)


def descend(config: DictConfig, problem: Problem, watch: Watch, is_logged: Callable[[int], bool]) -> Outcome:
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
    )


def _load(config: DictConfig, name: str) -> Tensor:
    return images.load(name, config.size, config.fit, config.resample, config.background)


def _trackers(job: Job, problem: Problem) -> list[Tracker]:
    """Make everything that watches the run."""
    config = job.config
    metrics = MetricsFile(job.folder / "metrics.csv")
    board = TensorBoard(job.folder, config.steps, OmegaConf.to_yaml(config, resolve=True), _hparams(job), problem.shape)
    start = problem.space.decode(problem.start)
    for tag, picture in (("content", problem.content), ("style", problem.style), ("start", start)):
        board.picture(tag, picture)
    return [metrics, board, Frames(job.folder / "frames", config.save_every, problem.shape), progress(config.steps)]


def _hparams(job: Job) -> dict[str, Any]:
    """Return what the HParams tab compares: what a sweep varies, else everyday knobs, groups and whatever was typed.

    The tab shows only five columns unasked, so that fewer are better.
    """
    if keys := swept_keys():
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


def _headline(job: Job, problem: Problem) -> str:
    height, width = problem.content.shape[2:]
    names = (Path(str(name)).name for name in (job.config.content, job.config.style))
    chosen = ", ".join(job.choices[group] for group in ("backbone", "optimizer") if group in job.choices)
    return (
        f"{' in the manner of '.join(names)}: {width} x {height} pixels, {chosen}, "
        f"{job.config.steps} steps on {problem.content.device}"
    )


def _save(job: Job, problem: Problem, name: str, image: Tensor) -> Path:
    """Save the first picture of a batch."""
    path = job.picture(name)
    images.save(path, images.encode(image[:1], job.config.output_format, job.config.jpeg_quality, problem.shape))
    return path


def _record(
    job: Job,
    problem: Problem,
    device: torch.device,
    outcome: Outcome,
    final: dict[str, float],
    seconds: dict[str, float],
) -> dict[str, Any]:
    """Return what ``run.json`` holds."""
    config = job.config
    source = getattr(problem.backbone, "source", None)
    return {
        "config": OmegaConf.to_container(config, resolve=True),
        "choices": job.choices,
        "overrides": job.overrides,
        "seed": config.seed,
        "precision": config.precision,
        "machine": provenance.machine(device),
        "versions": provenance.versions(),
        "content": provenance.image_file(config.content),
        "style": provenance.image_file(config.style),
        "init": provenance.image_file(str(config.init.path)) if config.init.get("path") else None,
        "weights": asdict(source) if source is not None else None,
        "size": {"width": problem.content.shape[3], "height": problem.content.shape[2]},
        "result": provenance.output_file(job.picture("result")),
        "stopped_because": outcome.reason,
        "steps": outcome.last.index,
        "evaluations": outcome.last.evaluations,
        "final": final,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "peak_memory_bytes": runtime.peak_memory_bytes(device),
    }


def _refuse_used_folder(folder: Path) -> None:
    """Refuse a folder that already holds a run, so that nothing is overwritten."""
    if any((folder / name).exists() for name in ("status.json", "metrics.csv", "run.json")):
        raise UserError(f"{folder} already holds a run. Choose another folder with hydra.run.dir=FOLDER.")


def _write_status(folder: Path, status: dict[str, Any]) -> None:
    write_json(folder / "status.json", status)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
