"""The run in Weights & Biases (https://docs.wandb.ai): online, or offline and sent later with ``wandb sync``."""

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from nst.tracking import RunInfo, Snapshot, Tracker, named_scores


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

        self.run, self.as_image = run, wandb.Image
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
        values |= {tag: self.as_image(picture) for tag, picture in self.run.shown(snapshot).items()}
        if values:
            self.there.log(values, step=step.index)

    def picture(self, tag: str, picture: Image.Image, step: int) -> None:
        """Log it."""
        self.there.log({tag: self.as_image(picture)}, step=step)

    def scores(self, scores: Mapping[str, Any], step: int) -> None:
        """Put the scores into the summary, where runs are compared."""
        self.there.summary.update(named_scores(scores))

    def position(self) -> str:
        """Return the id of the run there."""
        return str(self.there.id)

    def close(self, status: str, reason: str) -> None:
        """End it; one that is not done is ``failed`` there, and its summary says why."""
        self.there.summary.update({"status": status, "reason": reason})
        self.there.finish(exit_code=0 if status == "done" else 1)
