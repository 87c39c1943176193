"""Running finished runs again: to the same bytes, on the right files, and telling what is not as it was."""

import hashlib
import json
import math
import os
import shutil
import stat
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import ROOT, TINY, run, script
from omegaconf import OmegaConf
from PIL import Image

from nst import pretrained, reproduce, trust
from nst.errors import UserError
from nst.files import sha256
from nst.networks import backbones
from nst.reproduce import comparison, inputs, rerun, runs
from nst.reproduce.inputs import Options
from nst.reproduce.runs import Run


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def read(folder: Path, name: str = "run.json") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
    return content


def plant(folder: Path, **changes: Any) -> None:
    """Change a record: dotted names with __ for the dot."""
    record = OmegaConf.create(read(folder))
    for name, value in changes.items():
        OmegaConf.update(record, name.replace("__", "."), value, merge=False)
    (folder / "run.json").write_text(json.dumps(OmegaConf.to_container(record)), encoding="utf-8")


def facts(result: dict[str, Any]) -> dict[str, Any]:
    """Return the facts that differ, but for those of a source that somebody is working on."""
    return {name: values for name, values in result["facts"].items() if not name.startswith("git.")}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two images, a file of weights, and a sweep over them."""
    folder = tmp_path_factory.mktemp("work")
    rng = np.random.default_rng(0)
    for name, shape in (("photo.png", (40, 60, 3)), ("painting.png", (50, 30, 3))):
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / name)
    network = backbones.load("squeezenet1_1", "random", ["fire9"])
    torch.save({f"features.{name}": value for name, value in network.stack.state_dict().items()}, folder / "net.pth")
    result = run(
        "-m", "optimizer=adam,lbfgsb", "init=noise", "content=photo.png", "style=painting.png",
        "backbone.weights=net.pth", "backbone.preprocessing=imagenet", *TINY, "hydra.sweep.dir=sweep", cwd=folder,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture
def copy(work: Path, tmp_path: Path) -> Path:
    """The sweep's first run, to be changed."""
    return Path(shutil.copytree(work / "sweep" / "0_optimizer=adam", tmp_path / "copy"))


