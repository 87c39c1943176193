"""What a run tells on the way: trackers, record, pictures kept, messages. The story is in ``stylize``."""

import contextlib
import csv
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import Tensor

from nst import configuration, runtime
from nst.configuration import PIXELS
from nst.evaluation.evaluator import Evaluator
from nst.images.canvas import Canvas
from nst.images.pixels import PixelSpace
from nst.optimization import schedule
from nst.optimization.loop import Outcome
from nst.optimization.state import Callback, Diverged, State, Step
from nst.runs import resume
from nst.runs.session import Session
from nst.setup.fitting import MemoryPlan
from nst.setup.inputs import Inputs
from nst.setup.network import inspected_maps
from nst.setup.objective import LossWithTargets
from nst.tracking import Snapshot, common
from nst.tracking.inside import Inside

log = logging.getLogger(__name__)
MOVED = 1e-3  # share of the loss by which a descent has moved it at least
BOUNDED = ("Adam", "AdamW", "Adamax", "NAdam", "RAdam", "KerasAdam")  # whose steps are not longer than their rate


class Reporter(Callback):
    """Hands a run's steps to its trackers, saves its checkpoints, and notes in its record how it goes.

    Args:
        session: of the run.
        images: at the size of the last scale.
    """

    canvas: Canvas  # at the size of the scale at hand

    def __init__(self, session: Session, images: Inputs) -> None:
        self.session, self.images, self.config = session, images, session.config
        self.evaluator: Evaluator | None = configuration.build(session.config.evaluator)
        self.plan = schedule.scales(session.config)
        self.steps = sum(scale.steps for scale in self.plan)
        self.scale, self.scale_began = 0, 0

    def begin(self, losses: LossWithTargets, memory: MemoryPlan, space: PixelSpace, start: Tensor) -> None:
        """Note how the run is computed, say so, and begin to track it."""
        session, record, config = self.session, self.session.record, self.config
        height, width = self.images.content.shape[2:]
        width, height = self.images.shape or (width, height)  # a squeezed picture is saved at its own shape
        record.note(
            evaluator={"name": self.evaluator.name, **self.evaluator.settings} if self.evaluator else None,
            memory_estimate_bytes=memory.need.total if memory.need else None,
            size={"width": width, "height": height},
        )
        if len(self.plan) > 1 and "scales" not in record.facts:
            record.note(scales=[vars(one) for one in self.plan])
        engine = losses.describe()  # which says so where a network is not made for bfloat16
        precision = runtime.choose_precision("float32" if "float32" in engine else config.precision, session.device)
        record.note_computation(precision=precision, engine=engine, tile=str(losses.tile or "none"))
        with session.on_console():
            log.info("%s", self._headline(precision, engine))
            if session.saved is None and (warning := rate_too_low(config, space, start)):
                log.warning("%s", warning)
        pictures = self.images.content, self.images.styles
        trackers = common.of_any_task(session, pictures, self.images.shape, self.steps, self.evaluator)
        if (maps_of := inspected_maps(config, session.device)) is not None:
            trackers.each["inside"] = Inside(trackers.run, maps_of, trackers.picture)
        session.trackers = trackers

    def at_scale(self, number: int, begin: int, canvas: Canvas, start: Tensor | None = None) -> None:
        """Say which scale begins at which step, what becomes of its pixels, and its start, if targets need that."""
        kept = {} if start is None else {"start": start.clone()}
        self.place: dict[str, Any] = {"scale": number, "begin": begin, **kept}
        self.scale, self.scale_began, self.canvas = number, begin, canvas
        may_go_on = number == len(self.plan) - 1 and resume.bound_to_length(self.config) is None
        self.end = begin + self.plan[number].steps if may_go_on else None

    def step(self, step: Step) -> None:
        """Hand a picture to the trackers."""
        self.session.see(Snapshot(step, self.canvas))

    def between(self, take_state: Callable[[], State] | None) -> None:
        """Save a checkpoint if it is due, and answer a signal."""
        at_end = self.session.done == self.end
        self.session.between(take_state and (lambda: self.place | {"descent": take_state()}), at_end)

    @contextlib.contextmanager
    def keeping_what_there_is(self) -> Iterator[None]:
        """Save the current picture if the block is interrupted, and the best one if the loss diverges."""
        try:
            yield
        except runtime.Interrupted:
            if (latest := self.session.latest) is not None:
                path = self.session.keep("interrupted", latest.image, self.images.shape)
                done = min(self.session.done, self.steps)
                with self.session.on_console():
                    log.warning("Interrupted after %d of %d steps; the picture is in %s", done, self.steps, path)
            raise
        except Diverged as error:
            if error.best is not None:
                path = self.session.keep("best", self.canvas.decode(error.best).cpu(), self.images.shape)
                with self.session.on_console():
                    log.warning("The best picture so far is in %s", path)
            raise

    def end_scale(self, outcome: Outcome) -> None:
        """Note how a scale ended."""
        record, last = self.session.record, outcome.last
        if "scales" not in record.facts:
            return
        height, width = last.pixels.shape[2:]
        how: dict[str, Any] = {"steps": last.index - self.scale_began, "evaluations": last.evaluations}
        how |= {"width": width, "height": height, "stopped_because": outcome.reason}
        how |= {"seconds": round(last.seconds, 3), "final": Snapshot(last, self.canvas).losses}
        scales = [*record.facts["scales"]]
        scales[self.scale] = scales[self.scale] | how
        record.note(scales=scales)

    def finish(self, outcome: Outcome | None) -> None:
        """Save, score and record the result."""
        session, latest = self.session, self.session.latest
        assert outcome is not None
        peak = runtime.peak_memory_bytes(session.device)
        result = session.keep("result", latest.image, self.images.shape)
        scores = common.scores(self.evaluator, result, session.record.facts) if self.evaluator else None
        if scores:
            session.trackers.scores(scores, outcome.last.index)
        session.record.note(scores=scores)
        seconds = session.seconds(optimisation=outcome.last.seconds)
        session.record.note_result(outcome, latest.values, seconds, peak)
        session.finish()
        with session.on_console():
            if warning := has_hardly_moved(session.folder / "metrics.csv"):
                log.warning("%s", warning)
            log.info("%s in %.1f s: %s", outcome.reason, seconds["total"], result)

    def _headline(self, precision: str, engine: str) -> str:
        session, config = self.session, self.config
        height, width = self.images.content.shape[2:]
        scales = len(schedule.scales(config))
        name = f"{session.folder.name}: " if session.batch_size > 1 else ""
        size = f"{width} x {height} pixels" + (f" in {scales} scales" if scales > 1 else "")
        begin = f", carried on from step {session.saved['step']}" if session.saved else ""
        styles = ", ".join(Path(style.image).name for style in configuration.styles(config))
        chosen = ", ".join(session.job.choices[g] for g in ("backbone", "optimizer") if g in session.job.choices)
        return (
            f"{name}{Path(str(config.content)).name} in the style of {styles}: {size}, {chosen}, {self.steps} steps "
            f"on {session.device} in {precision} ({engine}){begin}"
        )


