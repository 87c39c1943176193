"""The report of synthetic runs: what differs, what is left of broken folders, tables, pictures, bundle, script."""

import base64
import csv
import hashlib
import io
import json
import math
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import yaml
from command_line import ROOT
from omegaconf import OmegaConf
from PIL import Image
from synthetic_runs import EVALUATOR, SAMPLES, image_facts, make_run, make_sweep, sha256, write_json

from nst.errors import UserError
from nst.report import axes, tables
from nst.report.bundle import write_bundle
from nst.report.callback import WriteReport
from nst.report.page import render
from nst.report.pictures import draw
from nst.report.runs import collect
from nst.report.view import Place, draw_pictures, make_view
from nst.report.write import write_report

TINY: dict[str, Any] = {"size": (48, 32), "previews": 4, "rows": 5, "quick": True}
AXES: dict[str, list[Any]] = {"beta": ["0.001", "0.01", "0.1"], "optimizer": ["adam", "lbfgs"]}


def view_of(*folders: Path, budget: int = 0) -> dict[str, Any]:
    collection = collect(folders)
    return make_view(collection, draw_pictures(collection, budget), Place(folders[0]))


def axes_of(*folders: Path) -> dict[str, list[str]]:
    return {axis["key"]: axis["texts"] for axis in view_of(*folders)["axes"]}


def parameters_of(view: dict[str, Any]) -> list[str]:
    return [column["key"] for column in view["columns"] if column["kind"] == "parameter"]


