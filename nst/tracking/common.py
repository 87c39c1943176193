"""What watches a run, whichever its task, all as one; what runs are compared by; and the scores at the end."""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import Tensor

from nst import configuration
from nst.configuration import tasks
from nst.errors import UserError
from nst.evaluation.evaluator import Evaluator, recorded_masks, recorded_styles
from nst.runs import launchers, logs, resume, sweep
from nst.runs.record import Job
from nst.runs.session import Session
from nst.runtime import memory
from nst.tracking import RunInfo, Snapshot, Tracker

log = logging.getLogger(__name__)
EVERYDAY = ("content", "style", "beta", "steps", "size", "alpha", "tv", "pooling", "seed")
TAGS = ("task", "experiment", "study", "method")
MISSED = {
    "metrics": "metrics.csv, so that a report has no curves",
    "previews": "previews, so that a report has no steps",
}


class Trackers:
    """All that watches a run, as one. One that fails is left out, and the run goes on; a UserError ends the run.

    Args:
        run: that is watched.
        nodes: the configuration of each tracker, by the name that a checkpoint knows.
        positions: where each stood at the checkpoint that is carried on from.
    """

    def __init__(self, run: RunInfo, nodes: Mapping[str, Any], positions: Mapping[str, Any]) -> None:
        self.run, self.positions = run, {**positions}
        self.each: dict[str, Tracker] = {}
        for name, node in nodes.items():
            with self._left_out_if_it_fails(name):
                make = configuration.build({**node, "_partial_": True})  # so that its own exception is seen
                known = {"position": self.positions[name]} if name in self.positions else {}
                self.each[name] = make(run=run, **known)

    def step(self, snapshot: Snapshot) -> None:
        """See one step."""
        self._call("step", snapshot)

    def picture(self, tag: str, picture: Image.Image, step: int) -> None:
        """See a picture beside the run's own."""
        self._call("picture", tag, picture, step)

    def scores(self, scores: Mapping[str, Any], step: int) -> None:
        """See the scores of the result."""
        self._call("scores", scores, step)

    def position(self) -> dict[str, Any]:
        """Return where each stands; of one that is not there any more, where it stood."""
        for name, tracker in [*self.each.items()]:
            with self._left_out_if_it_fails(name):
                self.positions[name] = tracker.position()
        return {**self.positions}

    def close(self, status: str, reason: str) -> None:
        """End, all of them even if the disk is full."""
        with contextlib.ExitStack() as ends:
            for name, tracker in self.each.items():
                ends.enter_context(self._left_out_if_it_fails(name))
                ends.callback(tracker.close, status, reason)

    def _call(self, method: str, *given: Any) -> None:
        for name, tracker in [*self.each.items()]:
            with self._left_out_if_it_fails(name):
                getattr(tracker, method)(*given)

    @contextlib.contextmanager
    def _left_out_if_it_fails(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if isinstance(error, UserError) or memory.is_out_of_memory(error):
                raise
            self.each.pop(name, None)
            with logs.logging_for(self.run.folder):
                why = f"{type(error).__name__}: {error}".removesuffix(": ")
                log.warning("tracking.%s fails and is left out from here on; the run goes on: %s", name, why)
                log.debug("How it failed:", exc_info=error)


def of_any_task(
    session: Session,
    pictures: tuple[Tensor, Sequence[Tensor]],
    shape: tuple[int, int] | None,
    steps: int,
    evaluator: Evaluator | None,
) -> Trackers:
    """Return what watches a run that makes steps, each where it stood at the checkpoint.

    Args:
        session: of the run.
        pictures: the content image and the style images, ``(1, 3, H, W)`` RGB each.
        shape: (width, height) of the result, if not the picture's own.
        steps: that it will make.
        evaluator: what will score the result.
    """
    saved, job, config = session.saved or {}, session.job, session.config
    hparams, varied = compared_by(job)
    run = RunInfo(
        folder=session.folder,
        config=resume.settings(config),
        steps=steps,
        content=pictures[0],
        styles=pictures[1],
        begin=saved.get("step", 0),
        shape=shape,
        sweep=job.sweep,
        evaluator=evaluator.name if evaluator else None,
        tags=[job.choices[group] for group in TAGS if job.choices.get(group, "None") != "None"],
        hparams=hparams,
        varied=varied,
        shows_progress=session.shows_progress and not launchers.in_worker(),
    )
    nodes = run.config["tracking"] or {}
    for name in MISSED.keys() - nodes.keys():
        log.info("tracking leaves out %s: there will be no %s", name, MISSED[name])
    return Trackers(run, nodes, saved.get("trackers", {}))


def compared_by(job: Job) -> tuple[dict[str, Any], list[str]]:
    """Return what runs are compared by, name to value, and which of it the sweep varies or, of a single run, was typed.

    All runs have the everyday knobs and the groups, so that those of different sweeps compare.
    """
    found = {name: job.config[name] for name in EVERYDAY}
    used = [group for group in configuration.GROUPS if tasks.uses(job.config.task, group)]
    found |= {group: job.choices[group] for group in used if group in job.choices}
    swept = resume.read(job.sweep / sweep.PLAN).get("swept") if job.sweep else None
    typed = [resume.key_of(override) for override in job.overrides]
    varied = []
    for key in sorted(swept) if swept else typed:
        value = found.get(key, OmegaConf.select(job.config, key, default=job.choices.get(key)))
        if value is None or isinstance(value, DictConfig) or resume.is_housekeeping(key):
            continue
        found[key] = value
        varied.append(key)
    return found, varied


def scores(evaluator: Evaluator, result: Path, facts: dict[str, Any]) -> dict[str, Any] | None:
    """Score a saved result; an input that has vanished meanwhile does not fail a run that is finished."""
    content, config = Path(facts["content"]["file"]), facts["config"]
    masks = [None if fact is None else Path(fact["file"]) for fact in recorded_masks(facts)]
    protected = (facts.get("further_images") or {}).get("content_mask")
    try:
        return dict(
            evaluator.scores_of_blend(
                result,
                content,
                recorded_styles(facts),
                background=config["background"],
                color=config.get("color", "style"),
                masks=masks,
                protected=None if protected is None else Path(protected["file"]),
            )
        )
    except UserError as error:
        log.warning("The result is not scored: %s", error)
        return None
