"""The story of a training, from top to bottom: load, prepare, descend on the weights, save, paint, score."""

import contextlib
import copy
import logging
import math
import shlex
import statistics
import time
import timeit
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.utils._pytree import tree_map
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
from nst.runs.session import Session
from nst.runtime import memory
from nst.setup.check import check
from nst.setup.inputs import Inputs, load_images
from nst.setup.network import load_network
from nst.tracking import Snapshot, common
from nst.training import reference
from nst.training.distributed import ProcessGroup, process_group
from nst.training.method import TrainingContext, TrainingMethod
from nst.training.photos import load_batches
from nst.training.validation import ValidationPhoto, ValidationPictures

log = logging.getLogger(__name__)
TIMED = 5  # pictures, after one to warm up, whose median is the time per picture
PLAIN = 0.01  # of the range from black to white: a picture that varies by less shows nothing
REFERENCE = "reference.png"  # what the optimiser makes of the content


class Diverged(UserError):
    """A loss became NaN or infinite."""


class TrainingSnapshot(Snapshot):
    """A step of a training as trackers see it: its picture, ``(1, 3, H, W)``, is painted only if somebody looks.

    Its losses are means over the batch, ``(1,)``; it has no pixels.
    """

    def __init__(self, step: Step, paint: Callable[[], Tensor]) -> None:
        super().__init__(step)
        self._paint = paint

    @cached_property
    def image(self) -> Tensor:
        """What the network makes of the content now."""
        return self._paint()


@dataclass
class Training:
    """A training, ready to go.

    Attributes:
        inputs: content and styles at the size of the result.
        blend: ``(1, S)`` weights of the network's styles where the content is painted; None: there is one.
        evaluator: what scores the result, or None.
    """

    session: Session
    group: ProcessGroup
    inputs: Inputs
    method: TrainingMethod
    network: nn.Module
    blend: Tensor | None
    evaluator: Evaluator | None

    @property
    def config(self) -> DictConfig:
        """The configuration."""
        return self.session.config

    @torch.no_grad()
    def paint(self, picture: Tensor) -> Tensor:
        """Return what the network makes of ``(1, 3, H, W)``, RGB in [0, 1] on the CPU."""
        painted: Tensor = self.network(picture) if self.blend is None else self.network(picture, self.blend)
        return painted.clamp(0, 1).cpu()

    def paint_content(self) -> Tensor:
        """Return what the network makes of the content."""
        return self.paint(self.inputs.content)

    def keep(self, name: str) -> Path:
        """Save what the network makes of the content under a name; return its path."""
        return self.session.keep(name, self.paint_content(), self.inputs.shape)


def train(session: Session) -> None:
    """Train a network.

    It leaves what a run that optimises leaves, ``result.png`` being what the network makes of ``content``, and
    ``network.safetensors``. A checkpoint in the folder is carried on from, to the same bytes.

    Raises:
        UserError: a mistake the user can mend.
        Interrupted: a signal came; the current picture has been saved as ``interrupted.png``.
    """
    check(session.config)
    with process_group(session.device_name) as group:
        session.job, session.device_name = replace(session.job, folder=group.broadcast(session.folder)), group.device
        if group.writes:
            session.load_checkpoint()
        if group.broadcast(session.saved is not None) and session.saved is None:
            session.saved = checkpoint.load(session.folder)
        with session.computing(), _memory_explained():
            training = _prepare(session, group)
            with session.holding_signals():
                outcome = _optimise(training)
                if group.writes:
                    _finish(training, outcome)


def _prepare(session: Session, group: ProcessGroup) -> Training:
    """Load images and networks, and let the training method prepare itself."""
    config, device, evaluator = session.config, session.device, None
    if group.writes:
        session.begin_record()
        evaluator = configuration.build(config.evaluator)
    inputs = load_images(config, device)
    backbone = load_network(config, device)
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
    if group.writes:
        session.record.note_weights(getattr(backbone, "source", None))
        session.record.note(evaluator={"name": evaluator.name, **evaluator.settings} if evaluator else None)
    note: Callable[..., None] = session.record.note if group.writes else lambda **facts: None
    context = TrainingContext(
        config, session.folder, inputs, backbone, stop=session.stop, note=note, writes=group.writes
    )
    method.prepare(context)
    training = Training(
        session=session, group=group, inputs=inputs, method=method, network=network, blend=blend, evaluator=evaluator
    )
    if method.reference and group.writes:
        _paint_reference(training, context)
    return training


