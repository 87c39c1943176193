"""The run in TensorBoard: curves, pictures, the configuration, and a row in the HParams tab."""

import io
import os
import time
from pathlib import Path
from typing import Any

from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import custom_scalars
from torch.utils.tensorboard.summary import hparams as hparams_summary

from nst.files import writing
from nst.images import rgb
from nst.runs.notes import EVENTS
from nst.tracking import Snapshot, Tracker

PICTURES = 10  # TensorBoard keeps ten pictures a tag by default (--samples_per_plugin images=N shows more)
COMPARED = ("content_distance", "style_distance", "ssim")  # scores that the HParams tab shows
CHARTS = {
    "Losses": {
        "weighted terms": ["Multiline", ["loss/content", "loss/style", "loss/tv"]],
        "total": ["Multiline", ["loss/total"]],
        "content, unweighted": ["Multiline", ["unweighted/content"]],
        "style, unweighted": ["Multiline", ["unweighted/style"]],
    },
    "Layers": {
        "style layers": ["Multiline", ["style_layers/.*"]],
        "content layers": ["Multiline", ["content_layers/.*"]],
    },
}  # the Custom Scalars tab: the charts that answer most questions
FILES = "events.out.tfevents.*"
FINAL = {"unweighted/content": "final/content", "unweighted/style": "final/style", "loss/total": "final/total"}


class TensorBoard(Tracker):
    """Writes one TensorBoard run; the HParams row belongs to the same run, so a sweep compares without extra runs.

    Args:
        folder: of the run.
        steps: how many there will be, to spread the pictures over.
        config: the resolved configuration as YAML.
        hparams: what the HParams tab shows of it: name to number, truth value or text.
        shape: (width, height) to show the picture at, if not its own.
        evaluator: name of the evaluator whose scores ``scores`` will be given, if any.
        position: what ``position`` returned: events written since are taken back, and what follows goes to a new file.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        steps: int,
        config: str,
        hparams: dict[str, Any],
        shape: tuple[int, int] | None = None,
        evaluator: str | None = None,
        position: dict[str, Any] | None = None,
    ) -> None:
        self.folder = folder
        self.shape = shape
        self.turns = picture_steps(steps)
        self.metrics = [f"{evaluator}/{name}" for name in COMPARED] if evaluator else []
        self.metrics += [*FINAL.values(), "final/seconds"]
        self.previous: tuple[int, float] | None = None
        self.next = 0
        with writing(folder):
            if position is not None:
                self._take_back(position)
            self.writer = SummaryWriter(str(folder), purge_step=self.next or None)
            if position is None:
                self.writer.add_text("config", f"```yaml\n{config}\n```", 0)
                self._write_hparams(hparams)
                self._add(custom_scalars(CHARTS))
            self.writer.flush()

    def picture(self, tag: str, image: Tensor) -> None:
        """Show a picture ``(1, 3, H, W)`` in [0, 1] that belongs to the run as a whole, such as the content image."""
        with writing(self.folder):
            self._add_picture(tag, image, 0)

    def show(self, tag: str, picture: Image.Image, step: int) -> None:
        """Show a finished picture as it is."""
        buffer = io.BytesIO()
        picture.save(buffer, "png")
        encoded = Summary.Image(
            height=picture.height, width=picture.width, colorspace=3, encoded_image_string=buffer.getvalue()
        )
        with writing(self.folder):
            self._add(Summary(value=[Summary.Value(tag=tag, image=encoded)]), step)

    def step(self, snapshot: Snapshot) -> None:
        """Write curves at logged steps and pictures at log-spaced ones."""
        step = snapshot.step
        self.next = step.index + 1
        with writing(self.folder):
            if snapshot.logged:
                self._write_curves(snapshot)
            if step.index in self.turns or step.last:
                self._add_picture("progress", snapshot.image, step.index)
            if snapshot.logged:
                self.writer.flush()

    def scores(self, scores: dict[str, Any], step: int) -> None:
        """Write the evaluator's scores of the final picture, under the evaluator's name."""
        with writing(self.folder):
            for name, value in scores.items():
                if isinstance(value, int | float):
                    self.writer.add_scalar(f"{scores['evaluator']}/{name}", value, step)
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

    def close(self, status: str) -> None:
        """Close the session of the HParams tab and the file."""
        codes = {"done": api_pb2.STATUS_SUCCESS, "failed": api_pb2.STATUS_FAILURE}
        ended = SessionEndInfo(status=codes.get(status, api_pb2.STATUS_UNKNOWN), end_time_secs=time.time())
        about = metadata.create_summary_metadata(HParamsPluginData(session_end_info=ended))
        with writing(self.folder):
            self._add(Summary(value=[Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=about)]))
            self.writer.close()

    def _add_picture(self, tag: str, image: Tensor, step: int) -> None:
        shape = None if tag == "style" else self.shape
        self.writer.add_image(f"images/{tag}", rgb.to_bytes(image[:1], shape), step, dataformats="HWC")

    def _write_curves(self, snapshot: Snapshot) -> None:
        step = snapshot.step
        for tag, value in snapshot.values.items():
            self.writer.add_scalar(tag, value, step.index)
        if self.previous and step.index > self.previous[0]:
            pace = (step.seconds - self.previous[1]) / (step.index - self.previous[0])
            self.writer.add_scalar("time/seconds_per_step", pace, step.index)
        self.previous = step.index, step.seconds
        if step.last:
            for tag, final in FINAL.items():
                if tag in snapshot.values:  # pairs are learnt from without any
                    self.writer.add_scalar(final, snapshot.values[tag], step.index)
            self.writer.add_scalar("final/seconds", step.seconds, step.index)

    def _write_hparams(self, hparams: dict[str, Any]) -> None:
        """Write the row of the HParams tab through this run's writer; ``add_hparams`` would open a second run."""
        plain = {
            name: value if isinstance(value, bool | int | float) else str(value) for name, value in hparams.items()
        }
        experiment, session_start, _ = hparams_summary(plain, dict.fromkeys(self.metrics, 0.0))
        self._add(experiment)
        self._add(session_start)

    def _add(self, summary: Any, step: int | None = None) -> None:
        assert self.writer.file_writer is not None
        self.writer.file_writer.add_summary(summary, step)


def picture_steps(steps: int, most: int = PICTURES) -> set[int]:
    """Return at most so many steps, log-spaced from 1 to the last; the start has a tag of its own."""
    ratio = steps ** (1 / (most - 1))
    return {max(1, round(ratio**i)) for i in range(most - 1)} | {steps}
