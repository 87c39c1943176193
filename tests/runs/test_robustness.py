"""Broken inputs, full disks and signals: one message, a non-zero exit, nothing half-written under a final name."""

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import ROOT, TINY, limit_files, own_loss, refused, run, start, wait_for_steps
from hydra import compose, initialize_config_dir
from PIL import Image

from nst import configuration
from nst.cli import as_typed
from nst.files import claim
from nst.runs import progress, sweep

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and limits")


def status(folder: Path) -> str:
    return str(json.loads((folder / "status.json").read_text())["status"])


def nothing_half_written(folder: Path) -> None:
    assert not (folder / "result.png").exists()
    record = folder / "run.json"
    assert not record.exists() or "result" not in json.loads(record.read_text())
    assert not list(folder.rglob("*.tmp"))


def test_a_broken_image_fails_with_a_message_and_the_traceback_is_in_the_log(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    text = refused(run("content=broken.png", *TINY, "hydra.run.dir=out", cwd=tmp_path))
    assert "broken.png" in text
    assert status(tmp_path / "out") == "failed"
    assert "Traceback" in (tmp_path / "out" / "run.log").read_text()
    nothing_half_written(tmp_path / "out")


def test_a_failing_job_does_not_spoil_the_others(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"not an image")
    result = run("-m", "content=broken.png,chelsea", *TINY, "hydra.sweep.dir=out", cwd=tmp_path)
    assert result.returncode == 1
    assert "Traceback" not in result.stdout + result.stderr
    assert "broken.png is not an image that can be read" in result.stderr
    assert status(tmp_path / "out" / "0_content=broken.png") == "failed"
    assert status(tmp_path / "out" / "1_content=chelsea") == "done"
    assert (tmp_path / "out" / "1_content=chelsea" / "result.png").exists()


def test_a_diverging_run_keeps_the_best_picture(tmp_path: Path) -> None:
    out = tmp_path / "out"
    text = refused(
        run("size=32", "steps=9", "optimizer=sgd", "optimizer.lr=1e30", "clamp=never", f"hydra.run.dir={out}")
    )
    assert "NaN or infinite" in text
    assert "Lower the learning rate" in text
    assert status(out) == "failed"
    with Image.open(out / "best.png") as picture:
        assert np.asarray(picture).std() > 10
    nothing_half_written(out)


def test_an_image_too_small_for_the_network_is_one_message(tmp_path: Path) -> None:
    Image.new("RGB", (400, 4), "red").save(tmp_path / "thin.png")
    text = refused(
        run(
            "content=thin.png",
            "backbone=vgg19",
            "backbone.weights=random",
            "size=32",
            "margin=0",
            "hydra.run.dir=out",
            cwd=tmp_path,
        )
    )
    assert "pixels" in text
    assert "size" in text


def test_weights_that_cannot_be_downloaded_are_one_message_with_the_ways_out(tmp_path: Path) -> None:
    address = "http://127.0.0.1:9/vgg19-dcbb9e9d.pth"
    os.environ["TORCH_HOME"] = str(tmp_path / "cache")
    try:
        text = refused(
            run(
                "backbone=vgg19",
                f"backbone.weights='{address}'",
                "backbone.preprocessing=imagenet",
                "hydra.run.dir=out",
                cwd=tmp_path,
            )
        )
    finally:
        del os.environ["TORCH_HOME"]
    for way_out in ("(1) download", "(2) give a file", "(3) use weights that need no download"):
        assert way_out in text


def test_a_folder_that_is_a_file_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    assert "out" in refused(run(*TINY, "hydra.run.dir=out/run", cwd=tmp_path))
    assert (tmp_path / "out").read_text() == "a file"


def test_a_sweep_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "multirun.yaml").write_text("kept")
    assert "already holds a sweep" in refused(run("-m", *TINY, "beta=1,2", f"hydra.sweep.dir={tmp_path}"))
    assert [path.name for path in tmp_path.iterdir()] == ["multirun.yaml"]


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_one_message(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        assert "ermission" in refused(run(*TINY, f"hydra.run.dir={tmp_path}/out"))
    finally:
        tmp_path.chmod(0o700)


@posix
@pytest.mark.parametrize("limit", [16_000, 60_000])  # Hydra's own files are below
def test_a_disk_that_fills_up_is_one_message(tmp_path: Path, limit: int) -> None:
    out = tmp_path / "out"
    text = refused(
        run("size=96", "steps=30", "log_every=1", f"hydra.run.dir={out}", preexec_fn=lambda: limit_files(limit))
    )
    assert "Free some space" in text
    assert status(out) == "failed"
    nothing_half_written(out)


@posix
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_the_current_picture_and_says_so(tmp_path: Path, number: int, code: int) -> None:
    out = tmp_path / "out"
    process = start("size=32", "steps=1000000", "log_every=1", f"hydra.run.dir={out}")
    wait_for_steps(out)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in err
    assert "interrupted.png" in err
    assert status(out) == "interrupted"
    with Image.open(out / "interrupted.png") as picture:
        picture.load()
    nothing_half_written(out)


@posix
def test_an_interrupted_sweep_stops_as_a_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start("-m", "size=32", "steps=1000000", "log_every=1", "beta=1,2", f"hydra.sweep.dir={out}")
    wait_for_steps(out / "0_beta=1")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert not (out / "1_beta=2").exists()


@posix
def test_a_signal_while_the_result_is_saved_still_ends_the_sweep(tmp_path: Path) -> None:
    chosen = own_loss(
        tmp_path,
        "import os, signal\n"
        "class Own:\n"
        "    calls = 0\n"
        "    def target(self, features): return None\n"
        "    def __call__(self, features, target):\n"
        "        self.calls += 1\n"
        "        if self.calls == 4: os.kill(os.getpid(), signal.SIGINT)  # the evaluation of the final picture\n"
        "        return features.square().mean((1, 2, 3))\n",
    )
    out = tmp_path / "out"
    result = run(*chosen, "-m", "seed=0,1", f"hydra.sweep.dir={out}")
    assert result.returncode == 130, result.stderr
    assert status(out / "0_seed=0") == "done"
    assert not (out / "1_seed=1").exists()


def test_a_loss_of_ones_own_that_draws_random_numbers_gives_the_same_bytes(tmp_path: Path) -> None:
    chosen = own_loss(
        tmp_path,
        "import torch\n"
        "class Own:\n"
        "    def target(self, features): return features.mean((2, 3))\n"
        "    def __call__(self, features, target):\n"
        "        noisy = features + torch.randn_like(features)\n"
        "        return (noisy.mean((2, 3)) - target).square().sum(1)\n",
    )
    assert run(*chosen, "seed=1", f"hydra.run.dir={tmp_path}/one").returncode == 0
    assert run(*chosen, "-m", "seed=0,1", f"hydra.sweep.dir={tmp_path}/two").returncode == 0
    pictures = [(tmp_path / name / "result.png").read_bytes() for name in ("one", "two/1_seed=1", "two/0_seed=0")]
    assert pictures[0] == pictures[1] != pictures[2]


def test_a_failed_job_of_a_sweep_keeps_no_network_in_memory(tmp_path: Path) -> None:
    chosen = own_loss(
        tmp_path,
        "import gc\n"
        "from nst.networks.backbones import Backbone\n"
        "class Own:\n"
        "    def target(self, features): return None\n"
        "    def __call__(self, features, target):\n"
        "        gc.collect()\n"
        "        alive = sum(isinstance(thing, Backbone) for thing in gc.get_objects())\n"
        "        raise RuntimeError(f'networks alive: {alive}')\n",
    )
    result = run(*chosen, "-m", "seed=0,1,2", "evaluator=none", f"hydra.sweep.dir={tmp_path}/out")
    assert result.returncode == 1
    errors = [json.loads(path.read_text(encoding="utf-8"))["reason"] for path in tmp_path.glob("out/*/status.json")]
    assert len(errors) == 3
    assert all("networks alive: 1 (more in run.log)" in error for error in errors), errors


@posix
def test_a_killed_run_leaves_no_result_and_readable_metrics(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start("size=32", "steps=1000000", "log_every=1", f"hydra.run.dir={out}")
    wait_for_steps(out)
    process.kill()
    process.communicate(timeout=60)
    assert status(out) == "running"
    nothing_half_written(out)
    header, *rows = (out / "metrics.csv").read_text().splitlines()
    assert all(row.count(",") == header.count(",") for row in rows[:-1])


@posix
def test_a_run_goes_on_when_nobody_reads_what_it_says(tmp_path: Path) -> None:
    process = start("size=32", "steps=40", "log_every=1", "evaluator=none", f"hydra.run.dir={tmp_path}/out")
    assert process.stderr is not None
    process.stderr.readline()
    process.stderr.close()
    process.wait(timeout=120)
    assert status(tmp_path / "out") == "done"


def test_two_runs_begun_in_one_second_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    configuration.register()
    made = []
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        for kind in ("run", "sweep", "run"):
            one = compose("config", return_hydra_config=True)
            one.hydra[kind].dir = f"outputs/{kind}/12-00-00"  # the time of all of them
            folder, lock = sweep.make_folder(one, kind, "_what")
            made.append((str(folder), one.hydra[kind].dir, lock))
    assert [(name, told) for name, told, _ in made] == [
        ("outputs/run/12-00-00_what", "outputs/run/12-00-00_what"),
        ("outputs/sweep/12-00-00_what", "outputs/sweep/12-00-00_what"),
        ("outputs/run/12-00-00_what_2", "outputs/run/12-00-00_what_2"),
    ]
    assert all(lock.is_locked for _, _, lock in made)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ((), "_coffee_swirls"),
        (("content=my holiday/ü 1.jpg", "style=[wave,mosaic]", "beta=0.1", "title=x"), "_1_wave+mosaic_beta=0.1"),
        (("experiment=texture", "style=wave"), "_texture_wave"),
        (("task=train", "style=wave", "steps=5"), "_train_wave_steps=5"),
        (("task=apply", "model=m.safetensors", "content=photos"), "_apply_photos_model=m.safetensors"),
        (
            ("experiment=sketch", "size=96", "steps=20", "log_every=2", "beta=0.1", "tracking.tensorboard=null"),
            "_sketch_coffee_swirls_beta=0.1,size=96,steps=20",
        ),
        (
            (f"layers.style=[{','.join(f'relu{n}_1' for n in (1, 2, 3, 4, 5))}]", "size=96", "seed=3", "threads=1"),
            "_coffee_swirls_seed=3,size=96",  # what is too long does not hide the rest
        ),
    ],
)
def test_a_folder_s_name_says_what_the_run_is(words: tuple[str, ...], name: str) -> None:
    configuration.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        typed = [as_typed(word) for word in words]
        one = compose("config", overrides=typed, return_hydra_config=True)
        one.hydra.overrides.task = typed
        assert sweep.about_run(one) == name
    assert sweep.about_sweep(one, ["beta", "optimizer.lr"]) == "_beta,optimizer.lr"


