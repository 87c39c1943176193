"""What watches a run: TensorBoard, metrics.csv, progress. In process, on a tiny run."""

import csv
import io
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from problems import job, run_here
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import api_pb2, metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from watched import run_info

from nst import runtime
from nst.images import rgb
from nst.runs.notes import Notes, write
from nst.runs.session import Session, run_session
from nst.stylization.stylize import stylize
from nst.tracking import GAP, picture_steps
from nst.tracking.common import compared_by
from nst.tracking.tensorboard import TensorBoard, tag_of

STEPS = 40
STRIP = "picture/content_style_result"
KNOBS = ("size=32", f"steps={STEPS}", "log_every=5", "tv=0.1", "optimizer.lr=0.03")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    of_sketch = job(folder, *KNOBS)
    of_sketch.choices.update(backbone="squeezenet", optimizer="adam")
    run_here(of_sketch)
    return folder


@pytest.fixture(scope="module")
def events(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0, "tensors": 0})
    accumulator.Reload()
    return accumulator


def test_one_event_file_in_the_run_folder_itself(folder: Path) -> None:
    assert [path.parent for path in folder.rglob("events.out.tfevents*")] == [folder]


def test_curves_are_the_numbers_of_metrics_csv(folder: Path, events: EventAccumulator) -> None:
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    steps = [int(row["step"]) for row in rows]
    assert steps == list(range(0, STEPS + 1, 5))
    tags = [tag for tag in rows[0] if "/" in tag]
    assert {"loss/total", "loss/content", "loss/style", "loss/tv", "content_layers/fire4"} <= set(tags)
    for tag in tags:
        curve = events.Scalars(tag_of(tag))
        assert [point.step for point in curve] == steps
        np.testing.assert_allclose([p.value for p in curve], [float(row[tag]) for row in rows], rtol=1e-6)
    assert all(point.value > 0 for point in events.Scalars("time/seconds_per_step"))


def test_pictures_are_ten_at_most_a_tag_and_the_last_is_the_result(folder: Path, events: EventAccumulator) -> None:
    assert set(events.Tags()["images"]) == {"picture/progress", "picture/content_style_result"}
    shown = events.Images("picture/progress")
    steps = [picture.step for picture in shown]
    assert len(steps) <= 10
    assert steps == sorted(set(steps))
    assert steps[-1] == STEPS
    last = np.asarray(Image.open(io.BytesIO(shown[-1].encoded_image_string)))
    np.testing.assert_array_equal(last, np.asarray(Image.open(folder / "result.png")))
    strips = [np.asarray(Image.open(io.BytesIO(s.encoded_image_string))) for s in events.Images(STRIP)]
    assert [strip.step for strip in events.Images(STRIP)] == [0, STEPS]
    height, width = last.shape[:2]
    start = np.asarray(Image.open(io.BytesIO(shown[0].encoded_image_string)))
    for strip, picture in zip(strips, (start, last), strict=True):
        np.testing.assert_array_equal(strip[:, -width:], picture)
        np.testing.assert_array_equal(strip[:, :width], start)  # this run starts from the content
    style = rgb.to_bytes(rgb.load("swirls", 32))
    assert strips[0].shape == (height, 2 * width + 2 * GAP + round(style.shape[1] * height / style.shape[0]), 3)
    assert (strips[0][:, width : width + GAP] == 255).all()


def test_time_series_opens_with_the_loss_and_the_picture(events: EventAccumulator) -> None:
    tags = sorted(events.Tags()["scalars"] + events.Tags()["images"])  # by name, as TensorBoard has them
    groups = list(dict.fromkeys(tag.partition("/")[0] for tag in tags))
    assert tags[0] == "loss"
    assert groups[:2] == ["loss", "picture"]
    assert all(
        sorted(["loss", "picture", tag_of(f"{kind}/a/b")])[2] == f"seen/{kind}/a/b" for kind in ("gram", "features")
    )


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 11, 300, 2000, 10**7])
def test_picture_steps_are_log_spaced_ten_at_most_and_end_with_the_last(steps: int) -> None:
    chosen = sorted(picture_steps(steps, 10))
    assert len(chosen) <= 10
    assert chosen[-1] == steps
    assert chosen[0] == 1
    if steps >= 300:
        ratios = np.diff(np.log(chosen))
        assert ratios.max() < 3 * np.log(steps) / 9


def test_the_config_is_there_as_text(events: EventAccumulator) -> None:
    text = events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "architecture: squeezenet1_1" in text
    assert "lr: 0.03" in text


def test_the_hparams_row_is_in_the_same_run_with_its_final_metrics(folder: Path, events: EventAccumulator) -> None:
    def part(tag: str) -> HParamsPluginData:
        return HParamsPluginData.FromString(events.summary_metadata[tag].plugin_data.content)

    session = part(metadata.SESSION_START_INFO_TAG).session_start_info
    assert session.hparams["beta"].number_value == 0.01
    assert session.hparams["backbone"].string_value == "squeezenet"
    assert session.hparams["optimizer.lr"].number_value == 0.03
    experiment = part(metadata.EXPERIMENT_TAG).experiment
    columns = {column.name: column.differs for column in experiment.hparam_infos}
    assert {name for name in columns if columns[name]} == {"size", "steps", "tv", "optimizer.lr", "log_every"}
    metrics = [metric.name.tag for metric in experiment.metric_infos]
    assert "result/total" in metrics
    for tag in metrics:
        assert [point.step for point in events.Scalars(tag)] == [STEPS]
    assert part(metadata.SESSION_END_INFO_TAG).session_end_info.status == api_pb2.STATUS_SUCCESS
    last = list(csv.DictReader((folder / "metrics.csv").open()))[-1]
    assert events.Scalars("result/total")[0].value == pytest.approx(float(last["loss/total"]), rel=1e-6)


