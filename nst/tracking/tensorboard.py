"""The run in TensorBoard: curves, pictures, the configuration, and a row in the HParams tab."""

import io
import os
import time
from collections.abc import Mapping
from fnmatch import fnmatch
from typing import Any

import yaml
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import custom_scalars
from torch.utils.tensorboard.summary import hparams as hparams_summary

from nst.files import writing
from nst.runs.notes import EVENTS
from nst.tracking import RunInfo, Snapshot, Tracker, named_scores

PATIENCE = 3.0  # seconds to wait for the next one of the clock; a clock that has been put back is not waited for
COLUMNS = 5  # hyperparameters that the HParams tab shows unasked: those that differ, by name
COMPARED = ("content_distance", "style_distance", "ssim")  # scores that the HParams tab shows
CHARTS = {
    "Losses": {
        "weighted terms": ["Multiline", ["loss/content", "loss/style", "loss/tv"]],
        "total": ["Multiline", ["loss$"]],
        "content, unweighted": ["Multiline", ["unweighted/content$"]],
        "style, unweighted": ["Multiline", ["unweighted/style$"]],
    },
    "Layers": {
        "style layers": ["Multiline", ["unweighted/style_layers/.*"]],
        "content layers": ["Multiline", ["unweighted/content_layers/.*"]],
    },
}  # the Custom Scalars tab: the charts that answer most questions
FILES = "events.out.tfevents.*"
FINAL = {"unweighted/content": "result/content", "unweighted/style": "result/style", "loss/total": "result/total"}
# Time Series sorts tags by name and opens the first two groups: these are to be the loss and the picture.
SHOWN_AS = {"loss/total": "loss", "lr": "rate/lr"}
UNWEIGHTED, INSIDE = ("content_layers/", "style_layers/"), ("features/", "gram/")


