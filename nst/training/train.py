"""The story of a training, from top to bottom: load, prepare, descend on the weights, save, paint, score."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import shlex
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.utils.data import default_collate

from nst import configuration, runtime, transformers
from nst.errors import UserError
from nst.evaluation.evaluator import Evaluator
from nst.images import rgb
from nst.losses.objective import TERMS, Losses
from nst.optimization import schedule
from nst.optimization.loop import Outcome
from nst.optimization.state import Step
from nst.runs import checkpoint, provenance, resume
from nst.runs.record import Job, Record
from nst.runtime import memory
from nst.setup.check import check
from nst.setup.inputs import Inputs, load
from nst.setup.posing import build_network
from nst.stylization.stylize import recorded_threads
from nst.tracking import Numbers, Snapshot, watchers
from nst.training import reference
from nst.training.distributed import ProcessGroup, process_group
from nst.training.method import TrainingContext, TrainingMethod
from nst.training.photos import load_batches
from nst.training.validation import ValidationPhoto, ValidationPictures

log = logging.getLogger(__name__)
TIMED = 5  # pictures, after one to warm up, whose median is the time per picture
REFERENCE = "reference.png"  # what the optimiser makes of the content


class Diverged(UserError):
    """A loss became NaN or infinite."""


class Glance(Snapshot):
    """A step of a training as trackers see it: its picture is painted only if somebody looks.

    Args:
        step: its losses are means over the batch, ``(1,)``; it has no pixels.
        logged: its numbers are to be written down.
        paint: paints the content, ``(1, 3, H, W)`` RGB in [0, 1] on the CPU.
    """

    def __init__(self, step: Step, logged: bool, paint: Callable[[], Tensor]) -> None:
        self.step, self.logged, self.index, self.numbers = step, logged, 0, Numbers(step.losses)
        self._paint = paint

    @cached_property
    def image(self) -> Tensor:
        """What the network makes of the content now."""
        return self._paint()


@dataclass
class Work:
    """A training, ready to go.

    Attributes:
        job: what is asked for.
        group: the processes that do it.
        stop: answers signals.
        device: to compute on.
        inputs: content and styles at the size of the result.
        method: what it is trained by.
        network: that is trained.
        blend: ``(1, S)`` weights of its styles where the content is painted; None: there is one.
        saved: the checkpoint that is carried on from.
        record: its ``run.json``; None in a process that helps.
        evaluator: what scores the result, or None.
    """

    job: Job
    group: ProcessGroup
    stop: runtime.PoliteStop
    device: torch.device
    inputs: Inputs
    method: TrainingMethod
    network: nn.Module
    blend: Tensor | None
    saved: dict[str, Any] | None
    record: Record | None
    evaluator: Evaluator | None

    @property
    def config(self) -> DictConfig:
        """The configuration."""
        return self.job.config

    @torch.no_grad()
    def paint(self, picture: Tensor) -> Tensor:
        """Return what the network makes of ``(1, 3, H, W)``, RGB in [0, 1] on the CPU."""
        painted: Tensor = self.network(picture) if self.blend is None else self.network(picture, self.blend)
        return painted.clamp(0, 1).cpu()


def run(job: Job, stop: runtime.PoliteStop) -> Outcome:
    """Train a network.

    It leaves what a run that optimises leaves, ``result.png`` being what the network makes of ``content``, and
    ``network.safetensors``. A checkpoint in the folder is carried on from, to the same bytes.

    Raises:
        UserError: a mistake the user can mend.
        Interrupted: a signal came; the current picture has been saved as ``interrupted.png``.
    """
    began = time.perf_counter()
    check(job.config)
    with process_group(job.config.device) as group:
        job = replace(job, folder=group.broadcast(job.folder))
        saved = checkpoint.to_carry_on_from(job.folder) if group.writes else None
        if group.broadcast(saved is not None) and saved is None:
            saved = checkpoint.load(job.folder)
        threads = job.config.threads or (recorded_threads(job) if saved else 0)
        with runtime.own_device(group.device) as name, runtime.threads(threads):
            device = runtime.prepare(name, job.config.precision)
            with _memory_explained():
                work = _prepared(job, group, stop, device, saved)
                return _descend(work, began)


def _prepared(
    job: Job, group: ProcessGroup, stop: runtime.PoliteStop, device: torch.device, saved: dict[str, Any] | None
) -> Work:
    """Load images and networks, and let the training method prepare itself."""
    config, record, evaluator = job.config, None, None
    if group.writes:
        record = Record.carry_on(job, device, saved["step"]) if saved else Record.begin(job, device)
        evaluator = configuration.build(config.evaluator)
    inputs = load(config, device)
    backbone = build_network(config, device)
    dtype = runtime.pixel_dtype(config.precision)
    styles = configuration.styles(config)
    blend = None
    if len(styles) > 1:
        blend = torch.tensor([[style.weight for style in styles]], dtype=dtype, device=device)
        blend = blend / blend.sum()
    network = transformers.build(config.transformer, len(styles), config.seed).to(device, dtype)
    if (take := getattr(network, "take_styles", None)) is not None:
        take(inputs.styles)
    method: TrainingMethod = configuration.build(config.training)
    if method.batch % group.world_size:
        raise UserError(f"training.batch={method.batch} cannot be divided among {group.world_size} processes.")
    if record:
        record.note_weights(getattr(backbone, "source", None))
        record.note(evaluator={"name": evaluator.name, **evaluator.settings} if evaluator else None)

    def note(**facts: Any) -> None:
        if record:
            record.note(**facts)

    context = TrainingContext(config, job.folder, inputs, backbone, stop=stop, note=note, writes=group.writes)
    method.prepare(context)
    work = Work(job, group, stop, device, inputs, method, network, blend, saved, record, evaluator)
    if method.reference and group.writes:
        _paint_reference(work, context)
    return work


def _paint_reference(work: Work, context: TrainingContext) -> None:
    """Let the optimiser paint the content, to compare with, unless an earlier attempt has; score and record it."""
    record, path = work.record, work.job.folder / REFERENCE
    assert record is not None
    before = record.facts.get("reference") or {}
    if path.is_file() and before.get("sha256") == provenance.output_file(path)["sha256"]:
        return
    log.info("The optimiser paints %s first, to compare with", Path(str(work.config.content)).name)
    painted = reference.paint(
        work.config, work.inputs, {str(work.config.content): work.inputs.content}, context.backbone, work.stop
    )
    (picture,) = painted.pictures.values()
    rgb.save(path, rgb.encode(picture, shape=work.inputs.shape))
    found = watchers.scores(work.evaluator, path, record.facts) if work.evaluator else None
    record.note(
        reference={
            **provenance.output_file(path),
            "seconds": round(painted.seconds, 3),
            "steps": painted.steps,
            "scores": found,
        }
    )


def _descend(work: Work, began: float) -> Outcome:
    """Make the steps, watched by the trackers; save the network, paint, score and record."""
    config, group, stop, record, method = work.config, work.group, work.stop, work.record, work.method
    saved, steps, device = work.saved, int(config.steps), work.device
    trained = [parameter for parameter in work.network.parameters() if parameter.requires_grad]
    optimizer: torch.optim.Optimizer = configuration.build(config.optimizer)(trained)
    rates = configuration.build(schedule.with_length(config.lr_schedule, steps))
    rates = rates(optimizer) if rates is not None else None
    begin, seconds = 0, 0.0
    if saved:
        begin, seconds = saved["step"], saved["seconds"]
        work.network.load_state_dict(saved["network"])
        optimizer.load_state_dict(saved["optimizer"])
        if rates is not None:
            rates.load_state_dict(saved["lr_schedule"])
    trainee = group.data_parallel(work.network, device)
    trackers: dict[str, Any] = _trackers(work) if group.writes else {}
    if record:
        count = sum(parameter.numel() for parameter in trained)
        log.info("%s", _headline(work, count, begin))
        height, width = work.inputs.content.shape[2:]
        record.note(size={"width": width, "height": height}, parameters=count, processes=group.world_size)
        precision = runtime.choose_precision(config.precision, device)
        features = getattr(method, "features", None)
        record.note_computation(precision=precision, engine=features.describe() if features else "none")
    keeper = checkpoint.Checkpoints(config.checkpoint_steps, config.checkpoint_seconds)
    ready, done = time.perf_counter(), begin
    best: dict[str, Tensor] | None = None
    latest: Glance | None = None

    def elapsed() -> float:
        return (saved["elapsed"] if saved else 0.0) + time.perf_counter() - began

    def watch(step: Step, logged: bool) -> None:
        nonlocal latest
        latest = Glance(step, logged, lambda: work.paint(work.inputs.content))
        for tracker in trackers.values():
            tracker.step(latest)

    def save() -> None:
        content = {
            "step": done,
            "network": work.network.state_dict(),
            "optimizer": optimizer.state_dict(),
            **({"lr_schedule": rates.state_dict()} if rates is not None else {}),
            "random": checkpoint.random_state(),
            "trackers": {name: tracker.position() for name, tracker in trackers.items()},
            "seconds": seconds,
            "elapsed": elapsed(),
        }
        checkpoint.save(work.job.folder, content)

    def close(status: str) -> None:
        for tracker in trackers.values():
            tracker.close(status)

    stop.hold()
    try:
        if saved:
            checkpoint.restore_random_state(saved["random"])
        ranks = {"rank": group.rank, "world_size": group.world_size}
        items = load_batches(method.item, begin, method.batch, workers=method.workers, **ranks)
        with contextlib.closing(items):  # type: ignore[type-var]
            for step in range(begin, steps + 1):
                last, started = step == steps, time.perf_counter()
                logged = step % config.log_every == 0 or last
                if hasattr(method, "begin_step"):
                    method.begin_step(step)
                losses = method.losses(trainee if not last else work.network, _on(next(items), device, work))
                total = losses.total.mean()
                wants = logged or device.type == "cpu"  # a GPU is waited for only where numbers are wanted
                bad = int(wants and not math.isfinite(total.detach().item()))
                # what the network was before its last update is known to be good, if this loss is
                asked, bad = group.max(stop.asked or 0, bad)
                if bad:
                    raise Diverged(
                        f"The loss became NaN or infinite at step {step}. Lower the learning rate (optimizer.lr) or "
                        "the weights (alpha, beta, tv)."
                        + (" The last network that was good is best.safetensors." if best is not None else "")
                    )
                if logged:
                    best = copy.deepcopy(work.network.state_dict())
                if not last:
                    optimizer.zero_grad(set_to_none=True)
                    total.backward()
                seconds += time.perf_counter() - started
                if logged or group.writes:
                    rate = optimizer.param_groups[0]["lr"] if rates is not None else None
                    mean = _mean(losses, group if logged else None)
                    pixels = work.inputs.content.new_empty(0)
                    now = Step(step, step + 1, mean, pixels, seconds, last, rate)
                    watch(now, logged)
                if last:
                    break
                started = time.perf_counter()
                optimizer.step()
                if rates is not None:
                    rates.step()
                seconds += time.perf_counter() - started
                done = step + 1
                if asked or keeper.is_due(done):
                    with keeper.saving(done):
                        if group.writes:
                            save()
                if asked:
                    stop.holding = False
                    raise runtime.Interrupted(asked)
        outcome = Outcome(now, f"all {steps} steps done")
        if group.writes:
            _finish(work, outcome, trackers, {"setup": ready - began, "optimisation": seconds}, elapsed)
            close("done")
        return outcome
    except runtime.Interrupted:
        if group.writes:
            path = work.job.picture("interrupted")
            rgb.save(path, _encoded(work, work.paint(work.inputs.content)))
            log.warning("Interrupted at step %d of %d; the picture is in %s", done, steps, path)
            close("interrupted")
        raise
    except Exception as error:
        if group.writes:
            with contextlib.suppress(UserError):
                close("failed")
        if isinstance(error, Diverged) and group.writes:
            checkpoint.remove(work.job.folder)  # so that another attempt starts from its beginning
            if best is not None:
                _keep_best(work, best)
        raise
    finally:
        stop.release()


def _trackers(work: Work) -> dict[str, Any]:
    """Make everything that watches the training, each where it stood at the checkpoint."""
    steps = int(work.config.steps)
    common = watchers.of_any_task(
        work.job, work.inputs, steps, work.evaluator, work.saved, lambda: work.paint(work.inputs.content)
    )
    path = work.job.folder / REFERENCE
    optimised = rgb.load(str(path), max(work.inputs.content.shape[2:])) if path.is_file() else None
    shown = [ValidationPhoto(Path(str(work.config.content)).stem, work.inputs.content, optimised)]
    for name in work.method.validation:
        picture = rgb.load(name, work.config.size, work.config.fit, work.config.resample, work.config.background)
        shown.append(ValidationPhoto(Path(name).stem, picture.to(work.inputs.content)))
    return common | {"validation": ValidationPictures(shown, work.paint, common["tensorboard"].show, steps)}


def _finish(
    work: Work, outcome: Outcome, trackers: dict[str, Any], seconds: dict[str, float], elapsed: Callable[[], float]
) -> None:
    """Save the network and what it makes of the content; score and record them."""
    record, folder = work.record, work.job.folder
    assert record is not None
    per_picture = seconds_per_picture(work)
    network = folder / resume.NETWORK_FILE
    transformers.save(network, work.network, _about(work))
    result = work.job.picture("result")
    rgb.save(result, _encoded(work, work.paint(work.inputs.content)))
    scores = watchers.scores(work.evaluator, result, record.facts) if work.evaluator else None
    if scores:
        trackers["tensorboard"].scores(scores, outcome.last.index)
    final = Numbers(outcome.last.losses).of_images[0]
    about = work.method.about()
    training = seconds["optimisation"] + float((about.get("pairs") or {}).get("seconds", 0))
    record.note(**about, scores=scores, seconds_per_picture=per_picture, training_seconds=round(training, 3))
    record.note(break_even=break_even(training, per_picture, (record.facts.get("reference") or {}).get("seconds")))
    record.note_result(outcome, final, seconds | {"total": elapsed()}, runtime.peak_memory_bytes(work.device))
    made = provenance.output_file(network)
    record.note(network=made, outputs=record.facts["outputs"] | {made["file"]: made["sha256"]})
    for name in ("interrupted", "best"):  # what an earlier attempt left
        work.job.picture(name).unlink(missing_ok=True)
    (folder / "best.safetensors").unlink(missing_ok=True)
    log.info("%s in %.1f s, a picture of this size takes %.3f s: %s", outcome.reason, elapsed(), per_picture, network)
    log.info(
        "Paint with it: %s", shlex.join(["python", "run.py", "task=apply", f"model={network}", "content=photo.jpg"])
    )


def seconds_per_picture(work: Work) -> float:
    """Return the median time in which the network paints the content, after one to warm up."""
    times = []
    for _ in range(TIMED + 1):
        started = time.perf_counter()
        work.paint(work.inputs.content)
        times.append(time.perf_counter() - started)
    return float(f"{statistics.median(times[1:]):.4g}")


def break_even(training: float, per_picture: float, optimised: float | None) -> int | None:
    """Return from how many pictures on training a network, and painting with it, takes less time than optimising each.

    Args:
        training: seconds.
        per_picture: seconds in which the network paints one.
        optimised: seconds in which the optimiser does, if that is known.
    """
    if optimised is None or optimised <= per_picture:
        return None
    return math.ceil(training / (optimised - per_picture))


def _keep_best(work: Work, best: dict[str, Tensor]) -> None:
    """Save the last network whose loss was a number, and its picture."""
    with contextlib.suppress(UserError):  # the disk may be full, and the run ends anyway
        work.network.load_state_dict(best)
        transformers.save(work.job.folder / "best.safetensors", work.network, _about(work))
        rgb.save(work.job.picture("best"), _encoded(work, work.paint(work.inputs.content)))


def _about(work: Work) -> dict[str, Any]:
    """Return what the network's file is to tell of the network."""
    config = {k: v for k, v in resume.settings(work.config).items() if k not in resume.HOUSEKEEPING}
    facts = [provenance.image_file(style.image) for style in configuration.styles(work.config)]
    styles = [
        {"label": Path(fact["name"]).stem, "file": Path(fact["file"]).name, "sha256": fact["sha256"]} for fact in facts
    ]
    return {"styles": styles, "config": config, "steps": int(config["steps"])}