def _paint_reference(training: Training, context: TrainingContext) -> None:
    """Let the optimiser paint the content, to compare with, unless an earlier attempt has; score and record it."""
    record, path, config = training.session.record, training.session.folder / REFERENCE, training.config
    before = record.facts.get("reference") or {}
    if path.is_file() and before.get("sha256") == provenance.output_file(path)["sha256"]:
        return
    log.info("The optimiser paints %s first, to compare with", Path(str(config.content)).name)
    contents = {str(config.content): training.inputs.content}
    painted = reference.paint(config, training.inputs, contents, context.backbone, context.stop)
    (picture,) = painted.pictures.values()
    rgb.save(path, rgb.encode(picture, shape=training.inputs.shape))
    found = common.scores(training.evaluator, path, record.facts) if training.evaluator else None
    facts = {"seconds": round(painted.seconds, 3), "steps": painted.steps, "scores": found}
    record.note(reference=provenance.output_file(path) | facts)


class _Descent:
    """What the descent on the weights remembers: the ``seconds`` of its steps, ``best``: the last finite network."""

    def __init__(self, training: Training) -> None:
        config, saved = training.config, training.session.saved or {}
        self.training = training
        self.trained = [parameter for parameter in training.network.parameters() if parameter.requires_grad]
        self.optimizer: torch.optim.Optimizer = configuration.build(config.optimizer)(self.trained)
        scheduler = configuration.build(schedule.with_length(config.lr_schedule, int(config.steps)))
        self.scheduler = scheduler(self.optimizer) if scheduler is not None else None
        self.begin, self.seconds = saved.get("step", 0), saved.get("seconds", 0.0)
        self.best: dict[str, Tensor] | None = None
        if saved:
            training.network.load_state_dict(saved["network"])
            self.optimizer.load_state_dict(saved["optimizer"])
            if self.scheduler is not None:
                self.scheduler.load_state_dict(saved["lr_schedule"])

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint needs to know."""
        scheduler = {"lr_schedule": self.scheduler.state_dict()} if self.scheduler is not None else {}
        network, optimizer = self.training.network.state_dict(), self.optimizer.state_dict()
        return {"network": network, "optimizer": optimizer, **scheduler, "seconds": self.seconds}

    def compute(self, network: nn.Module, items: list[Any], step: int, last: bool, logged: bool) -> tuple[Losses, int]:
        """Return the losses of a step and the signal asked for; their gradient is computed if an update follows."""
        training, started = self.training, time.perf_counter()
        device = training.session.device
        if hasattr(training.method, "begin_step"):  # a method of one's own may have none
            training.method.begin_step(step)
        losses = training.method.losses(network, _on(items, device, training.inputs.content.dtype))
        total = losses.total.mean()
        wants = logged or device.type == "cpu"  # a GPU is waited for only where numbers are wanted
        bad = int(wants and not math.isfinite(total.detach().item()))
        # what the network was before its last update is known to be good, if this loss is
        asked, bad = training.group.max(training.session.stop.asked or 0, bad)
        if bad:
            kept = "" if self.best is None else " The last network that was good is best.safetensors."
            raise Diverged(
                f"The loss became NaN or infinite at step {step}. Lower the learning rate (optimizer.lr) or "
                f"the weights (alpha, beta, tv).{kept}"
            )
        if logged:
            self.best = copy.deepcopy(training.network.state_dict())
        if not last:
            self.optimizer.zero_grad(set_to_none=True)
            total.backward()
        self.seconds += time.perf_counter() - started
        return losses, asked

    def update(self) -> None:
        """Update the weights."""
        started = time.perf_counter()
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        self.seconds += time.perf_counter() - started


def _optimise(training: Training) -> Outcome:
    """Make the steps, watched by the trackers."""
    session, config, group, method = training.session, training.config, training.group, training.method
    steps, descent = int(config.steps), _Descent(training)
    trainee = group.data_parallel(training.network, session.device)
    if group.writes:
        _begin(training, descent)
    with session.optimising(forget=Diverged), _keeping_what_there_is(training, descent):
        session.restore_random_state()
        share = {"rank": group.rank, "world_size": group.world_size, "workers": method.workers}
        items = load_batches(method.item, descent.begin, method.batch, **share)
        with contextlib.closing(items):  # type: ignore[type-var]
            for step in range(descent.begin, steps + 1):
                last = step == steps
                logged = step % config.log_every == 0 or last
                network = trainee if not last else training.network
                losses, asked = descent.compute(network, next(items), step, last, logged)
                if logged or group.writes:
                    rate = descent.optimizer.param_groups[0]["lr"] if descent.scheduler is not None else None
                    mean = _mean(losses, group if logged else None)
                    nothing = training.inputs.content.new_empty(0)
                    now = Step(step, step + 1, mean, nothing, descent.seconds, last=last, rate=rate, logged=logged)
                    session.see(TrainingSnapshot(now, training.paint_content))
                if last:
                    break
                descent.update()
                if group.writes:
                    at_end = step == steps - 1 and resume.bound_to_length(config) is None
                    session.save_if_due(descent.state, at_once=bool(asked), at_end=at_end)
                if asked:  # of all processes; a signal that came since is answered after the next step
                    raise runtime.Interrupted(asked)
    return Outcome(now, f"all {steps} steps done")


def _begin(training: Training, descent: _Descent) -> None:
    """Say what begins, record it, and begin to track it, or go on where the checkpoint was."""
    session, record = training.session, training.session.record
    count = sum(parameter.numel() for parameter in descent.trained)
    method, styles = training.method, [Path(style.image).name for style in configuration.styles(training.config)]
    choices = session.job.choices
    chosen = " ".join(choices[group] for group in ("transformer", "training") if group in choices)
    processes = f" in {training.group.world_size} processes" if training.group.world_size > 1 else ""
    carried = f", carried on from step {descent.begin}" if descent.begin else ""
    log.info(
        "%s",
        f"A network for {', '.join(styles)}: {chosen}, {count:,} weights, {training.config.steps} steps of "
        f"{method.batch} pictures on {session.device}{processes}{carried}",
    )
    height, width = training.inputs.content.shape[2:]
    record.note(size={"width": width, "height": height}, parameters=count, processes=training.group.world_size)
    precision = runtime.choose_precision(training.config.precision, session.device)
    features = getattr(training.method, "features", None)
    record.note_computation(precision=precision, engine=features.describe() if features else "none")
    session.trackers = _trackers(training)


@contextlib.contextmanager
def _keeping_what_there_is(training: Training, descent: _Descent) -> Iterator[None]:
    """Save the current picture if the block is interrupted, and the last good network if the loss diverges."""
    session = training.session
    try:
        yield
    except runtime.Interrupted:
        if training.group.writes:
            path = training.keep("interrupted")
            log.warning(
                "Interrupted after %d of %d steps; the picture is in %s", session.done, training.config.steps, path
            )
        raise
    except Diverged:
        if training.group.writes and descent.best is not None:
            with contextlib.suppress(UserError):  # the disk may be full, and the run ends anyway
                training.network.load_state_dict(descent.best)
                transformers.save(session.folder / "best.safetensors", training.network, _about(training))
                training.keep("best")
        raise


def _trackers(training: Training) -> common.Trackers:
    """Make everything that watches the training, each where it stood at the checkpoint."""
    session, config, content = training.session, training.config, training.inputs.content
    steps, pictures = int(config.steps), (content, training.inputs.styles)
    trackers = common.of_any_task(session, pictures, training.inputs.shape, steps, training.evaluator)
    path = session.folder / REFERENCE
    optimised = rgb.load(str(path), max(content.shape[2:])) if path.is_file() else None
    shown = [ValidationPhoto(Path(str(config.content)).stem, content, optimised)]
    for name in training.method.validation:
        picture = rgb.load(name, config.size, config.fit, config.resample, config.background)
        shown.append(ValidationPhoto(Path(name).stem, picture.to(content)))
    trackers.each["validation"] = ValidationPictures(shown, training.paint, trackers.picture, steps)
    return trackers


def _finish(training: Training, outcome: Outcome) -> None:
    """Save the network and what it makes of the content; score and record them."""
    session, record, folder = training.session, training.session.record, training.session.folder
    per_picture = seconds_per_picture(training)
    network = folder / resume.NETWORK_FILE
    transformers.save(network, training.network, _about(training))
    result = training.keep("result")
    scores = common.scores(training.evaluator, result, record.facts) if training.evaluator else None
    if scores:
        session.trackers.scores(scores, outcome.last.index)
    about = training.method.about()
    seconds = outcome.last.seconds + float((about.get("pairs") or {}).get("seconds", 0))
    record.note(**about, scores=scores, seconds_per_picture=per_picture, training_seconds=round(seconds, 3))
    record.note(break_even=break_even(seconds, per_picture, (record.facts.get("reference") or {}).get("seconds")))
    parts, peak = session.seconds(optimisation=outcome.last.seconds), runtime.peak_memory_bytes(session.device)
    record.note_result(outcome, Snapshot(outcome.last).losses, parts, peak)
    made = provenance.output_file(network)
    record.note(network=made, outputs=record.facts["outputs"] | {made["file"]: made["sha256"]})
    (folder / "best.safetensors").unlink(missing_ok=True)  # what an earlier attempt left
    session.finish()
    text = "%s in %.1f s, a picture of this size takes %.3f s: %s"
    log.info(text, outcome.reason, session.elapsed, per_picture, network)
    if float(training.paint_content().std((2, 3)).max()) < PLAIN:
        log.warning("The network paints a plain colour: it has learnt nothing else. Lower optimizer.lr, to a tenth.")
    log.info("Paint with it: python run.py task=apply %s content=photo.jpg", shlex.quote(f"model={network}"))


def seconds_per_picture(training: Training) -> float:
    """Return the median time in which the network paints the content, after one to warm up."""
    _, *times = timeit.repeat(training.paint_content, number=1, repeat=TIMED + 1)
    return float(f"{statistics.median(times):.4g}")


def break_even(training: float, per_picture: float, optimised: float | None) -> int | None:
    """Return from how many pictures on training a network, and painting with it, takes less time than optimising each.

    All are seconds: of the training, and for one picture those of the network and, if known, of the optimiser.
    """
    if optimised is None or optimised <= per_picture:
        return None
    return math.ceil(training / (optimised - per_picture))


def _about(training: Training) -> dict[str, Any]:
    """Return what the network's file is to tell of the network."""
    config = {k: v for k, v in resume.settings(training.config).items() if k not in resume.HOUSEKEEPING}
    facts = [provenance.image_file(style.image) for style in configuration.styles(training.config)]
    styles = [
        {"label": Path(fact["name"]).stem, "file": Path(fact["file"]).name, "sha256": fact["sha256"]} for fact in facts
    ]
    return {"styles": styles, "config": config, "steps": int(config["steps"])}


def _on(items: list[Any], device: torch.device, dtype: torch.dtype) -> Any:
    """Return the items of a step put together, on the device, pictures in the precision of the network."""
    return tree_map(
        lambda value: value.to(device, dtype if value.is_floating_point() else value.dtype, non_blocking=True),
        default_collate(items),
    )


def _mean(losses: Losses, group: ProcessGroup | None) -> Losses:
    """Return losses averaged over the batch, ``(1,)`` each; with a group over all processes' shares of it."""
    values = torch.stack([value.mean() for value in losses.named().values()])
    mean = dict(zip(losses.named(), (group.mean(values) if group else values).split(1), strict=True))
    total, content, style, tv = (mean.pop(f"loss/{name}") for name in ("total", *TERMS))
    return Losses(total, content, style, tv, mean)


@contextlib.contextmanager
def _memory_explained() -> Iterator[None]:
    """Turn an error of the block that says that memory ran out into one that says what to do."""
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or not memory.is_out_of_memory(error):
            raise
        raise UserError(
            "Out of memory. Lower training.batch or training.crop, choose transformer=small, or a smaller backbone."
        ) from error
