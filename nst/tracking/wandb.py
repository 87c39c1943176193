"""The run in Weights & Biases (https://docs.wandb.ai): online, or offline and sent later with ``wandb sync``."""

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from nst.tracking import RunInfo, Snapshot, Tracker, picture_steps

PICTURES = 10  # beside the start


class WandB(Tracker):
    """Logs configuration, curves, pictures, scores, and how the run ended; a sweep is a group.

    Args:
        run: that is watched.
        position: id of the run there, which is carried on with; steps that it has already it passes over.
        project: where runs are put.
        entity: user or team; None: one's own.
        mode: ``online``, ``offline`` or ``disabled``; None: as WANDB_MODE says, else online.
        tags: beside those of the run.
    """

    needs = "wandb"

    def __init__(
        self,
        run: RunInfo,
        position: str | None = None,
        project: str = "nst",
        entity: str | None = None,
        mode: str | None = None,
        tags: Sequence[str] = (),
    ) -> None:
        import wandb  # here, since few have it

        self.run, self.turns, self.as_image = run, {0} | picture_steps(run.steps, PICTURES), wandb.Image
        self.there: Any = wandb.init(
            project=project,
            entity=entity,
            mode=mode,
            dir=str(run.folder),
            id=position,
            resume="allow" if position else None,
            reinit="create_new",  # the runs of a batch go on side by side
            name=run.name,
            group=run.group,
            tags=[*run.tags, *tags],
            notes=run.config.get("question"),
            config={**run.config},
            settings=wandb.Settings(console="off", quiet=True),
        )

    def step(self, snapshot: Snapshot) -> None:
        """Log numbers at logged steps, and pictures at log-spaced ones."""
        step = snapshot.step
        values: dict[str, Any] = {**snapshot.values, "seconds": step.seconds} if snapshot.logged else {}
        if step.index in self.turns or step.last:
            values["picture/progress"] = self.as_image(self.run.picture(snapshot.image))
        if step.index == 0 or step.last:
            values["picture/content_style_result"] = self.as_image(self.run.beside_inputs(snapshot.image))
        if values:
            self.there.log(values, step=step.index)

    def picture(self, tag: str, picture: Image.Image, step: int) -> None:
        """Log it."""
        self.there.log({tag: self.as_image(picture)}, step=step)

    def scores(self, scores: Mapping[str, Any], step: int) -> None:
        """Put the scores into the summary, where runs are compared."""
        numbers = {name: value for name, value in scores.items() if isinstance(value, int | float)}
        self.there.summary.update({f"{scores['evaluator']}/{name}": value for name, value in numbers.items()})

    def position(self) -> str:
        """Return the id of the run there."""
        return str(self.there.id)

    def close(self, status: str, reason: str) -> None:
        """End it; one that is not done is ``failed`` there, and its summary says why."""
        self.there.summary.update({"status": status, "reason": reason})
        self.there.finish(exit_code=0 if status == "done" else 1)
