"""What watches a run, whichever its task: numbers, curves, pictures on the way, progress; and the scores at its end."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from torch import Tensor

from nst import configuration
from nst.configuration import tasks
from nst.errors import UserError
from nst.evaluation.evaluator import Evaluator, recorded_masks, recorded_styles
from nst.runs import launchers, resume, sweep
from nst.runs.record import Job
from nst.runs.session import Session
from nst.tracking.metrics import MetricsFile
from nst.tracking.pictures import Frames, Previews
from nst.tracking.progress import progress
from nst.tracking.tensorboard import TensorBoard

log = logging.getLogger(__name__)


def of_any_task(
    session: Session, shape: tuple[int, int] | None, steps: int, evaluator: Evaluator | None
) -> dict[str, Any]:
    """Return what watches a run that makes steps, by the names that a checkpoint knows, each where it stood then.

    Args:
        session: of the run.
        shape: (width, height) of the result, if not the picture's own.
        steps: that it will make.
        evaluator: what will score the result.
    """
    saved, folder, config = session.saved, session.folder, session.config
    positions, begin = (saved["trackers"], saved["step"]) if saved else ({}, 0)
    return {
        "metrics": MetricsFile(folder / "metrics.csv", positions.get("metrics")),
        "tensorboard": TensorBoard(
            folder,
            steps,
            OmegaConf.to_yaml(config, resolve=True),
            hparams(session.job),
            shape=shape,
            evaluator=evaluator.name if evaluator else None,
            position=positions.get("tensorboard"),
        ),
        "frames": Frames(folder / "frames", config.save_every, shape, positions.get("frames")),
        "previews": Previews(folder / "previews", steps, shape, positions.get("previews")),
        "progress": progress(steps, begin, alone=session.shows_progress and not launchers.in_worker()),
    }


def show_inputs(board: TensorBoard, content: Tensor, styles: Sequence[Tensor], start: Tensor) -> None:
    """Show the pictures that a run begins with, ``(1, 3, H, W)`` RGB each."""
    named = {"style" if place == 0 else f"style_{place + 1}": style for place, style in enumerate(styles)}
    for tag, picture in {"content": content, **named, "start": start}.items():
        board.picture(tag, picture)


def hparams(job: Job) -> dict[str, Any]:
    """Return what the HParams tab compares: what a sweep varies, else everyday knobs, groups and whatever was typed.

    The tab shows only five columns unasked, so that fewer are better.
    """
    if keys := resume.read(job.sweep / sweep.PLAN).get("swept") if job.sweep else None:
        found = {key: job.choices.get(key, OmegaConf.select(job.config, key, default=None)) for key in sorted(keys)}
        return {key: value for key, value in found.items() if value is not None}
    everyday = ("content", "style", "alpha", "beta", "tv", "steps", "size", "pooling", "seed")
    hparams = {name: job.config[name] for name in everyday}
    used = [group for group in configuration.GROUPS if tasks.uses(job.config.task, group)]
    hparams |= {group: job.choices[group] for group in used if group in job.choices}
    for override in job.overrides:
        key = override.partition("=")[0].lstrip("+~")
        value = OmegaConf.select(job.config, key, default=None)
        if value is not None and key not in hparams and not OmegaConf.is_config(value):
            hparams[key] = value
    return hparams


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