class TensorBoard(Tracker):
    """Writes one TensorBoard run; the HParams row belongs to the same run, so a sweep compares without extra runs.

    Args:
        run: that is watched.
        position: what ``position`` returned: events written since are taken back, and what follows goes to a new file.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(self, run: RunInfo, position: dict[str, Any] | None = None) -> None:
        self.run, self.folder = run, run.folder
        self.metrics = [f"{run.evaluator}/{name}" for name in COMPARED] if run.evaluator else []
        self.metrics += [*FINAL.values(), "result/seconds"]
        self.previous: tuple[int, float] | None = None
        self.next = 0
        with writing(run.folder):
            if position is not None:
                self._take_back(position)
            self.writer = self._open()
            if position is None:
                text = yaml.safe_dump({**run.config}, sort_keys=False, allow_unicode=True)
                self.writer.add_text("config", f"```yaml\n{text}\n```", 0)
                self._write_hparams()
                self._add(custom_scalars(CHARTS))
            self.writer.flush()

    def _open(self) -> SummaryWriter:
        """Open a file of events that comes after all that are there: TensorBoard reads them in the order of names.

        A name begins with the second, and ends with a number that is sorted as a text.
        """
        before = {path.name for path in self.folder.glob(FILES)}
        last = max((name for name in before if not fnmatch(name, EVENTS)), default="")
        until = time.monotonic() + PATIENCE
        while True:
            writer = SummaryWriter(str(self.folder), purge_step=self.next or None)
            (made,) = (path for path in self.folder.glob(FILES) if path.name not in before)
            if made.name > last or time.monotonic() > until:
                return writer
            writer.close()
            made.unlink()
            time.sleep(0.2)

    def picture(self, tag: str, picture: Image.Image, step: int) -> None:
        """Show a picture as it is."""
        buffer = io.BytesIO()
        picture.save(buffer, "png")
        encoded = Summary.Image(
            height=picture.height, width=picture.width, colorspace=3, encoded_image_string=buffer.getvalue()
        )
        with writing(self.folder):
            self._add(Summary(value=[Summary.Value(tag=tag_of(tag), image=encoded)]), step)

    def step(self, snapshot: Snapshot) -> None:
        """Write curves at logged steps and pictures at log-spaced ones."""
        step = snapshot.step
        self.next = step.index + 1
        with writing(self.folder):
            if snapshot.logged:
                self._write_curves(snapshot)
            for tag, picture in self.run.shown(snapshot).items():
                self.picture(tag, picture, step.index)
            if snapshot.logged:
                self.writer.flush()

    def scores(self, scores: Mapping[str, Any], step: int) -> None:
        """Write the evaluator's scores of the final picture, under the evaluator's name."""
        with writing(self.folder):
            for tag, value in named_scores(scores).items():
                self.writer.add_scalar(tag, value, step)
            self.writer.flush()

    def position(self) -> dict[str, Any]:
        """Return the length in bytes of each file of events, and what the next curve point needs."""
        with writing(self.folder):
            self.writer.flush()
            sizes = {}
            for path in sorted(self.folder.glob(FILES)):
                with path.open("rb") as file:
                    os.fsync(file.fileno())
                sizes[path.name] = path.stat().st_size
        return {"files": sizes, "previous": self.previous, "next": self.next}

    def _take_back(self, position: dict[str, Any]) -> None:
        """Cut the files of events to what stood in them at a position."""
        for path in self.folder.glob(FILES):
            if path.name in position["files"]:
                os.truncate(path, position["files"][path.name])
            elif not path.match(EVENTS):  # the text of somebody's notes, which stays
                path.unlink()
        self.previous, self.next = position["previous"], position["next"]

    def close(self, status: str, reason: str) -> None:
        """Close the session of the HParams tab and the file."""
        codes = {"done": api_pb2.STATUS_SUCCESS, "failed": api_pb2.STATUS_FAILURE}
        ended = SessionEndInfo(status=codes.get(status, api_pb2.STATUS_UNKNOWN), end_time_secs=time.time())
        about = metadata.create_summary_metadata(HParamsPluginData(session_end_info=ended))
        with writing(self.folder):
            self._add(Summary(value=[Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=about)]))
            self.writer.close()

    def _write_curves(self, snapshot: Snapshot) -> None:
        step = snapshot.step
        for tag, value in snapshot.values.items():
            self.writer.add_scalar(tag_of(tag), value, step.index)
        if self.previous and step.index > self.previous[0]:
            pace = (step.seconds - self.previous[1]) / (step.index - self.previous[0])
            self.writer.add_scalar("time/seconds_per_step", pace, step.index)
        self.previous = step.index, step.seconds
        if step.last:
            for tag, final in FINAL.items():
                if tag in snapshot.values:  # pairs are learnt from without any
                    self.writer.add_scalar(final, snapshot.values[tag], step.index)
            self.writer.add_scalar("result/seconds", step.seconds, step.index)

    def _write_hparams(self) -> None:
        """Write the row of the HParams tab through this run's writer; ``add_hparams`` would open a second run.

        TensorBoard takes the columns of all rows from one run of a log directory, whichever: so each offers the same.
        """
        hparams = {k: v if isinstance(v, bool | int | float) else str(v) for k, v in self.run.hparams.items()}
        experiment, session_start, _ = hparams_summary(hparams, dict.fromkeys(self.metrics, 0.0))
        about = HParamsPluginData.FromString(experiment.value[0].metadata.plugin_data.content)
        first = [*dict.fromkeys([*self.run.varied, *hparams])][:COLUMNS]
        for column in about.experiment.hparam_infos:
            column.differs = column.name in first
        for metric in about.experiment.metric_infos:
            metric.display_name = metric.name.tag.removeprefix(f"{self.run.evaluator}/")
        experiment.value[0].metadata.plugin_data.content = about.SerializeToString()
        self._add(experiment)
        self._add(session_start)

    def _add(self, summary: Any, step: int | None = None) -> None:
        assert self.writer.file_writer is not None
        self.writer.file_writer.add_summary(summary, step)


def tag_of(tag: str) -> str:
    """Return what a tag of ours is called in TensorBoard."""
    if tag.startswith(UNWEIGHTED):
        return f"unweighted/{tag}"
    return f"seen/{tag}" if tag.startswith(INSIDE) else SHOWN_AS.get(tag, tag)