def _encoded(work: Work, picture: Tensor) -> bytes:
    return rgb.encode(picture, work.config.output_format, work.config.jpeg_quality, work.inputs.shape)


def _headline(work: Work, count: int, begin: int) -> str:
    job, config, method = work.job, work.config, work.method
    styles = ", ".join(Path(style.image).name for style in configuration.styles(config))
    chosen = " ".join(job.choices[group] for group in ("transformer", "training") if group in job.choices)
    processes = f" in {work.group.world_size} processes" if work.group.world_size > 1 else ""
    carried = f", carried on from step {begin}" if begin else ""
    return (
        f"A network for {styles}: {chosen}, {count:,} weights, {config.steps} steps of {method.batch} pictures on "
        f"{work.device}{processes}{carried}"
    )


def _on(items: list[Any], device: torch.device, work: Work) -> Any:
    """Return the items of a step put together, on the device, pictures in the precision of the network."""

    def moved(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [moved(one) for one in value]
        dtype = work.inputs.content.dtype if value.is_floating_point() else value.dtype
        return value.to(device, dtype, non_blocking=True)

    return moved(default_collate(items))


def _mean(losses: Losses, group: ProcessGroup | None) -> Losses:
    """Return losses averaged over the batch, ``(1,)`` each; with a group over all processes' shares of it."""
    names = losses.named()
    values = torch.stack([value.mean() for value in names.values()])
    values = group.mean(values) if group else values
    mean = dict(zip(names, values.split(1), strict=True))
    total, content, style, tv = (mean.pop(f"loss/{name}") for name in ("total", *TERMS))
    return Losses(total, content, style, tv, mean)


@contextlib.contextmanager
def _memory_explained() -> Iterator[None]:
    """Turn an error of the block that says that memory ran out into one that says what to do."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not memory.is_out_of_memory(error):
            raise
        raise UserError(
            "Out of memory. Lower training.batch or training.crop, choose transformer=small, or a smaller backbone."
        ) from error