def test_nothing_is_written_into_a_folder_that_another_run_holds(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    lock = claim(tmp_path / "out")
    try:
        assert "in use by another process" in refused(run(*TINY, "hydra.run.dir=out", cwd=tmp_path))
        assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]
    finally:
        lock.release()


def test_a_subdir_of_one_s_own_is_planned_told_and_finished(tmp_path: Path) -> None:
    own = ("-m", "seed=1,2", *TINY, "hydra.sweep.dir=out", "hydra.sweep.subdir=mine_${hydra.job.num}")
    done = run(*own, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 done" in done.stdout
    assert "not started" not in done.stdout
    assert (tmp_path / "out" / "mine_1" / "result.png").is_file()
    assert "2 done earlier" in run("resume=out", cwd=tmp_path).stdout


@posix
def test_a_signal_between_two_scales_leaves_picture_and_checkpoint(tmp_path: Path) -> None:
    code = (
        "import os, signal\n"
        "class Own:\n"
        "    taken = 0\n"
        "    def target(self, features):\n"
        "        Own.taken += not features.is_meta  # of the second scale the second time\n"
        "        if Own.taken == 2: os.kill(os.getpid(), signal.SIGTERM)\n"
        "        return features.mean((2, 3))\n"
        "    def __call__(self, features, target): return (features.mean((2, 3)) - target).square().mean(1)\n"
    )
    (tmp_path / "own").mkdir()
    chosen = [word for word in own_loss(tmp_path / "own", code) if not word.startswith("size=")]
    arguments = (*chosen, "schedule.sizes=[16,48]", "optimizer=adam", "evaluator=none", "report=false")
    process = start(*arguments, "hydra.run.dir=out", cwd=tmp_path)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 143, error
    assert status(tmp_path / "out") == "interrupted"
    assert (tmp_path / "out" / "interrupted.png").is_file()
    assert (tmp_path / "out" / "checkpoint.pt").is_file()


def test_the_only_job_of_a_sweep_is_told_without_what_it_differs_in(tmp_path: Path) -> None:
    assert progress.tell(tmp_path, {"0": ["size=32"]}) == "[1/1]"
