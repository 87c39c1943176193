"""The few flows that matter most, as a user types them."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import ROOT, TINY, refused, run
from PIL import Image

from nst import pretrained, runtime
from nst.images import rgb


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "single"
    result = run(*TINY, "beta=0.01", f"hydra.run.dir={folder}")
    assert result.returncode == 0, result.stderr
    assert "step 3/3" in result.stderr
    return folder


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "sweep"
    result = run("-m", *TINY, "beta=0.1,0.01", "seed=0,1", f"hydra.sweep.dir={folder}")
    assert result.returncode == 0, result.stderr
    return folder


def test_a_run_leaves_everything_in_its_folder(single: Path) -> None:
    names = {path.name for path in single.iterdir()}
    assert {"result.png", "metrics.csv", "run.json", "status.json", "run.log", ".hydra"} <= names
    assert sum(name.startswith("events.out.tfevents") for name in names) == 1
    assert not [name for name in names if name.endswith(".tmp")]
    assert json.loads((single / "status.json").read_text())["status"] == "done"
    assert "step 3/3" in (single / "run.log").read_text()


def test_the_result_has_the_contents_shape_and_is_not_the_content(single: Path) -> None:
    with Image.open(single / "result.png") as picture:
        assert picture.size == (32, 21)  # coffee is 600 x 400
        pixels = np.asarray(picture, dtype=float) / 255
    content = rgb.load("coffee", 32)[0].permute(1, 2, 0).numpy()
    assert 0.005 < np.abs(pixels - content).mean() < 0.3


def test_metrics_have_a_row_for_every_logged_step_and_add_up(single: Path) -> None:
    rows = list(csv.DictReader((single / "metrics.csv").open()))
    assert [int(row["step"]) for row in rows] == [0, 1, 2, 3]
    assert [int(row["evaluations"]) for row in rows] == [1, 2, 3, 4]
    for row in rows:
        parts = sum(float(row[f"loss/{term}"]) for term in ("content", "style", "tv"))
        assert float(row["loss/total"]) == pytest.approx(parts, rel=1e-6)
        layers = {key: float(row[key]) for key in row if key.startswith("style_layers/")}
        weights = [5 if key.endswith(("conv1", "relu1")) else 1 for key in layers]
        assert float(row["loss/style"]) == pytest.approx(
            0.01 * 600 * np.average([*layers.values()], weights=weights), rel=1e-5
        )
        assert float(row["unweighted/style"]) == pytest.approx(100 * float(row["loss/style"]), rel=1e-5)
    assert float(rows[0]["loss/content"]) == 0
    assert float(rows[-1]["loss/total"]) < float(rows[0]["loss/total"])


def test_run_json_records_what_is_needed_to_repeat_the_run(single: Path) -> None:
    record = json.loads((single / "run.json").read_text())
    assert record["config"]["beta"] == 0.01
    assert record["config"]["backbone"]["architecture"] == "squeezenet1_1"
    assert record["seed"] == 0
    assert record["computation"] == {
        "precision": runtime.choose_precision("auto", torch.device("cpu")),
        "engine": "fused",
        "tile": "none",
    }
    assert record["versions"]["torch"]
    assert record["weights"]["sha256"].startswith(pretrained.SHA256["squeezenet1_1"])
    assert record["content"]["sha256"] == _sha256(ROOT / "nst" / "samples" / "coffee.jpg")
    assert record["result"]["sha256"] == _sha256(single / "result.png")
    assert (record["steps"], record["evaluations"]) == (3, 4)
    assert record["stopped_because"] == "all 3 steps done"
    assert record["seconds"]["total"] > 0
    last = list(csv.DictReader((single / "metrics.csv").open()))[-1]
    assert record["final"]["loss/total"] == pytest.approx(float(last["loss/total"]))


def test_a_sweep_names_its_folders_by_what_differs(sweep: Path) -> None:
    folders = sorted(path.name for path in sweep.iterdir() if path.is_dir())
    assert folders == ["0_beta=0.1,seed=0", "1_beta=0.1,seed=1", "2_beta=0.01,seed=0", "3_beta=0.01,seed=1"]
    for folder in folders:
        assert json.loads((sweep / folder / "status.json").read_text())["status"] == "done"
        assert list((sweep / folder).glob("events.out.tfevents*"))
        assert {path.name for path in (sweep / folder).iterdir() if path.is_dir()} == {".hydra", "previews"}


def test_the_same_config_gives_the_same_bytes_alone_and_in_a_sweep_in_any_order(single: Path, sweep: Path) -> None:
    in_sweep = (sweep / "2_beta=0.01,seed=0" / "result.png").read_bytes()
    assert in_sweep == (single / "result.png").read_bytes()
    results = {path.parent.name: path.read_bytes() for path in sweep.glob("*/result.png")}
    assert len(set(results.values())) == 4  # beta and seed (through jitter) both matter


def test_a_sweep_over_lists_and_paths_has_a_folder_name_for_each(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), "teal").save(tmp_path / "my photo.png")
    result = run(
        "-m", "layers.style=[conv1:5,fire2],[relu1:5,fire2]", "content='my photo.png',coffee", "size=32", "steps=1",
        "hydra.sweep.dir=out", cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir()) == [
        "0_layers.style=conv1-5,fire2,content=my-photo.png",
        "1_layers.style=conv1-5,fire2,content=coffee",
        "2_layers.style=relu1-5,fire2,content=my-photo.png",
        "3_layers.style=relu1-5,fire2,content=coffee",
    ]


def test_a_second_run_into_the_same_folder_is_refused_and_harms_nothing(single: Path) -> None:
    before = {path: path.read_bytes() for path in single.rglob("*") if path.is_file()}
    assert "already holds a run" in refused(run(*TINY, "beta=7", f"hydra.run.dir={single}"))
    assert {path: path.read_bytes() for path in single.rglob("*") if path.is_file()} == before


def test_own_images_and_a_loss_from_outside_the_package(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, shape in (("my photo.jpg", (40, 60, 3)), ("painting.png", (50, 30, 3))):
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(tmp_path / name)
    result = run(
        "--config-dir", str(ROOT / "examples" / "own_loss"), "style_loss=channel_moments",
        "content='my photo.jpg'", "style=painting.png", *TINY, "output_format=jpeg", "save_every=2",
        "hydra.run.dir=out", cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    with Image.open(tmp_path / "out" / "result.jpg") as picture:
        assert picture.size == (32, 21)
    assert [path.name for path in sorted((tmp_path / "out" / "frames").iterdir())] == [
        "000000.png", "000002.png", "000003.png",
    ]  # fmt: skip
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["config"]["style_loss"]["_target_"] == "channel_moments.ChannelMoments"


@pytest.mark.parametrize("optimizer", ["lbfgs", "lbfgsb"])
def test_quasi_newton_from_noise_with_a_random_vgg(tmp_path: Path, optimizer: str) -> None:
    result = run(
        "backbone=vgg19", "backbone.weights=random", "pooling=max", "init=noise", f"optimizer={optimizer}",
        "size=32", "steps=4", "log_every=1", f"hydra.run.dir={tmp_path}/out",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    rows = list(csv.DictReader((tmp_path / "out" / "metrics.csv").open()))
    assert [int(row["step"]) for row in rows] == [0, 1, 2, 3, 4]
    assert float(rows[-1]["loss/total"]) < float(rows[0]["loss/total"])


def test_the_notebook_squeezes_but_gives_the_contents_shape_back(tmp_path: Path) -> None:
    result = run(
        "experiment=notebook",
        "backbone.weights=random",
        "size=32",
        "steps=2",
        "save_every=2",
        f"hydra.run.dir={tmp_path}/out",
    )
    assert result.returncode == 0, result.stderr
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["size"] == {"width": 32, "height": 21}
    for name in ("result.png", "frames/000002.png"):
        with Image.open(tmp_path / "out" / name) as picture:
            assert picture.size == (32, 21)


def test_help_reads_like_documentation() -> None:
    result = run("--help")
    assert result.returncode == 0
    for words in (
        "[0.01]",
        "swirls",
        "optimizer: adam",
        "tensorboard --logdir",
    ):
        assert words in result.stdout
    assert re.search(r"beta +weight of the style loss", result.stdout)
    assert "${" not in result.stdout


def test_cfg_job_shows_the_resolved_config_and_runs_nothing(tmp_path: Path) -> None:
    result = run("--cfg", "job", "beta=0.5", cwd=tmp_path)
    assert result.returncode == 0
    assert "beta: 0.5" in result.stdout
    assert "fire4" in result.stdout
    assert "${" not in result.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["beat=1"], r"no knob 'beat'\. Did you mean 'beta'"),
        (["beta=oops"], r"beta needs a number, not 'oops'"),
        (["steps=1.5"], r"steps=1\.5 must be a whole number"),
        (["steps=null"], r"steps=null must be a whole number"),
        (["backbone=vgg91"], r"no backbone=vgg91\. Did you mean 'vgg19'"),
        (["experiment=notebok"], r"Did you mean 'notebook'"),
        (["optimizer.lrr=1"], r"no knob 'optimizer\.lrr'\. Did you mean 'lr'"),
        (["beta=my photo(1)"], r"cannot be read as NAME=VALUE"),
        (["--config-dir", "nowhere"], r"nowhere' not found"),
        (["-m", "beta=0.1,oops"], r"beta needs a number, not 'oops'"),
        (
            ["-m", "beta=0.1,-1", "content=chelsea,nope"],
            r"(?s)2 mistakes.*nope.*in 2 of 4 jobs.*beta=-1.*in 2 of 4 jobs",
        ),
        (["alpha=-1", "content=nope", "layers.style=[relu9]"], r"(?s)3 mistakes.*1\. .*2\. .*3\. "),
    ],
)
def test_a_mistake_is_one_message_and_leaves_no_folder(tmp_path: Path, arguments: list[str], message: str) -> None:
    text = refused(run(*arguments, cwd=tmp_path))
    assert re.search(message, text), text
    assert not list(tmp_path.iterdir())


def _sha256(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_tiles_are_chosen_recorded_and_give_the_same_losses(tmp_path: Path) -> None:
    final = []
    for tile in ("none", "64"):
        out = tmp_path / tile
        result = run("size=150", "steps=2", "precision=float32", f"tile={tile}", f"hydra.run.dir={out}")
        assert result.returncode == 0, result.stderr
        record = json.loads((out / "run.json").read_text())
        final.append(record["final"]["loss/total"])
        chosen = "fused" if tile == "none" else "fused, in tiles of 64 pixels"
        assert record["computation"]["engine"] == chosen
        assert f"in float32 ({chosen})" in result.stderr
    assert final[1] == pytest.approx(final[0], rel=1e-4)