def test_rows_of_single_runs_and_of_sweeps_have_the_same_knobs_and_say_what_varies(tmp_path: Path) -> None:
    alone = job(tmp_path / "alone", "size=32", "title=a", "tracking=[metrics]", "optimizer.lr=0.3")
    (tmp_path / "sweep").mkdir()
    plan = {"swept": {"style_loss": ["gram", "mrf"], "layers.style": ["[conv1]"]}}
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps(plan))
    of_sweep = job(tmp_path / "sweep" / "0", "size=32", "style_loss=mrf", "layers.style=[conv1]")
    of_sweep.sweep = tmp_path / "sweep"
    for one in (alone, of_sweep):
        one.choices.update(style_loss="mrf", backbone="squeezenet", optimizer="adam")
    (single, typed), (swept, varied) = compared_by(alone), compared_by(of_sweep)
    assert varied == ["layers.style", "style_loss"]
    assert typed == ["size", "optimizer.lr"]
    common = {"content", "style", "alpha", "beta", "tv", "steps", "size", "pooling", "seed"}
    common |= {"style_loss", "backbone", "optimizer"}
    assert single.keys() == common | {"optimizer.lr"}
    assert swept.keys() == common | {"layers.style"}


def test_total_variation_in_the_metrics_is_that_of_the_saved_picture(folder: Path) -> None:
    pixels = np.asarray(Image.open(folder / "result.png"), dtype=np.float64) / 255
    by_hand = (np.diff(pixels, axis=0) ** 2).mean() + (np.diff(pixels, axis=1) ** 2).mean()
    last = list(csv.DictReader((folder / "metrics.csv").open()))[-1]
    assert float(last["loss/tv"]) == pytest.approx(0.1 * by_hand, rel=0.01)  # the file has 8 bits


def test_the_run_does_not_depend_on_or_change_the_global_random_state(tmp_path: Path, folder: Path) -> None:
    torch.manual_seed(123)
    before = torch.get_rng_state()
    assert run_session(Session(job(tmp_path, *KNOBS), runtime.PoliteStop()), stylize)
    assert (tmp_path / "result.png").read_bytes() == (folder / "result.png").read_bytes()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_scores_are_metrics_under_their_evaluators_name(folder: Path, events: EventAccumulator) -> None:
    scores = json.loads((folder / "run.json").read_text(encoding="utf-8"))["scores"]
    evaluator = scores.pop("evaluator")
    assert scores["content_distance"] > 0
    for name, value in scores.items():
        assert [point.value for point in events.Scalars(f"{evaluator}/{name}")] == pytest.approx([value], rel=1e-6)
    content = events.summary_metadata[metadata.EXPERIMENT_TAG].plugin_data.content
    metrics = [metric.name.tag for metric in HParamsPluginData.FromString(content).experiment.metric_infos]
    assert {f"{evaluator}/content_distance", f"{evaluator}/style_distance"} <= set(metrics)


def test_the_custom_charts_name_curves_that_exist(events: EventAccumulator) -> None:
    proto = events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    layout = layout_pb2.Layout.FromString(proto)
    patterns = [tag for category in layout.category for chart in category.chart for tag in chart.multiline.tag]
    assert len(patterns) >= 5
    for pattern in patterns:
        assert any(re.fullmatch(pattern, tag) for tag in events.Tags()["scalars"]), pattern


def test_a_run_that_is_carried_on_with_keeps_the_text_of_its_notes(tmp_path: Path) -> None:
    board = TensorBoard(run_info(tmp_path, STEPS))
    position = board.position()
    board.close("interrupted", "")
    write(tmp_path, Notes(["paper"]))
    TensorBoard(run_info(tmp_path, STEPS), position).close("done", "")
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [one.tensor_proto.string_val for one in events.Tensors("notes")] == [[b"Tags: paper"]]


def test_what_follows_a_checkpoint_is_read_after_what_came_before_even_within_a_second(tmp_path: Path) -> None:
    board = TensorBoard(run_info(tmp_path, STEPS))
    board.close("interrupted", "")
    (first,) = tmp_path.glob("events*")
    later = f"events.out.tfevents.{int(time.time()) + 1}.z"  # as of a number that is sorted behind the next
    first.rename(tmp_path / later)
    position = {"files": {later: (tmp_path / later).stat().st_size}, "previous": None, "next": 3}
    TensorBoard(run_info(tmp_path, STEPS), position).close("done", "")
    assert min(path.name for path in tmp_path.glob("events*")) == later
    assert len(list(tmp_path.glob("events*"))) == 2