def picture(uri: str) -> Image.Image:
    head, _, data = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def digests(folder: Path) -> dict[str, str]:
    return {str(path): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def script(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "report.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, **options)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 x 2 runs, of which only three are done."""
    return make_sweep(
        tmp_path_factory.mktemp("made") / "sweep", AXES, failed=[1], killed=[3], never=[5], title="A sweep", **TINY
    )


# What differs


def test_the_axes_of_a_grid_are_as_typed(sweep: Path) -> None:
    beta, optimizer = view_of(sweep)["axes"]
    assert beta == {
        "key": "beta",
        "label": "beta",
        "texts": ["0.001", "0.01", "0.1"],
        "numbers": [0.001, 0.01, 0.1],
        "log": True,
    }
    assert (optimizer["key"], optimizer["texts"], optimizer["numbers"]) == ("optimizer", ["adam", "lbfgs"], None)


def test_every_run_stands_where_its_values_are_even_if_it_was_never_started(sweep: Path) -> None:
    runs = view_of(sweep)["runs"]
    assert [run["axis"] for run in runs] == [[0, 0], [0, 1], [1, 0], [1, 1], [2, 0], [2, 1]]
    assert [run["values"]["beta"] for run in runs] == [0.001, 0.001, 0.01, 0.01, 0.1, 0.1]
    assert runs[5]["label"] == "beta=0.1, optimizer=lbfgs"


@pytest.mark.parametrize(
    ("key", "values", "numbers", "log"),
    [
        ("beta", ["1e-3", "0.0050"], [0.001, 0.005], False),
        ("tv", ["0.0", "10"], [0, 10], False),
        ("steps", [300, 30], [300, 30], True),
        ("seed", [1, 100], [1, 100], False),
        ("tv_kind", ["squared", "1"], None, False),
        ("pooling", ["max", "avg"], None, False),
    ],
)
def test_values_are_numbers_where_all_are_and_keep_their_order(
    tmp_path: Path, key: str, values: list[Any], numbers: list[float] | None, log: bool
) -> None:
    (axis,) = view_of(make_sweep(tmp_path, {key: values}, **TINY))["axes"]
    assert axis["texts"] == [str(value) for value in values]
    assert axis["numbers"] == numbers
    assert axis["log"] is log


def test_a_value_is_found_however_it_is_written(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path, {"beta": ["1e-3", "0.010"], "layers.style": ["[fire2, fire4]"]}, **TINY)
    view = view_of(folder)
    assert [axis["key"] for axis in view["axes"]] == ["beta"]  # one value makes no axis
    assert [run["axis"] for run in view["runs"]] == [[0], [1]]


def test_points_that_were_added_to_a_sweep_have_their_place_in_the_order_of_the_runs(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path, {"beta": ["0.001", "0.01"], "optimizer": ["adam", "lbfgs"]}, **TINY)
    for number, (beta, optimizer) in enumerate([("5e-1", "adam"), ("0.25", "sgd"), ("0.5", "sgd")], start=4):
        make_run(folder / f"{number}_beta={beta}", {"beta": beta, "optimizer": optimizer}, **TINY)
    view = view_of(folder)
    beta, optimizer = view["axes"]
    assert (beta["texts"], beta["numbers"]) == (["0.001", "0.01", "5e-1", "0.25"], [0.001, 0.01, 0.5, 0.25])
    assert optimizer["texts"] == ["adam", "lbfgs", "sgd"]
    assert [run["axis"] for run in view["runs"]] == [[0, 0], [0, 1], [1, 0], [1, 1], [2, 0], [3, 2], [2, 2]]


@pytest.mark.parametrize("optimizers", [["adam"], ["adam", "lbfgs"], ["sgd"]])
def test_a_key_that_was_added_to_a_sweep_is_an_axis_too(tmp_path: Path, optimizers: list[str]) -> None:
    folder = make_sweep(tmp_path, {"optimizer": ["adam", "lbfgs"]}, **TINY)
    for number, optimizer in enumerate(optimizers, start=2):
        make_run(folder / f"{number}_init=noise", {"optimizer": optimizer, "init": "noise"}, **TINY)
    view = view_of(folder)
    assert [axis["key"] for axis in view["axes"]] == ["optimizer", "init"]  # not lr, clamp, jitter, amplitude
    assert view["axes"][1]["texts"] == ["content", "noise"]
    assert [run["axis"][1] for run in view["runs"]] == [0, 0, *[1] * len(optimizers)]
    assert all(None not in run["axis"] for run in view["runs"])


def test_what_only_follows_from_a_swept_key_is_no_axis_of_a_sweep(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path, {"size": [64, 96], "seed": [0, 1]}, **TINY)
    for path in folder.glob("*/run.json"):
        record = json.loads(path.read_text())
        record["config"]["margin"] = record["config"]["size"] // 8  # as an interpolation does
        write_json(path, record)
    assert list(axes_of(folder)) == ["size", "seed"]


def test_a_sampler_s_axes_are_what_differs_in_order_of_size(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path, {"beta": [0.1, 0.003, 0.02], "optimizer": ["lbfgs", "adam"]}, listed=False, **TINY)
    assert axes_of(folder) == {"beta": ["0.003", "0.02", "0.1"], "optimizer": ["adam", "lbfgs"]}


def test_a_group_is_one_axis_without_what_follows_from_it(tmp_path: Path) -> None:
    for number, optimizer in enumerate(["adam", "lbfgs", "sgd"]):
        make_run(tmp_path / str(number), {"optimizer": optimizer}, **TINY)
    assert parameters_of(view_of(tmp_path)) == ["optimizer"]  # not optimizer.lr, betas, clamp and jitter
    other = tmp_path / "other"
    for number, backbone in enumerate(["squeezenet", "vgg16"]):
        make_run(other / str(number), {"backbone": backbone}, **TINY)
    assert parameters_of(view_of(other)) == ["backbone"]  # layers follows


def test_what_was_typed_beside_a_group_is_an_axis_of_its_own(tmp_path: Path) -> None:
    make_run(tmp_path / "0", {"optimizer": "adam", "optimizer.lr": 0.1, "beta": 0.5}, **TINY)
    make_run(tmp_path / "1", {"optimizer": "lbfgs", "optimizer.lr": 0.7, "beta": 0.5}, **TINY)
    assert set(parameters_of(view_of(tmp_path))) == {"optimizer", "optimizer.lr"}


def test_an_argument_that_differs_under_one_choice_is_an_axis(tmp_path: Path) -> None:
    for number, rate in enumerate([0.1, 0.02]):
        make_run(tmp_path / str(number), {"optimizer": "adam", "optimizer.lr": rate}, **TINY)
    assert axes_of(tmp_path) == {"optimizer.lr": ["0.02", "0.1"]}


def test_what_is_no_science_makes_no_axis(tmp_path: Path) -> None:
    plain = {"device": "cpu", "log_every": 1, "save_every": 0, "checkpoint_steps": 5, "title": "a", "report": True}
    other = {"device": "cuda", "log_every": 2, "save_every": 9, "checkpoint_steps": 7, "title": "b", "report": False}
    plain, other = plain | {"tracking.project": "a"}, other | {"tracking.project": "b"}
    make_run(tmp_path / "0", {**plain, "resume": "x", "on_failure": "stop", "beta": 1.0}, **TINY)
    make_run(tmp_path / "1", {**other, "resume": "y", "on_failure": "continue", "beta": 2.0}, **TINY)
    for name in ("0", "1"):
        record = json.loads((tmp_path / name / "run.json").read_text())
        record["choices"]["tracking"] = name
        write_json(tmp_path / name / "run.json", record)
    assert axes_of(tmp_path) == {"beta": ["1", "2"]}


def test_paths_are_shown_by_their_last_part_or_as_many_as_tell_them_apart(tmp_path: Path) -> None:
    images = ["/home/ada/a/photo.jpg", "/home/ada/b/photo.jpg", "/home/ada/cat.png", "coffee"]
    folder = make_sweep(tmp_path, {"content": images}, **TINY)
    assert axes_of(folder) == {"content": ["a/photo.jpg", "b/photo.jpg", "cat.png", "coffee"]}
    view = view_of(folder)
    assert [run["values"]["content"] for run in view["runs"]] == ["a/photo.jpg", "b/photo.jpg", "cat.png", "coffee"]


@pytest.mark.parametrize(
    ("lists", "texts"),
    [
        (["[fire2]", "[fire2,fire4]"], ["fire2", "fire2, fire4"]),
        (["[conv1:5]", "[conv1:5, fire2]", "[conv1:5,fire2,fire4]"], ["conv1:5", "conv1:5, fire2", "conv1:5 … fire4"]),
        (["[fire2,fire3,fire4]", "[fire2]"], ["fire2 … fire4", "fire2"]),
        (["[fire2]", "[fire3,fire4,fire5]"], ["fire2", "fire3, fire4, fire5"]),  # they do not grow
        (["[fire2,fire3,fire4]", "[fire2,fire5,fire4]"], ["fire2, fire3, fire4", "fire2, fire5, fire4"]),
        (["[]", "[fire2]"], ["none", "fire2"]),
        (["[fire2]", "fire2"], ["[fire2]", "fire2"]),  # else they could not be told apart
    ],
)
def test_lists_are_shown_without_brackets_and_by_their_ends_where_they_grow(
    tmp_path: Path, lists: list[str], texts: list[str]
) -> None:
    folder = make_sweep(tmp_path, {"layers.style": lists}, **TINY)
    assert axes_of(folder) == {"layers.style": texts}
    assert [run["values"]["layers.style"] for run in view_of(folder)["runs"]] == texts


def test_runs_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path, {"seed": list(range(12))}, **TINY)
    assert [run["name"].partition("_")[0] for run in view_of(folder)["runs"]] == [str(i) for i in range(12)]


def test_several_sweeps_and_runs_below_a_folder_are_one_collection(tmp_path: Path) -> None:
    make_sweep(tmp_path / "10-00-00", {"beta": [1, 2]}, **TINY)
    make_sweep(tmp_path / "deep" / "11-00-00", {"beta": [1, 3]}, never=[1], **TINY)
    make_run(tmp_path / "12-00-00", {"seed": 4}, **TINY)
    view = view_of(tmp_path)
    assert view["total"] == 5
    assert view["counts"] == {"done": 4, "not started": 1}
    assert view["command"] is None
    assert {axis["key"]: axis["texts"] for axis in view["axes"]} == {
        "beta": ["0.01", "1", "2", "3"],
        "seed": ["0", "4"],
    }


def test_runs_picked_by_hand_are_each_there_once(sweep: Path) -> None:
    picked = sorted(sweep.glob("[024]_*"))
    view = view_of(*picked, picked[0])
    assert view["title"] == "3 runs: beta"
    assert [run["name"] for run in view["runs"]] == [path.name for path in picked]
    assert {axis["key"]: axis["texts"] for axis in view["axes"]} == {"beta": ["0.001", "0.01", "0.1"]}


# Columns


def test_scores_of_different_evaluators_never_share_a_column(tmp_path: Path) -> None:
    make_run(tmp_path / "0", {"beta": 0.1}, evaluator="one", **TINY)
    make_run(tmp_path / "1", {"beta": 0.2}, evaluator="two", **TINY)
    make_run(tmp_path / "2", {"beta": 0.3}, evaluator=None, **TINY)
    view = view_of(tmp_path)
    for column in view["columns"]:
        if column["kind"] == "score":
            holders = [run["name"] for run in view["runs"] if run["values"][column["key"]] is not None]
            assert holders == [{"one": "0", "two": "1"}[column["evaluator"]]]
    assert view["pareto"] == [
        {
            "evaluator": name,
            "x": f"{name}/content_distance",
            "y": f"{name}/style_distance",
            "fronts": [{"pair": 0, "runs": [place], "front": [place]}],
        }
        for place, name in enumerate(("one", "two"))
    ]
    assert any("one, two" in note for note in view["notes"])


def test_values_are_those_of_run_json(sweep: Path) -> None:
    view = view_of(sweep)
    for run in view["runs"]:
        if run["status"] == "done":
            record = json.loads((sweep / run["name"] / "run.json").read_text())
            values = run["values"]
            assert values[f"{EVALUATOR}/style_distance"] == record["scores"]["style_distance"]
            assert values["unweighted/style"] == record["final"]["unweighted/style"]
            assert values["seconds"] == record["seconds"]["total"]
            assert values["seconds_per_step"] == pytest.approx(record["seconds"]["optimisation"] / 300)
            assert values["peak_memory_mb"] == pytest.approx(record["peak_memory_bytes"] / 1e6, abs=0.05)
        else:
            kinds = {c["key"]: c["kind"] for c in view["columns"]}
            assert all(v is None for k, v in run["values"].items() if kinds[k] in ("score", "loss", "cost"))


def test_a_score_that_is_undefined_or_no_number_is_null(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "0", **TINY)
    record = json.loads((folder / "run.json").read_text())
    record["scores"] |= {"ssim": None, "edge_correlation": "nan", "lpips": 0.3}
    record["final"]["loss/total"] = "inf"
    write_json(folder / "run.json", record)
    values = view_of(folder)["runs"][0]["values"]
    assert values[f"{EVALUATOR}/ssim"] is None
    assert values[f"{EVALUATOR}/edge_correlation"] is None
    assert values[f"{EVALUATOR}/lpips"] == 0.3
    json.dumps(view_of(folder), allow_nan=False)


# What is left of broken folders


def test_a_partial_sweep_counts_what_there_is(tmp_path: Path) -> None:
    folder = make_sweep(
        tmp_path,
        {"seed": list(range(8))},
        failed=[1],
        killed=[2],
        interrupted=[3],
        out_of_memory=[4],
        skipped=[5],
        never=[6],
        question="Why?",
        **TINY,
    )
    view = view_of(folder)
    assert view["total"] == 8
    assert view["counts"] == {
        "done": 2,
        "interrupted": 2,
        "failed": 1,
        "out_of_memory": 1,
        "skipped": 1,
        "not started": 1,
    }
    assert "conv1 twice" in view["runs"][1]["reason"]
    assert "killed" in view["runs"][2]["reason"]
    assert all(bool(run["reason"]) == (run["status"] != "done") for run in view["runs"])
    assert view["question"] == "Why?"
    assert "resume=" in view["resume"]
    assert view["runs"][2]["curves"]["step"][-1] == 75  # of 300: what a killed run had logged is shown
    assert view["runs"][6]["curves"] is None
    assert view["runs"][6]["command"] == "python run.py seed=6"


def test_a_run_that_is_alive_is_running(tmp_path: Path) -> None:
    from nst.files import claim

    folder = make_run(tmp_path / "0", status="running", **TINY)
    assert view_of(folder)["counts"] == {"interrupted": 1}
    lock = claim(folder)
    assert view_of(folder)["counts"] == {"running": 1}
    lock.release()


def test_damaged_files_are_told_and_the_rest_is_shown(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path, {"seed": list(range(7))}, **TINY)
    runs = sorted(folder.glob("[0-9]_*"))
    for path, keep in ((runs[0] / "run.json", 0.5), (runs[1] / "status.json", 0.5), (runs[2] / "result.png", 0.6)):
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    (runs[3] / "metrics.csv").write_bytes(b"\0\xff not,a\ntable")
    (runs[4] / "previews" / "000300.jpg").write_bytes(b"no picture")
    (runs[5] / "run.json").write_text("[1, 2]")
    (runs[6] / "run.json").unlink()
    written = write_report([folder])
    view = view_of(folder, budget=10**6)
    assert view["total"] == 7
    told = "\n".join(written.notes)
    for run, what in zip(
        runs, ["run.json", "status.json", "result.png", "metrics.csv", "000300.jpg", "run.json"], strict=False
    ):
        assert re.search(f"{re.escape(run.name)}: .*{what}", told), what
    assert view["runs"][1]["status"] == "done"  # its record has a result
    assert view["runs"][2]["full"] is None
    assert view["runs"][2]["preview"] is not None  # its last small picture
    assert view["runs"][3]["curves"] is None
    assert len(view["runs"][4]["sprite"]["steps"]) == 3
    assert all(run["axis"] == [place] for place, run in enumerate(view["runs"]))  # the plan tells


@pytest.mark.parametrize(
    "content", ["", "{", "null", '{"swept": 3, "jobs": [4, {"folder": "../../etc"}]}', '{"swept": {"seed": 1}}']
)
def test_a_damaged_plan_leaves_the_runs(tmp_path: Path, content: str) -> None:
    folder = make_sweep(tmp_path, {"seed": [0, 1]}, **TINY)
    (folder / "sweep.json").write_text(content)
    assert axes_of(folder) == {"seed": ["0", "1"]}
    write_report([folder], budget=0)


@pytest.mark.parametrize("wrong", [None, 7, "text", [], {}, {"sha256": 3}, ["x", None]])
def test_records_with_anything_in_them_are_survived(tmp_path: Path, wrong: Any) -> None:
    folder = make_run(tmp_path / "0", **TINY)
    record = json.loads((folder / "run.json").read_text())
    for key in record:
        write_json(folder / "run.json", record | {key: wrong})
        view = view_of(folder)
        assert view["total"] == 1
        for made in (render(view), tables.report_markdown(view), tables.summary_csv(view)):
            assert made
        write_bundle(io.BytesIO(), collect([folder]), {}, "T")
    write_json(folder / "status.json", {"status": wrong, "reason": wrong, "started": wrong})
    assert render(view_of(folder))


def test_a_job_that_died_before_its_record_is_known_by_what_hydra_wrote(tmp_path: Path) -> None:
    make_run(tmp_path / "0", {"beta": 1.0}, **TINY)
    hydra = tmp_path / "1" / ".hydra"
    hydra.mkdir(parents=True)
    (hydra / "config.yaml").write_text("beta: 2.0\nseed: 0\n")
    (hydra / "overrides.yaml").write_text("- beta=2.0\n")
    (hydra / "hydra.yaml").write_text("hydra: {runtime: {choices: {optimizer: adam, hydra/launcher: basic}}}\n")
    view = view_of(tmp_path)
    assert view["counts"] == {"done": 1, "unknown": 1}
    assert [axis["texts"] for axis in view["axes"]] == [["1", "2"]]
    assert view["runs"][1]["command"] == "python run.py beta=2.0"


def test_a_cut_line_of_metrics_is_left_out_and_what_was_done_again_counts_once(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "0", **TINY)
    lines = ["step,evaluations,seconds,loss/total", "0,1,0.0,9", "10,11,1.0,8", "20,21,2.0,7", "10,11,1.0,6", "20,21"]
    (folder / "metrics.csv").write_text("\n".join([*lines, "30,31,3.0,nan", "40,41,4.0,1.2"]))
    curves = view_of(folder)["runs"][0]["curves"]
    assert curves["step"] == [0, 10, 30]
    assert curves["series"]["loss/total"] == [9, 6, None]


def test_curves_have_at_most_200_points_in_five_digits_with_both_ends(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "0", rows=5, size=(48, 32), previews=0, quick=True)
    numbers = [math.pi * 1.001**step for step in range(3001)]
    lines = [f"{step},{step + 1},{step / 10},{value!r}" for step, value in enumerate(numbers)]
    (folder / "metrics.csv").write_text("step,evaluations,seconds,loss/total\n" + "\n".join(lines) + "\n")
    curves = view_of(folder)["runs"][0]["curves"]
    assert 150 < len(curves["step"]) <= 200
    assert curves["step"][:4] == [0, 1, 2, 3] or curves["step"][:2] == [0, 1]
    assert curves["step"][-1] == 3000
    assert np.diff(curves["step"]).max() < 30
    expected = [numbers[step] for step in curves["step"]]
    np.testing.assert_allclose(curves["series"]["loss/total"], expected, rtol=5e-5)
    assert all(len(f"{value:.10g}".replace(".", "").lstrip("0")) <= 5 for value in curves["series"]["loss/total"])


# Images, sources, citations


def test_input_images_have_their_source_by_their_bytes(tmp_path: Path) -> None:
    copy = tmp_path / "renamed.jpg"
    copy.write_bytes((SAMPLES / "rocket.jpg").read_bytes())
    own = tmp_path / "coffee.png"
    Image.new("RGB", (40, 30), "red").save(own)
    make_run(tmp_path / "runs" / "0", {"content": str(copy)}, **TINY)
    make_run(tmp_path / "runs" / "1", {"content": str(own)}, **TINY)
    inputs = {image["name"]: image for image in view_of(tmp_path / "runs", budget=10**6)["inputs"]}
    listed = OmegaConf.load(SAMPLES / "sources.yaml")
    assert set(inputs) == {"rocket", "coffee.png", "swirls"}
    assert inputs["rocket"]["author"] == listed.rocket.author
    assert inputs["rocket"]["licence"] == listed.rocket.licence
    assert inputs["coffee.png"]["author"] is None
    assert inputs["coffee.png"]["sha256"] == hashlib.sha256(own.read_bytes()).hexdigest()
    np.testing.assert_allclose(np.asarray(picture(inputs["coffee.png"]["thumb"])).mean((0, 1)), [255, 0, 0], atol=4)


def test_an_image_that_has_changed_since_is_not_shown_as_the_input(tmp_path: Path) -> None:
    own = tmp_path / "own.png"
    Image.new("RGB", (40, 30), "red").save(own)
    folder = make_run(tmp_path / "run", {"content": str(own)}, **TINY)
    Image.new("RGB", (40, 30), "blue").save(own)
    thumbs = {image["name"]: image["thumb"] for image in view_of(folder, budget=10**6)["inputs"]}
    assert thumbs["own.png"] is None
    assert thumbs["swirls"] is not None


def test_bibtex_names_the_software_the_method_and_the_networks_used(tmp_path: Path) -> None:
    def cited(**values: Any) -> set[str]:
        folder = make_run(tmp_path / str(len(list(tmp_path.iterdir()))), values, evaluator="own", **TINY)
        text = view_of(folder)["bibtex"]
        assert text.count("{") == text.count("}")
        return set(re.findall(r"^@\w+\{(\w+),$", text, re.MULTILINE))

    always = {"nst_experiments", "gatys2016image", "gatys2015neural", "wang2004image"}
    assert cited() == always | {"iandola2016squeezenet"}
    assert cited(backbone="vgg19") == always | {"simonyan2015very"}
    folder = make_run(tmp_path / "losses", **TINY)
    record = json.loads((folder / "run.json").read_text())
    parts = {"gram": {"_target_": "nst.losses.GramLoss"}, "histogram": {"_target_": "nst.losses.HistogramLoss"}}
    record["config"] |= {
        "content_loss": {"_target_": "nst.losses.SelfSimilarityLoss"},
        "style_loss": {"_target_": "nst.losses.SumLoss", "losses": parts},
        "parameterization": {"_target_": "nst.optimization.parameterization.Fourier"},
        "color": "recolored",
    }
    write_json(folder / "run.json", record)
    papers = {"kolkin2019style", "risser2017stable", "kolkin2022neural", "olah2017feature"}
    assert set(re.findall(r"^@\w+\{(\w+),$", view_of(folder)["bibtex"], re.MULTILINE)) >= papers
    title = yaml.safe_load((ROOT / "CITATION.cff").read_text())["title"]
    assert title in view_of(tmp_path)["bibtex"]


@pytest.mark.skipif(shutil.which("bibtex") is None, reason="needs BibTeX")
def test_bibtex_and_latex_take_every_entry(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "0", **TINY)  # squeezenet, whose title has a <
    record = json.loads((folder / "run.json").read_text())
    record["choices"]["experiment"] = "gordicaleksa_adam"  # an entry without an author
    write_json(folder / "run.json", record)
    (tmp_path / "a.bib").write_text(view_of(folder)["bibtex"])
    assert "recipe_gordicaleksa_adam" in (tmp_path / "a.bib").read_text()
    text = (
        "\\documentclass{article}\\begin{document}\\nocite{*}\\bibliographystyle{plain}\\bibliography{a}\\end{document}"
    )
    (tmp_path / "a.tex").write_text(text)
    for words in (["pdflatex"], ["bibtex"], ["pdflatex"]):
        options = ["-interaction=nonstopmode", "-halt-on-error"] * (words == ["pdflatex"])
        done = subprocess.run([*words, *options, "a"], cwd=tmp_path, capture_output=True, check=False, timeout=60)
        told = done.stdout.decode("latin-1")
        assert done.returncode == 0, told
        assert words != ["bibtex"] or "arning" not in told, told
    assert "$<$0.5" in (tmp_path / "a.bbl").read_text()


def test_a_recipe_is_cited_by_the_source_its_file_names(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "0", **TINY)
    record = json.loads((folder / "run.json").read_text())
    record["choices"]["experiment"] = "notebook"
    write_json(folder / "run.json", record)
    assert "recipe_notebook" in view_of(folder)["bibtex"]
    record["choices"]["experiment"] = "None"
    write_json(folder / "run.json", record)
    assert "recipe" not in view_of(folder)["bibtex"]


# Pictures


def test_a_sprite_holds_the_previews_side_by_side(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "0", size=(64, 48), previews=0, quick=True)
    colours = {0: (200, 30, 40), 7: (20, 180, 60), 300: (30, 40, 220)}
    for step, colour in colours.items():
        Image.new("RGB", (64, 48), colour).save(folder / "previews" / f"{step:06d}.jpg", quality=95)
    sprite = view_of(folder, budget=10**6)["runs"][0]["sprite"]
    assert sprite["steps"] == [0, 7, 300]
    strip = np.asarray(picture(sprite["src"]), dtype=float)
    assert strip.shape == (sprite["height"], 3 * sprite["width"], 3)
    for place, colour in enumerate(colours.values()):
        # A decoder blends the colours of one column at each side; further in they are not mixed at all.
        frame = strip[:, place * sprite["width"] + 1 : (place + 1) * sprite["width"] - 1]
        np.testing.assert_allclose(frame, np.broadcast_to(colour, frame.shape), atol=6)


@pytest.mark.parametrize("size", [(256, 171), (171, 256), (256, 256), (50, 33), (256, 3)])
def test_small_pictures_keep_their_shape(tmp_path: Path, size: tuple[int, int]) -> None:
    folder = make_run(tmp_path / "0", size=size, previews=3, rows=3, quick=True)
    sprite = view_of(folder, budget=10**6)["runs"][0]["sprite"]
    assert sprite["width"] / sprite["height"] == pytest.approx(size[0] / size[1], rel=0.04)
    assert max(sprite["width"], sprite["height"]) >= min(max(size), 256) * 0.9
    assert max(sprite["width"], sprite["height"]) <= 256


def test_three_runs_get_everything_at_full_size(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path, {"beta": [0.001, 0.01, 0.1]}, size=(800, 534), previews=11, rows=3)
    for run in view_of(folder, budget=12_000_000)["runs"]:
        assert (run["sprite"]["width"], len(run["sprite"]["steps"])) == (256, 11)
        assert picture(run["preview"]).size == (640, 427)
        assert (run["width"], run["height"]) == (800, 534)
        with Image.open(folder / unquote(run["full"])) as full:
            assert full.size == (800, 534)


@pytest.mark.parametrize("budget", [20_000, 60_000, 200_000, 1_000_000])
def test_pictures_stay_within_the_budget_and_use_it(tmp_path: Path, budget: int) -> None:
    folder = make_sweep(tmp_path, {"beta": [0.001, 0.01, 0.1], "seed": [0, 1, 2, 3]}, size=(256, 171), rows=3)
    view = view_of(folder, budget=budget)
    parts = [image["thumb"] for image in view["inputs"]]
    for run in view["runs"]:
        parts += [run["preview"], run["sprite"] and run["sprite"]["src"]]
    used = sum(len(part) for part in parts if part)
    assert 0.25 * budget < used <= budget
    widths = {run["sprite"]["width"] for run in view["runs"] if run["sprite"]}
    assert len(widths) <= 1  # all in one size
    assert len({picture(run["preview"]).size for run in view["runs"] if run["preview"]}) <= 1


def test_the_budget_holds_even_if_the_pictures_that_were_looked_at_are_the_smallest(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    paths = []
    for number in range(40):
        noise = chance.integers(0, 256, (96, 128, 3), dtype=np.uint8)
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(noise * np.uint8(number % 4 != 0)).save(paths[-1])
    drawn = draw(paths, [{0: path} for path in paths], [], 150_000)
    used = sum(len(uri) for uri in drawn.finals if uri) + sum(len(sprite.src) for sprite in drawn.sprites if sprite)
    assert 0 < used <= 150_000


def test_a_budget_too_small_for_anything_is_told(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path, {"seed": [0, 1]}, **TINY)
    view = view_of(folder, budget=10)
    assert all(run["sprite"] is None and run["preview"] is None for run in view["runs"])
    assert any("--budget" in note for note in view["notes"])


@pytest.mark.parametrize("mode", ["RGBA", "P", "L", "I;16", "CMYK", "1", "LA"])
def test_inputs_of_any_mode_are_drawn(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    Image.linear_gradient("L").convert("L" if mode == "I;16" else mode).save(path)
    if mode == "I;16":
        Image.fromarray(np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)).save(path)
    (thumb,) = draw([], [], [path], 10**6).thumbs
    assert thumb is not None
    grey = np.asarray(picture(thumb).convert("L"), dtype=float)
    if mode != "1":
        assert grey[-4:].mean() - grey[:4].mean() > 150  # bright below, dark above


# Tables


SPECIAL = 'a_b %c &d #e $f {g} ~h ^i \\j <k> |l `m` "n"'


def test_latex_special_characters_are_escaped() -> None:
    assert tables.latex(r"_%&#${}") == r"\_\%\&\#\$\{\}"
    assert tables.latex("~") == r"\textasciitilde{}"
    assert tables.latex("^") == r"\textasciicircum{}"
    assert tables.latex("\\") == r"\textbackslash{}"
    plain = re.sub(r"\\[_%&#${}]|\\text[a-z]+\{\}", "", tables.latex(SPECIAL))
    assert not re.search(r"[_%&#${}~^\\`|<>\"]", plain)
    assert tables.latex("two\nlines") == "two lines"


def latex_of(view: dict[str, Any]) -> list[list[str]]:
    """Return the cells of the rows of the LaTeX table below its head."""
    text = re.search(r"```+latex\n(.*?)\n```", tables.report_markdown(view), re.DOTALL)
    assert text is not None
    assert text[1].count("\\toprule") == text[1].count("\\midrule") == text[1].count("\\bottomrule") == 1
    body = re.search(r"\\midrule\n(?:\\endhead\n)?(.*)\n\\bottomrule", text[1], re.DOTALL)
    assert body is not None
    rows = [re.split(r"(?<!\\)&", line.removesuffix(" \\\\")) for line in body[1].splitlines()]
    shape = re.search(r"\\begin\{(?:tabular|longtable)\}\{([lr]+)\}", text[1])
    assert shape is not None
    assert {len(row) for row in rows} == {len(shape[1])}
    return [[cell.strip() for cell in row] for row in rows]


def test_the_latex_table_has_mean_and_spread_over_seeds(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path, {"beta": [0.01, 0.1], "seed": [0, 1, 2]}, failed=[5], **TINY)
    view = view_of(folder)
    rows = latex_of(view)
    assert [row[:2] for row in rows] == [["$0.01$", "3"], ["$0.1$", "2"]]
    key = f"{EVALUATOR}/content_distance"
    for row, runs in zip(rows, (view["runs"][:3], view["runs"][3:5]), strict=True):
        values = [run["values"][key] for run in runs]
        mean, spread = re.fullmatch(r"\$([\d.]+) \\pm ([\d.]+)\$", row[2]).groups()  # type: ignore[union-attr]
        assert float(mean) == pytest.approx(np.mean(values), rel=1e-3)
        last_digit = 10 ** -len(spread.partition(".")[2])
        assert float(spread) == pytest.approx(statistics.stdev(values), abs=0.51 * last_digit)


def test_a_score_on_which_evaluators_agree_stands_once_in_the_latex_table(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path, {"beta": [0.01, 0.1]}, **TINY)
    for other, times in ((0.0, 1), (0.1, 2)):
        for path in folder.glob("*/run.json"):
            record = json.loads(path.read_text())
            scores = record["scores"]
            further = {**scores, "evaluator": "z", "style_distance": 0.5, "ssim": scores["ssim"] + other}
            write_json(path, record | {"further_scores": {"z": further}})
        view = view_of(folder)
        latex_of(view)  # as many cells in each row as the head says
        assert tables.latex_table(view).count("SSIM") == times
        assert tables.latex_table(view).count("style distance") == 2


def test_a_latex_row_for_each_finished_run_when_there_are_no_seeds(sweep: Path) -> None:
    assert [row[:2] for row in latex_of(view_of(sweep))] == [["$0.001$", "adam"], ["$0.01$", "adam"], ["$0.1$", "adam"]]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs LaTeX")
def test_the_latex_table_fits_an_article(tmp_path: Path) -> None:
    axes = {"beta": ["0.001", "0.01"], "optimizer": ["adam", "lbfgs"], "init": ["content", "noise"]}
    folder = make_sweep(tmp_path / "sweep", axes, title="A & B_c: 100 % of {x}", **TINY)
    table = tables.latex_table(view_of(folder))
    packages = "".join(f"\\usepackage{{{name}}}\n" for name in ("booktabs", "longtable", "graphicx"))
    text = f"\\documentclass{{article}}\n{packages}\\begin{{document}}\n{table}\n\\end{{document}}\n"
    (tmp_path / "a.tex").write_text(text)
    words = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout


def test_small_numbers_are_powers_of_ten_in_latex(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path, {"beta": ["1e-5", "2.5e-7"]}, **TINY)
    assert [row[0] for row in latex_of(view_of(folder))] == [r"$1 \times 10^{-5}$", r"$2.5 \times 10^{-7}$"]


def test_a_long_table_may_break_over_pages(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path, {"beta": [0.1 * i for i in range(1, 41)]}, **TINY)
    text = tables.latex_table(view_of(folder))
    assert text.startswith("\\begin{longtable}")
    assert len(latex_of(view_of(folder))) == 40


@pytest.mark.parametrize(
    ("value", "text", "time"),
    [
        (570.5, "570.5", "570"),
        (1.1084, "1.108", "1.1"),
        (0.79784, "0.7978", "0.8"),
        (0.798049, "0.7980", "0.8"),
        (0.5, "0.5", "0.5"),
        (12.0, "12", "12.0"),
        (99.97, "99.97", "100"),
        (12345.6, "12346", "12346"),
        (1234567.0, "1.235e6", "1234567"),
        (2.0e-7, "2e-7", "2e-07"),
        (0.0432, "0.0432", "0.04"),
        (31, "31", "31"),
        (None, "", ""),
        ("adam", "adam", "adam"),
    ],
)
def test_a_number_has_four_digits_and_a_time_one_decimal(value: Any, text: str, time: str) -> None:
    assert tables.brief(value) == text
    assert tables.brief(value, time=True) == time


def test_times_in_the_tables_have_no_invented_digits(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path, {"beta": [0.1, 0.2], "seed": [0, 1]}, **TINY)
    for path, seconds in zip(sorted(folder.glob("*/run.json")), (12.3456, 13.4567, 1234.56, 1300.5), strict=True):
        record = json.loads(path.read_text())
        record["seconds"]["total"] = seconds
        write_json(path, record)
    view = view_of(folder)
    place = 1 + [column["key"] for column in view["columns"]].index("seconds")
    rows = [line.split(" | ") for line in tables.report_markdown(view).splitlines() if line.startswith("| [")]
    assert [row[place] for row in rows] == ["12.3", "13.5", "1235", "1300"]
    assert [row[-1] for row in latex_of(view)] == ["$12.9 \\pm 0.8$", "$1268 \\pm 47$"]


LONG = "Error: the objective is no number. " + "The loss of layer fire2 is inf; lower it.\n  see run.log\n" * 20


@pytest.mark.parametrize(
    ("reason", "short"),
    [
        ("", ""),
        ("Too big. Use a smaller size.", "Too big. Use a smaller size."),
        ("two\nlines", "two lines"),
        (LONG, "Error: the objective is no number."),
        ("It needs 9.1 GB, e.g. too much. " + LONG, "It needs 9.1 GB, e.g. too much."),
        ("word " * 99, "word " * 31 + "word…"),
        ("x" * 500, "x" * 159 + "…"),
    ],
)
def test_a_long_reason_is_shown_by_its_first_sentence(reason: str, short: str) -> None:
    assert tables.short_reason(reason) == short
    assert len(short) <= 160


def test_the_markdown_has_short_reasons_and_says_where_the_whole_ones_are(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path, {"seed": [0, 1]}, failed=[1], **TINY)
    assert "cut short" not in tables.report_markdown(view_of(folder))
    (path,) = folder.glob("1_*/status.json")
    write_json(path, json.loads(path.read_text()) | {"reason": LONG})
    text = tables.report_markdown(view_of(folder))
    assert "(failed): Error: the objective is no number.\n" in text
    assert "inf; lower it" not in text
    assert "cut short" in text


# Commands


def plan(folder: Path, **facts: Any) -> Path:
    write_json(folder / "sweep.json", json.loads((folder / "sweep.json").read_text()) | facts)
    return folder


def test_a_sweep_is_run_again_as_typed_but_elsewhere(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path, {"seed": [0, 1]}, **TINY)
    assert view_of(folder)["again"] == [view_of(folder)["command"]]
    assert "run again" not in tables.report_markdown(view_of(folder))
    typed = ["-m", "seed=0,1", "hydra.sweep.dir=out/a b", "++hydra.run.dir=x", "resume=null", "title=a b"]
    command = "python run.py -m seed=0,1 'hydra.sweep.dir=out/a b' ++hydra.run.dir=x resume=null 'title=a b'"
    view = view_of(plan(folder, command=command, arguments=typed))
    assert view["command"] == command  # the head says what was typed
    assert view["again"] == ["python run.py -m seed=0,1 'title=a b'"]
    assert f"The whole sweep is run again with:\n\n```bash\n{view['again'][0]}\n```" in tables.report_markdown(view)


def test_a_sweep_with_added_points_is_run_again_in_a_call_for_each_grid(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path, {"seed": [0, 1]}, **TINY)
    grids = [["--multirun", "seed=0,1", "title=a b"], ["--multirun", "seed=2", "hydra.sweep.dir=x"]]
    view = view_of(plan(folder, grids=grids))
    assert view["again"] == ["python run.py --multirun seed=0,1 'title=a b'", "python run.py --multirun seed=2"]
    assert "```bash\n" + "\n".join(view["again"]) + "\n```" in tables.report_markdown(view)
    for damaged in (None, 3, [[]], [grids[0]], ["text", 4]):
        assert view_of(plan(folder, grids=damaged))["again"] == [view["command"]]


def test_a_sweep_with_more_steps_is_run_again_with_these_and_says_what_was_typed_when(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path / "sweep", {"seed": [0, 1]}, **TINY)
    begun = "python run.py -m seed=0,1 steps=6"
    later = ["python run.py resume=s steps=9", "python run.py resume=s steps=9", "python run.py x; rm y"]
    resumed = [{"command": command, "time": "2026-11-22T10:00:00"} for command in later]
    facts = {"command": begun, "arguments": ["-m", "seed=0,1", "steps=6"], "resumed": resumed}
    view = view_of(plan(folder, grids=[["--multirun", "seed=0,1", "steps=9"]], **facts))
    assert view["command"] == f"{begun}\n{later[0]}"
    assert view["again"] == ["python run.py --multirun seed=0,1 steps=9"]

    run = make_run(tmp_path / "run", {"beta": 2.0}, **TINY)
    record = json.loads((run / "run.json").read_text())
    typed = {"command": "python run.py steps=6", "arguments": ["steps=6"], "overrides": ["steps=9"]}
    write_json(run / "run.json", record | typed | {"resumed": resumed})
    assert view_of(run)["command"] == f"python run.py steps=6\n{later[0]}"
    assert view_of(run)["again"] == ["python run.py steps=9"]


def test_markdown_survives_any_text(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path, {"pooling": ["a|b", "``c``", "*d*"]}, title=SPECIAL, failed=[2], **TINY)
    view = view_of(folder)
    view["command"] = "python run.py 'x=```'"
    text = tables.report_markdown(view)
    table = [line for line in text.splitlines() if line.startswith("| ")]
    cells = {len(re.findall(r"(?<!\\)\|", line)) for line in table}
    assert cells == {len(view["columns"]) + 2}
    fences = re.findall(r"(?m)^(`{3,})", text)
    assert fences[0] == fences[1] == "````"
    assert len(fences) % 2 == 0


def test_summary_csv_has_a_line_for_each_run_in_full_precision(sweep: Path) -> None:
    view = view_of(sweep)
    rows = list(csv.DictReader(io.StringIO(tables.summary_csv(view))))
    assert [row["run"] for row in rows] == [run["name"] for run in view["runs"]]
    assert [row["status"] for row in rows] == ["done", "failed", "done", "interrupted", "done", "not started"]
    for row, run in zip(rows, view["runs"], strict=True):
        for column in view["columns"]:
            value = run["values"][column["key"]]
            text = row[column["key"]]
            assert (text == "") if value is None else (float(text) == value if isinstance(value, float) else True)


# Writing


def test_the_same_runs_give_the_same_bytes_in_any_order_of_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_sweep(tmp_path / "sweep", AXES, failed=[1], never=[4], **TINY)
    before = digests(folder)
    write_report([folder], tmp_path / "a", bundle=True)
    assert digests(folder) == before  # the runs are not touched

    walk, glob = os.walk, Path.glob
    chance = random.Random(5)

    def shuffled_walk(top: Any, **options: Any) -> Any:
        for name, folders, files in walk(top, **options):
            chance.shuffle(folders)
            chance.shuffle(files)
            yield name, folders, files

    def shuffled_glob(self: Path, pattern: str, **options: Any) -> Any:
        found = list(glob(self, pattern, **options))
        return iter(chance.sample(found, len(found)))

    monkeypatch.setattr(os, "walk", shuffled_walk)
    monkeypatch.setattr(Path, "glob", shuffled_glob)
    (tmp_path / "a").rename(tmp_path / "first")
    write_report([folder], tmp_path / "a", bundle=True)
    for name in ("report.html", "summary.csv", "report.md", "bundle.zip"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "first" / name).read_bytes(), name


def test_links_lead_from_the_page_to_the_full_pictures(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path / "a sweep #1", {"beta": ["0.1", "0.2"]}, **TINY)
    for out in (folder, tmp_path / "elsewhere" / "deep"):
        collection = collect([folder])
        view = make_view(collection, draw_pictures(collection, 0), Place(out))
        for run in view["runs"]:
            assert run["full"] in {re.sub(r"[^\w./%-]", "", run["full"])}
            target = out / unquote(run["full"])
            out.mkdir(parents=True, exist_ok=True)
            assert target.resolve() == (folder / run["name"] / "result.png").resolve()


def test_an_interrupted_run_links_to_what_it_left(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "0", status="interrupted", **TINY)
    Image.new("RGB", (48, 32)).save(folder / "interrupted.png")
    assert view_of(folder)["runs"][0]["full"] == "interrupted.png"


def test_the_bundle_is_whole_and_its_links_work(tmp_path: Path) -> None:
    own = tmp_path / "own.png"
    Image.new("RGB", (40, 30), "red").save(own)
    folder = make_sweep(
        tmp_path / "sweep", {"content": [str(own), "coffee"]}, failed=[1], diff="--- a\n+++ b\n", title="T", **TINY
    )
    options = tmp_path / "my_options"
    (options / "style_loss").mkdir(parents=True)
    (options / "mine.py").write_text("x = 1\n")
    (options / "style_loss" / "mine.yaml").write_text("_target_: mine.x\n")
    code = {str(path): sha256(path) for path in options.rglob("*.*")}
    (options / "secret.py").write_text("KEY = 1\n")  # nothing that the run used
    for path in folder.glob("*/run.json"):
        write_json(path, json.loads(path.read_text()) | {"config_folders": [str(options)], "own_code": code})
    write_report([folder], tmp_path / "out", bundle=True)

    with zipfile.ZipFile(tmp_path / "out" / "bundle.zip") as archive:
        names = archive.namelist()
        assert archive.testzip() is None
        assert names[:-1] == sorted(names[:-1])
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        archive.extractall(tmp_path / "unzipped")
    assert not [name for name in names if name.startswith("/") or ".." in name]
    first, second = sorted(path.name for path in folder.iterdir() if path.is_dir())
    for name in ("run.json", "status.json", "metrics.csv", "uncommitted.diff", "config.yaml", "result.png"):
        assert f"{first}/{name}" in names
        assert (f"{second}/{name}" in names) == (name != "result.png")
    assert {"report.html", "summary.csv", "report.md", "sweep.json", "README.txt"} <= set(names)
    digest = hashlib.sha256(own.read_bytes()).hexdigest()
    assert f"inputs/{digest}.png" in names
    assert f"inputs/{image_facts('swirls')['sha256']}.jpg" in names
    own_names = {name for name in names if name.startswith("config_folders/")}
    assert own_names == {f"config_folders/0_my_options/{name}" for name in ("mine.py", "style_loss/mine.yaml")}
    readme = (tmp_path / "unzipped" / "README.txt").read_text()
    assert "reproduce.py" in readme
    assert "name of\n  the machine" in readme
    config = yaml.safe_load((tmp_path / "unzipped" / first / "config.yaml").read_text())
    assert config == json.loads((folder / first / "run.json").read_text())["config"]

    page = (tmp_path / "unzipped" / "report.html").read_text()
    linked = {unquote(link).removeprefix("./") for link in re.findall(r"(?:href|src)=\"([^\"#:]+)\"", page)}
    assert f"{first}/result.png" in linked
    assert all((tmp_path / "unzipped" / link).is_file() for link in linked)


def test_a_bundle_beside_the_report_is_renewed_when_points_are_added(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path / "sweep", {"beta": ["0.1"], "seed": [0, 1]}, **TINY)
    assert len(write_report([folder]).files) == 3  # no bundle is made that nobody asked for
    write_report([folder], bundle=True)
    make_run(folder / "2_added", {"beta": 0.1, "seed": 7}, **TINY)
    written = write_report([folder])
    assert [path.name for path in written.files][-1] == "bundle.zip"
    assert any("bundle.zip" in note and "again" in note for note in written.notes)
    with zipfile.ZipFile(folder / "bundle.zip") as archive:
        assert "2_added/result.png" in archive.namelist()
        summary = archive.read("summary.csv").decode()
    assert summary == (folder / "summary.csv").read_text()
    assert summary.count("\n") == 4


def test_scores_compare_within_a_pair_of_images(tmp_path: Path) -> None:
    axes_of_two = {"content": ["coffee", "chelsea"], "style": ["wave", "swirls"], "beta": ["0.1", "1"]}
    view = view_of(make_sweep(tmp_path / "sweep", axes_of_two, failed=[7], **TINY))
    assert view["pairs"] == ["coffee and wave", "coffee and swirls", "chelsea and wave", "chelsea and swirls"]
    assert [run["pair"] for run in view["runs"]] == [0, 0, 1, 1, 2, 2, 3, 3]
    fronts = view["pareto"][0]["fronts"]
    assert [(one["pair"], one["runs"]) for one in fronts] == [(0, [0, 1]), (1, [2, 3]), (2, [4, 5]), (3, [6])]
    assert all(one["front"] and set(one["front"]) <= set(one["runs"]) for one in fronts)
    assert "within a pair of images only" in tables.report_markdown(view)
    single = view_of(make_sweep(tmp_path / "single", {"beta": ["0.1", "1"]}, **TINY))
    assert len(single["pairs"]) == 1
    assert "within a pair" not in tables.report_markdown(single)


def test_a_report_can_be_made_of_an_unzipped_bundle_where_the_images_are_gone(tmp_path: Path) -> None:
    own = tmp_path / "own.png"
    Image.new("RGB", (40, 30), "red").save(own)
    folder = make_sweep(tmp_path / "sweep", {"content": [str(own), "coffee"]}, **TINY)
    write_report([folder], bundle=tmp_path / "hand-in.zip")
    own.unlink()
    with zipfile.ZipFile(tmp_path / "hand-in.zip") as archive:
        archive.extractall(tmp_path / "elsewhere")
    view = view_of(tmp_path / "elsewhere", budget=10**6)
    assert view["counts"] == {"done": 2}
    assert all(image["thumb"] for image in view["inputs"])
    assert [run["axis"] for run in view["runs"]] == [[0], [1]]


def test_what_the_bundle_cannot_have_is_told(tmp_path: Path) -> None:
    own = tmp_path / "own.png"
    Image.new("RGB", (40, 30), "red").save(own)
    folder = make_run(tmp_path / "run", {"content": str(own)}, **TINY)
    own.unlink()
    written = write_report([folder], bundle=True)
    assert any("own.png" in note for note in written.notes)
    with zipfile.ZipFile(folder / "bundle.zip") as archive:
        assert "own.png" in archive.read("README.txt").decode()
        assert "run/result.png" in archive.namelist()


# The script and the callback


def test_the_script_writes_three_files_and_the_page_needs_nothing_else(sweep: Path, tmp_path: Path) -> None:
    result = script(sweep, "--out", tmp_path / "out", "--title", "Mine <&>", "--question", "Is it?")
    assert result.returncode == 0, result.stderr
    files = [Path(line) for line in result.stdout.splitlines()]
    assert files == [tmp_path / "out" / name for name in ("report.html", "summary.csv", "report.md")]
    page = files[0].read_text()
    assert "Mine &lt;&amp;&gt;" in page
    assert "Is it?" in page
    assert not re.search(r"(?:src|href)=\"https?://", page.replace('rel="noreferrer"', "")) or "<script src" not in page


def test_the_script_takes_runs_picked_by_hand_a_single_run_and_a_bundle_flag_anywhere(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path / "sweep", {"seed": [0, 1]}, **TINY)
    runs = sorted(folder.glob("[01]_*"))
    assert script(*runs, "--out", tmp_path / "two", "--no-pictures").returncode == 0
    assert "data:image/jpeg" not in (tmp_path / "two" / "report.html").read_text()
    assert script(runs[0]).returncode == 0
    assert (runs[0] / "report.html").exists()
    assert script("--bundle", folder, "--budget", "0.1").returncode == 0
    assert (folder / "bundle.zip").exists()
    assert (folder / "report.html").stat().st_size < 100_000 + (tmp_path / "two" / "report.html").stat().st_size


def test_a_mistake_is_one_message(tmp_path: Path, sweep: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for arguments, told in {
        (tmp_path / "gone",): "no folder",
        (tmp_path / "empty",): "no run",
        (tmp_path / "file",): "is a file",
        (sweep, sweep): "--out",
        (sweep, "--out", tmp_path / "file"): "Cannot write",
        (sweep, "--out", tmp_path / "file" / "below"): "Cannot write",
        (): "Give the folder",
    }.items():
        result = script(*arguments)
        assert result.returncode == 1, arguments
        assert result.stderr.startswith("Error: "), result.stderr
        assert told in result.stderr
        assert "Traceback" not in result.stderr
        assert result.stdout == ""


def test_the_report_does_not_wait_for_torch() -> None:
    code = "import sys, nst.report.write, nst.report.callback, nst.report.page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("wanted", [True, False])
def test_the_callback_writes_the_report_unless_it_is_switched_off(tmp_path: Path, wanted: bool) -> None:
    folder = make_sweep(tmp_path / "sweep", {"seed": [0, 1]}, **TINY)
    config = OmegaConf.create({"report": wanted, "hydra": {"sweep": {"dir": str(folder)}}})
    WriteReport().on_multirun_end(config, config_name="config")
    assert (folder / "report.html").exists() == wanted


def test_the_callback_never_raises(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path / "gone")}}})
    WriteReport().on_multirun_end(config)
    assert "There is no report" in caplog.text


def test_several_folders_need_a_place_to_write(sweep: Path) -> None:
    with pytest.raises(UserError, match="--out"):
        write_report([sweep, sweep])


def test_lists_of_files_are_shown_by_their_names() -> None:
    shown = axes.short_texts(["[/a/long/way/photo.png,swirls]", "[/a/long/way/other.png,swirls]"])
    assert list(shown.values()) == ["photo.png, swirls", "other.png, swirls"]
    clash = axes.short_texts(["[/a/photo.png]", "[/b/photo.png]"])
    assert list(clash.values()) == ["/a/photo.png", "/b/photo.png"]