def rate_too_low(config: DictConfig, space: PixelSpace, like: Tensor) -> str | None:
    """Return what to tell of a rate at which no pixel gets from black to white, or None.

    A step of Adam and its relatives moves a pixel by about the learning rate at most.
    """
    rate, steps = config.optimizer.get("lr"), schedule.total_steps(config)
    is_bounded = str(config.optimizer.get("_target_")).rpartition(".")[2] in BOUNDED
    if not (is_bounded and config.parameterization.get("_target_") == PIXELS and isinstance(rate, int | float)):
        return None
    black, white = space.bounds(like)
    reach = 1.0 if config.optimizer_units == "range" else float((white - black).abs().min())
    if rate * steps >= reach:
        return None
    return (
        f"optimizer.lr={rate:g} moves a pixel by {rate * steps / reach:.2g} of the range from black to white at most "
        f"in {steps} steps: raise optimizer.lr or steps, or the picture stays close to its start."
    )


def has_hardly_moved(metrics: Path) -> str | None:
    """Return what to tell of a descent that has left the loss where it was, or None."""
    if not metrics.is_file():  # nobody wanted it
        return None
    with metrics.open(newline="", encoding="utf-8") as file:
        totals = [float(row["loss/total"]) for row in csv.DictReader(file)]
    if len(totals) < 2 or max(totals) - min(totals) > MOVED * max(totals):
        return None
    return (
        f"The loss has hardly changed, {totals[0]:.6g} at first and {totals[-1]:.6g} in the end: the picture is about "
        "what it was. Raise optimizer.lr; L-BFGS, whose steps grow with the gradient, wants larger weights instead "
        "(alpha and beta, both by the same factor)."
    )
