"""The run in Trackio (https://github.com/gradio-app/trackio): on this machine, or in a Hugging Face Space."""

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from nst.tracking import RunInfo, Snapshot, Tracker, named_scores


class Trackio(Tracker):
    """Logs configuration, curves, pictures, scores, and how the run ended; a sweep is a group.

    Args:
        run: that is watched.
        position: name of the run there, which is carried on with; steps done again are there twice.
        project: where runs are put.
        space: Hugging Face Space to send to; None: the store on this machine.
        tags: beside those of the run.
    """

    needs = "trackio"

    def __init__(
        self,
        run: RunInfo,
        position: str | None = None,
        project: str = "nst",
        space: str | None = None,
        tags: Sequence[str] = (),
    ) -> None:
        import trackio  # here, since few have it

        self.run, self.as_image = run, trackio.Image
        self.name = position or " ".join(filter(None, (run.group, run.name))).replace("/", " ")  # it goes by the name
        self.there: Any = trackio.init(
            project=project,
            name=self.name,
            group=run.group,
            space_id=space,
            config={**run.config, "tags": [*run.tags, *tags]},
            resume="allow" if position else "never",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
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
        """Log the scores of the result."""
        self.there.log(named_scores(scores), step=step)

    def position(self) -> str:
        """Return the name of the run there."""
        return self.name

    def close(self, status: str, reason: str) -> None:
        """Log how it ended, and why."""
        self.there.log({"status": status, **({"reason": reason} if reason else {})})
        self.there.finish()