def test_every_run_of_a_sweep_comes_out_with_the_same_bytes(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(work)  # where the relative paths were typed
    assert reproduce.main(["sweep", "--out", str(tmp_path / "again")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("2 runs: 2 identical.") for line in lines)
    for name in ("0_optimizer=adam", "1_optimizer=lbfgsb"):
        assert any(line.startswith(name) and " identical" in line for line in lines)
        first, second = work / "sweep" / name, tmp_path / "again" / name
        assert (first / "result.png").read_bytes() == (second / "result.png").read_bytes()
        assert read(second, "status.json")["status"] == "done"
        result = read(second, "reproduction.json")
        assert result["verdict"] == "identical"
        assert result["losses"] == 0
        assert result["result"]["recorded"] == result["result"]["now"] == sha256(first / "result.png")
        assert facts(result) == {}


def test_a_bundle_brings_its_inputs_and_a_chosen_run_comes_out_the_same(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with zipfile.ZipFile(tmp_path / "bundle.zip", "w") as archive:
        for name in ("0_optimizer=adam", "1_optimizer=lbfgsb"):
            for file in ("run.json", "result.png"):
                archive.write(work / "sweep" / name / file, f"{name}/{file}")
        for number, name in enumerate(("photo.png", "painting.png", "net.pth")):
            archive.write(work / name, f"inputs/{number}{Path(name).suffix}")
    moved = work.rename(work.with_name("moved"))
    monkeypatch.chdir(elsewhere)
    try:
        assert reproduce.main([str(tmp_path / "bundle.zip"), "--run", "1", "--out", str(tmp_path / "again")]) == 0
    finally:
        moved.rename(work)
    result = read(tmp_path / "again", "reproduction.json")
    assert result["verdict"] == "identical"
    assert result["run"] == str(tmp_path / "bundle.zip" / "1_optimizer=lbfgsb")
    text = " ".join(result["notes"])
    for words in ("content image photo.png was found at", "style image painting.png", "weights net.pth was found at"):
        assert words in text
    assert "Identical." in capsys.readouterr().out


def test_planted_changes_are_pinpointed_and_the_difference_is_measured(
    work: Path, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(copy, versions__torch="1.0", machine__cpu="abacus", config__beta=1.0)
    plant(copy, determinism__variables__MKL_CBWR="COMPATIBLE")
    out = tmp_path / "again"
    assert reproduce.main([str(copy), "--out", str(out), "--inputs", str(work), "--threads", "2"]) == 2
    result = read(out, "reproduction.json")
    found = facts(result)
    assert found["versions.torch"] == ["1.0", torch.__version__]
    assert found["machine.threads"] == [1, 2]
    assert found["machine.cpu"][0] == "abacus"
    assert set(found) == {"versions.torch", "machine.threads", "machine.cpu"}  # the recorded variables were set again
    assert read(out)["determinism"]["variables"]["MKL_CBWR"] == "COMPATIBLE"
    assert result["verdict"] == "different"
    assert result["losses"] > 0
    with Image.open(copy / "result.png") as a, Image.open(out / "result.png") as b:
        off = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    assert result["difference"]["largest"] == np.abs(off).max() > 1
    assert result["difference"]["mean"] == pytest.approx(np.abs(off).mean())
    assert result["difference"]["psnr"] == pytest.approx(-10 * np.log10(((off / 255) ** 2).mean()))
    text = capsys.readouterr().out
    assert "Not identical: at most" in text
    assert f"versions.torch: 1.0 then, {torch.__version__} now" in text


def test_own_components_jpeg_and_a_record_of_an_older_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    own = Path(shutil.copytree(ROOT / "examples" / "own_loss", tmp_path / "own", ignore=lambda *_: ["__pycache__"]))
    result = run(
        "--config-dir", str(own), "style_loss=channel_moments", "optimizer=sgd", "init=style", *TINY,
        "output_format=jpeg", "hydra.run.dir=out", cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "out"
    record = read(folder)
    files = (own / "channel_moments.py", own / "style_loss" / "channel_moments.yaml")
    assert record["own_code"] == {str(path): sha256(path) for path in files}
    del record["determinism"], record["content"]["bytes"], record["config"]["margin"], record["config"]["clamp"]
    record["config"]["sparkle"] = 3
    (folder / "run.json").write_text(json.dumps(record))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    with (own / "channel_moments.py").open("a") as file:
        file.write("# a remark\n")
    assert reproduce.main([str(folder), "--out", str(tmp_path / "again"), "--config-dir", str(own)]) == 0
    reproduction = read(tmp_path / "again", "reproduction.json")
    assert (tmp_path / "again" / "result.jpg").read_bytes() == (folder / "result.jpg").read_bytes()
    assert list(facts(reproduction)) == ["own_code.channel_moments.py"]
    text = " ".join(reproduction["notes"])
    assert "sparkle=3 was recorded" in text
    assert "margin=8" in text
    assert 'clamp="step"' in text  # as it suits the optimiser that was chosen
    assert "Not recorded, so not compared: determinism." in text

    own.rename(tmp_path / "moved")
    capfd.readouterr()
    assert reproduce.main([str(folder), "--out", str(tmp_path / "failed")]) == 1
    text = capfd.readouterr().err
    assert text.count("Error:") == 1
    assert "Traceback" not in text
    assert "--config-dir" in text
    assert not (tmp_path / "failed").exists()
    moved = [str(folder), "--out", str(tmp_path / "found"), "--config-dir", str(tmp_path / "moved")]
    assert reproduce.main(moved) == 0

    with zipfile.ZipFile(tmp_path / "bundle.zip", "w") as archive:
        for name in ("run.json", "result.jpg"):
            archive.write(folder / name, f"0_x/{name}")
        archive.write(tmp_path / "moved" / "channel_moments.py", "config_folders/0_own/channel_moments.py")
    assert reproduce.main([str(tmp_path / "bundle.zip"), "--out", str(tmp_path / "bundled")]) == 1
    text = capfd.readouterr().err
    assert "channel_moments.ChannelMoments" in text
    assert "--trust" in text
    assert not (tmp_path / "bundled").exists()
    assert reproduce.main([str(tmp_path / "bundle.zip"), "--out", str(tmp_path / "bundled"), "--trust"]) == 0
    assert read(tmp_path / "bundled", "reproduction.json")["verdict"] == "identical"


def test_a_changed_input_is_refused_and_found_elsewhere_by_its_hash(
    work: Path, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    changed = tmp_path / "photo.png"
    with Image.open(work / "photo.png") as picture:
        picture.putpixel((3, 4), (1, 2, 3))
        picture.save(changed)
    recorded = read(copy)["content"]["sha256"]
    plant(copy, content__file=str(changed))
    assert reproduce.main([str(copy), "--out", str(tmp_path / "again")]) == 1
    text = capsys.readouterr().err
    assert "Error: The content image has changed since the run" in text
    for words in (str(changed), sha256(changed), recorded, "--inputs"):
        assert words in text
    assert not (tmp_path / "again").exists()

    record = read(copy)
    config = dict(record["config"])
    given = Options(inputs=[work])
    notes = inputs.find_inputs(Run(".", copy, record, "copy"), config, given)
    assert config["content"] == str(work / "photo.png")
    assert f"found at {work / 'photo.png'}" in notes[0]


def test_other_weights_are_refused_and_moved_ones_found(
    work: Path, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    record = read(copy)
    finished = Run(".", copy, record, "copy")
    config = json.loads(json.dumps(record["config"]))
    record["weights"]["file"] = str(tmp_path / "net.pth")
    with pytest.raises(UserError, match=r"weights of the run is not here: .*net\.pth"):
        inputs.find_weights(finished, config, Options())

    tensors = torch.load(work / "net.pth", weights_only=True)
    next(iter(tensors.values()))[0, 0, 0, 0] += 1e-6
    torch.save(tensors, tmp_path / "net.pth")
    with pytest.raises(UserError, match="weights has changed since the run") as caught:
        inputs.find_weights(finished, config, Options())
    assert record["weights"]["sha256"] in str(caught.value)
    assert sha256(tmp_path / "net.pth") in str(caught.value)

    (tmp_path / "store" / "deep").mkdir(parents=True)
    moved = Path(shutil.copy(work / "net.pth", tmp_path / "store" / "deep" / "renamed.pth"))
    inputs.find_weights(finished, config, Options(inputs=[tmp_path / "store"]))
    assert config["backbone"]["weights"] == str(moved)
    assert config["backbone"]["preprocessing"] == "imagenet"


def test_named_weights_are_checked_where_the_loader_takes_them(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    name = "vgg19-dcbb9e9d.pth"
    checkpoints = tmp_path / "cache" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (tmp_path / "right.pth").write_bytes(b"right")
    backbone = {"_target_": "nst.networks.backbones.load", "weights": "torchvision", "preprocessing": "auto"}
    record = {"weights": {"name": "torchvision", "file": f"/gone/{name}", "sha256": sha256(tmp_path / "right.pth")}}
    finished = Run(".", copy, record, "copy")

    def found() -> dict[str, Any]:
        config = {"backbone": dict(backbone)}
        inputs.find_weights(finished, config, Options())
        return config["backbone"]

    assert found() == backbone | {"weights": str(tmp_path / "right.pth"), "preprocessing": "imagenet"}
    (checkpoints / name).write_bytes(b"right")
    assert found() == backbone
    (tmp_path / "right.pth").unlink()
    (checkpoints / name).write_bytes(b"wrong")
    with pytest.raises(UserError, match="has changed since the run"):
        found()
    (checkpoints / name).unlink()
    assert found() == backbone  # which downloads them

    backbone |= {"architecture": "squeezenet1_1", "weights": "ndf"}  # as runs have it from before it was bundled
    record["weights"] = {"name": "ndf", "file": "/gone/squeezenet_weights.pkl", "sha256": pretrained.NDF_SHA256}
    assert found() == backbone
    record["weights"]["sha256"] = hashlib.sha256(b"right").hexdigest()
    with pytest.raises(UserError, match=r"is not here: .*squeezenet_weights\.pkl"):
        found()
    record["weights"] = {"name": "random", "file": None, "sha256": None}
    assert found() == backbone


@pytest.mark.parametrize(
    ("status", "words"),
    [("running", "is running"), ("failed", "is failed"), ("interrupted", "is interrupted")],
)
def test_a_run_that_is_not_done_is_refused_with_advice(
    copy: Path, capsys: pytest.CaptureFixture[str], status: str, words: str
) -> None:
    (copy / "status.json").write_text(json.dumps({"status": status}))
    assert reproduce.main([str(copy)]) == 1
    text = capsys.readouterr().err
    assert words in text
    assert f"python run.py resume={copy}" in text


def test_unfinished_runs_of_a_sweep_are_left_out_and_named(work: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(work / "sweep", tmp_path / "sweep"))
    for number in (2, 10):
        shutil.copytree(folder / "0_optimizer=adam", folder / f"{number}_x")
    (folder / "2_x" / "status.json").write_text(json.dumps({"status": "skipped"}))
    (folder / "10_x" / "status.json").unlink()
    finished, unfinished = runs.finished_runs(folder, folder)
    assert [one.name for one in finished] == ["0_optimizer=adam", "1_optimizer=lbfgsb", "10_x"]
    assert unfinished == {"2_x": "it is skipped"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "There is no nowhere"),
        (["{work}/photo.png"], "cannot be unpacked as a bundle"),
        (["{work}/empty"], "no run.json was found"),
        (["{work}/sweep", "--run", "0_optimizer=adan"], "Did you mean '0_optimizer=adam'?"),
        (["{work}/sweep/0_optimizer=adam", "--run", "7"], "leave out --run"),
        (["{work}/sweep", "--out", "{work}"], "is not empty"),
        (["{work}/sweep", "--out", "{work}/sweep/again"], "which is to be reproduced"),
    ],
)
def test_mistakes_are_one_message(
    work: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    (work / "empty").mkdir(exist_ok=True)
    assert reproduce.main([argument.replace("{work}", str(work)) for argument in arguments]) == 1
    text = capsys.readouterr().err
    assert text.startswith("Error: ")
    assert words in text


def test_the_script_is_a_door(tmp_path: Path) -> None:
    result = script(ROOT / "scripts" / "reproduce.py", "nowhere", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("Error: There is no nowhere.")
    assert not list(tmp_path.iterdir())


def test_every_component_of_our_own_is_known_to_be_harmless() -> None:
    for path in (ROOT / "conf").glob("*/*.yaml"):
        for line in path.read_text().splitlines():
            if "_target_:" in line:
                target = line.split("_target_:")[1].split("#")[0].strip()
                is_remote = path.stem in ("wandb", "mlflow", "trackio")  # whose record says where to send things
                assert bool(trust.HARMLESS.fullmatch(target)) != is_remote, path


def bundle_with(path: Path, name: str, kind: int = 0, flags: int = 0) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("0_x/run.json", "{}")
        member = zipfile.ZipInfo("placeholder")
        member.filename = member.orig_filename = name
        member.external_attr = kind << 16
        archive.writestr(member, "../../target")
    if flags:
        data = bytearray(path.read_bytes())
        place = data.rfind(b"PK\x01\x02")
        data[place + 8] |= flags
        path.write_bytes(bytes(data))
    return path


@pytest.mark.parametrize(
    ("name", "kind", "flags", "words"),
    [
        ("../evil", 0, 0, "outside"),
        ("0_x/../../evil", 0, 0, "outside"),
        ("/tmp/evil", 0, 0, "outside"),
        ("..\\evil", 0, 0, "outside"),
        ("C:\\evil", 0, 0, "outside"),
        ("C:evil", 0, 0, "outside"),
        ("\\\\server\\share\\evil", 0, 0, "outside"),
        ("0_x/result.png", stat.S_IFLNK | 0o777, 0, "a link or a device"),
        ("0_x/result.png", 0, 1, "encrypted"),
    ],
)
def test_an_unsafe_bundle_is_not_unpacked(tmp_path: Path, name: str, kind: int, flags: int, words: str) -> None:
    bundle = bundle_with(tmp_path / "bundle.zip", name, kind, flags)
    (tmp_path / "a" / "b").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=words):
        trust.unpack(bundle, tmp_path / "a" / "b")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_bundle_that_is_too_large_or_damaged_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = bundle_with(tmp_path / "bundle.zip", "0_x/result.png")
    monkeypatch.setattr(trust, "LARGEST_BUNDLE", 10)
    with pytest.raises(UserError, match="would unpack to"):
        trust.unpack(bundle, tmp_path)
    monkeypatch.undo()
    data = bytearray(bundle.read_bytes())
    data[data.find(b"../../target")] ^= 1
    bundle.write_bytes(bytes(data))
    with pytest.raises(UserError, match="cannot be unpacked"):
        trust.unpack(bundle, tmp_path)


def test_pictures_are_compared_in_levels(tmp_path: Path) -> None:
    one = np.full((4, 5, 3), 100, dtype=np.uint8)
    other = one.copy()
    other[1, 2, 0] = 110
    other[3, 3] = (99, 100, 102)
    for name, array in (("one.png", one), ("other.png", other), ("tall.png", one.transpose(1, 0, 2))):
        Image.fromarray(array).save(tmp_path / name)
    off = comparison.pixel_difference(tmp_path / "one.png", tmp_path / "other.png")
    assert off is not None
    assert off.largest == 10
    assert off.mean == pytest.approx((10 + 1 + 2) / 60)
    assert off.psnr == pytest.approx(20 * math.log10(255) - 10 * math.log10((100 + 1 + 4) / 60))
    assert off.share == pytest.approx(2 / 20)
    same = comparison.pixel_difference(tmp_path / "one.png", tmp_path / "one.png")
    assert same == comparison.Difference(0, 0.0, math.inf, 0.0)
    assert comparison.pixel_difference(tmp_path / "one.png", tmp_path / "tall.png") is None


def test_the_same_pixels_in_other_bytes_are_told_apart(copy: Path, tmp_path: Path) -> None:
    again = Path(shutil.copytree(copy, tmp_path / "again"))
    with Image.open(copy / "result.png") as picture:
        picture.save(again / "result.png", compress_level=0)
    plant(again, result__sha256=sha256(again / "result.png"))
    finished = Run(".", copy, read(copy), str(copy))
    result = comparison.compare(finished, again, [])
    assert result.verdict == "same pixels"
    assert result.is_identical
    assert "other bytes" in result.summary()
    (copy / "result.png").unlink()
    assert "cannot be told" in " ".join(comparison.compare(finished, again, []).notes)


def test_facts_that_were_not_recorded_are_not_said_to_differ() -> None:
    now = {
        "versions": {"torch": "2"},
        "determinism": {"mkl": True, "variables": {"MKL_CBWR": "AVX2"}},
        "own_code": {"/new/place/own.py": "1"},
        "weights": {"name": "moved.pth", "file": "moved.pth", "sha256": "a"},
    }
    assert comparison.differing_facts({"versions": {"torch": "2"}}, now) == {}
    then = now | {"determinism": {"mkl": True, "variables": {}}, "own_code": {"/old/own.py": "1"}}
    assert comparison.differing_facts(then, now) == {"determinism.variables.MKL_CBWR": [None, "AVX2"]}
    then = now | {"weights": {"name": "net.pth", "file": "net.pth", "sha256": "b"}, "own_code": {"own.py": "2"}}
    assert comparison.differing_facts(then, now) == {"own_code.own.py": ["2", "1"], "weights.sha256": ["b", "a"]}


def test_a_device_that_is_not_here_is_replaced() -> None:
    here = torch.cuda.is_available()
    assert rerun.usable_device("cpu", "cuda") == "cpu"
    assert rerun.usable_device("cuda:99", "cuda:99") == "auto"
    assert rerun.usable_device("auto", "cpu") == ("cpu" if here or torch.backends.mps.is_available() else "auto")
    if not here:
        assert rerun.usable_device("auto", "cuda:1") == "auto"


def test_a_process_that_is_killed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = rerun.Plan({}, str(tmp_path), {}, [], [], 1, "cpu", [])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "killed"))
    (tmp_path / "killed").write_text("#!/bin/sh\nkill -9 $$\n")
    (tmp_path / "killed").chmod(0o700)
    if os.name == "posix":
        with pytest.raises(UserError, match="killed by signal 9"):
            rerun.start(plan, None, quiet=True)
