"""The run in MLflow (https://mlflow.org): in a database on this machine, or on a server."""

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from filelock import FileLock
from PIL import Image

from nst.tracking import RunInfo, Snapshot, Tracker, named_scores

ENDS = {"done": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
AT_ONCE = 100  # parameters that MLflow takes in one call
LONGEST = 500  # characters of a value; the whole configuration is an artifact


class MLflow(Tracker):
    """Logs configuration, curves, pictures, scores, and how the run ended; the tag ``sweep`` names a sweep.

    Args:
        run: that is watched.
        position: id of the run there, which is carried on with; steps that it has already are not logged twice.
        experiment: where runs are put.
        uri: of the store; None: as MLFLOW_TRACKING_URI says.
        tags: beside those of the run.
    """

    needs = "mlflow"

    def __init__(
        self,
        run: RunInfo,
        position: str | None = None,
        experiment: str = "nst",
        uri: str | None = "sqlite:///mlflow.db",
        tags: Sequence[str] = (),
    ) -> None:
        from mlflow import MlflowClient  # here, since few have it

        self.run, self.seen = run, -1
        # workers that begin at once would make the same tables
        with FileLock((run.sweep or run.folder) / ".mlflow.lock"):
            self.client: Any = MlflowClient(tracking_uri=uri)
            known = self.client.get_experiment_by_name(experiment)
            place = known.experiment_id if known else self.client.create_experiment(experiment)
        if position:
            self.id = position
            self.client.update_run(self.id, status="RUNNING")
            self.seen = max((m.step for m in self.client.get_metric_history(self.id, "loss/total")), default=-1)
            return
        about = {"sweep": run.group, "mlflow.note.content": run.config.get("question"), "tags": ",".join(run.tags)}
        about |= dict.fromkeys(tags, "true")
        given = {name: text for name, text in about.items() if text}
        self.id = self.client.create_run(place, run_name=run.name, tags=given).info.run_id
        self.client.log_dict(self.id, {**run.config}, "config.yaml")
        self._log_parameters()

    def _log_parameters(self) -> None:
        from mlflow.entities import Param

        flat = [Param(_allowed(name), str(value)[:LONGEST]) for name, value in _flat(self.run.config).items()]
        for begin in range(0, len(flat), AT_ONCE):
            self.client.log_batch(self.id, params=flat[begin : begin + AT_ONCE])

    def _log(self, numbers: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = time.time_ns() // 10**6
        self.client.log_batch(
            self.id, metrics=[Metric(_allowed(name), value, now, step) for name, value in numbers.items()]
        )

    def step(self, snapshot: Snapshot) -> None:
        """Log numbers at logged steps, and pictures at log-spaced ones."""
        step = snapshot.step
        if step.index <= self.seen:
            return
        if snapshot.logged:
            self._log(snapshot.values | {"seconds": step.seconds}, step.index)
        pictures = self.run.shown(snapshot)
        for tag, picture in pictures.items():
            self.picture(tag, picture, step.index)
        if step.last:
            strip = pictures["picture/content_style_result"]
            self.client.log_image(self.id, strip, artifact_file="content_style_result.png")

    def picture(self, tag: str, picture: Image.Image, step: int) -> None:
        """Log it."""
        self.client.log_image(self.id, picture, key=_allowed(tag), step=step)

    def scores(self, scores: Mapping[str, Any], step: int) -> None:
        """Log the scores as metrics, where runs are compared."""
        self._log(named_scores(scores), step)

    def position(self) -> str:
        """Return the id of the run there."""
        return str(self.id)

    def close(self, status: str, reason: str) -> None:
        """End it; the tag ``reason`` says why it is not done."""
        if reason:
            self.client.set_tag(self.id, "reason", reason[:LONGEST])
        self.client.set_terminated(self.id, ENDS.get(status, "FAILED"))


def _allowed(name: str) -> str:
    """Return a name without what MLflow does not take in one."""
    return re.sub(r"[^A-Za-z0-9_\-./ ]", "_", name)


def _flat(node: Any, name: str = "") -> dict[str, Any]:
    """Return a configuration by dotted names."""
    if not isinstance(node, Mapping) or not node:
        return {name: node}
    return {key: v for k, one in node.items() for key, v in _flat(one, f"{name}.{k}" if name else str(k)).items()}
