"""A finished run or sweep that is given more steps: the bytes of as many at once, and the first result is kept."""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import kill_and_resume
import pytest
from command_line import ROOT, own_loss, refused, run, script, start, wait_for_steps
from omegaconf import open_dict
from problems import composed

from nst.runs import checkpoint
from nst.runs import progress as about_progress

TINY = ("size=32", "log_every=3", "save_every=4", "report=false", "evaluator=none")
posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


def differences(one: Path, other: Path) -> list[str]:
    """Return in what two runs differ, but for the previews, which are spread over the steps that a run begins with."""
    assert {path.name for path in (one / "frames").iterdir()} == {path.name for path in (other / "frames").iterdir()}
    names = {"picture", "metrics.csv", "curves"}
    return [name for name, read in kill_and_resume.READERS.items() if name in names and read(one) != read(other)]


def record(folder: Path) -> dict:
    found: dict = json.loads((folder / "run.json").read_text())
    return found


OWN = ("parameterization=laplacian", "average=0.9", "lr_schedule=step", "lr_schedule.step_size=4")
PYRAMID = ("optimizer=lbfgs", "schedule=pyramid", "schedule.from=20")
PLANS = {  # what is begun, what more, and how that is said at once
    "lbfgs in two scales": ([*PYRAMID, "steps=5"], ["steps=9"], [*PYRAMID, "steps=[5,9]"]),
    "coefficients, average, rates": ([*OWN, "steps=6"], ["steps=11"], [*OWN, "steps=11"]),
}


@pytest.mark.parametrize("name", PLANS)
def test_more_steps_give_the_bytes_of_as_many_at_once(tmp_path: Path, name: str) -> None:
    first, more, at_once = PLANS[name]
    evaluated = [*TINY[:-1], "init=noise"]
    assert run(*evaluated, *first, "hydra.run.dir=out", cwd=tmp_path).returncode == 0
    before = {file: (tmp_path / "out" / file).read_bytes() for file in ("result.png", "run.json", "metrics.csv")}
    result = run("resume=out", *more, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "carried on from step" in result.stderr
    assert run(*evaluated, *at_once, "hydra.run.dir=whole", cwd=tmp_path).returncode == 0
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert differences(whole, out) == []
    then, now = record(whole), record(out)
    for key in ("config", "scores", "final", "steps", "evaluations", "stopped_because", "choices"):
        assert now[key] == then[key], key
    assert now["resumed"][0]["step"] == now["earlier"][0]["steps"]
    kept = out / now["earlier"][0]["folder"]
    assert {file: (kept / file).read_bytes() for file in before} == before


def test_it_can_be_done_again_killed_and_carried_on_with(tmp_path: Path) -> None:
    assert run(*TINY, "steps=4", "hydra.run.dir=out", cwd=tmp_path).returncode == 0
    assert run("resume=out", "steps=6", cwd=tmp_path).returncode == 0
    process = start("resume=out", "steps=90", "checkpoint_steps=5", cwd=tmp_path)
    out = tmp_path / "out"
    while checkpoint.step(out, checkpoint.FILE) < 10:
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert record(out)["config"]["steps"] == 90
    assert "result" not in record(out)
    assert "cannot be carried on to steps=5" in refused(run("resume=out", "steps=5", cwd=tmp_path))
    resumed = run("resume=out", cwd=tmp_path)
    assert "carried on from step" in resumed.stderr
    assert run(*TINY, "steps=90", "hydra.run.dir=whole", cwd=tmp_path).returncode == 0
    assert differences(tmp_path / "whole", out) == []
    assert [one["folder"] for one in record(out)["earlier"]] == ["steps_4", "steps_6"]
    assert not (out / checkpoint.FILE).exists()
    reproduced = script(ROOT / "scripts" / "reproduce.py", out, cwd=tmp_path)
    assert reproduced.returncode == 0, reproduced.stderr
    assert "identical" in (reproduced.stdout + reproduced.stderr).lower()


DIES = """
import os
class Own:
    def target(self, features): return features.mean((2, 3))
    def __call__(self, features, target):
        if os.path.exists(os.environ["FAIL"]): raise ValueError("no more")
        return (features.mean((2, 3)) - target).square().sum(1)
"""


def test_if_it_fails_the_first_result_is_still_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIL", str(tmp_path / "fail"))
    chosen = [*own_loss(tmp_path, DIES), *TINY, "steps=4"]
    assert run(*chosen, "hydra.run.dir=out", cwd=tmp_path).returncode == 0
    out = tmp_path / "out"
    result = (out / "result.png").read_bytes()
    (tmp_path / "fail").touch()
    assert "ValueError: no more" in run("resume=out", "steps=8", cwd=tmp_path).stderr
    assert (out / "steps_4" / "result.png").read_bytes() == result
    assert json.loads((out / "steps_4" / "status.json").read_text())["status"] == "done"
    assert json.loads((out / "status.json").read_text())["status"] == "failed"
    (tmp_path / "fail").unlink()
    assert "carried on from step 4" in run("resume=out", cwd=tmp_path).stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    assert run(*TINY, "steps=5", "hydra.run.dir=out", cwd=folder).returncode == 0
    return folder


REFUSALS = {
    "fewer": ([], ["steps=4"], "fewer than it has", "steps=4"),
    "state gone": ([], ["steps=9"], "state.pt", "init=file init.path=out/result.png steps=4"),
    "state damaged": ([], ["steps=9"], "is damaged", "out/result.png steps=4"),
    "cosine": (
        ["lr_schedule=cosine", "optimizer=adam", "keep_state=0"],
        *(["steps=9"], "falls over all", "optimizer=adam schedule=single init=file"),
    ),
    "lbfgsb": (["optimizer=lbfgsb"], ["steps=9"], "works in blocks", "init=file"),
    "first scale": (
        ["schedule=pyramid", "schedule.from=20", "schedule.to=36"],
        *(["steps=[6,9]"], "only the last", "schedule=single size=36"),
    ),
    "another knob": ([], ["steps=9", "beta=1"], "another beta is a run of its own", "another folder"),
}


@pytest.mark.parametrize("why", REFUSALS)
def test_what_cannot_be_is_refused_with_the_command_that_comes_closest(
    finished: Path, tmp_path: Path, why: str
) -> None:
    begun, more, said, way_out = REFUSALS[why]
    if begun:
        sized = TINY[1:] if "schedule.to=36" in begun else TINY
        assert run(*sized, *begun, "steps=5", "hydra.run.dir=out", cwd=tmp_path).returncode == 0
        assert (tmp_path / "out" / checkpoint.STATE).exists() == (why == "first scale")
    else:
        shutil.copytree(finished / "out", tmp_path / "out")
    state = tmp_path / "out" / checkpoint.STATE
    if why == "state gone":
        state.unlink()
    if why == "state damaged":
        state.write_bytes(state.read_bytes()[:-100])
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    text = refused(run("resume=out", *more, cwd=tmp_path))
    assert said in text
    assert way_out in text
    changed = {path for path in before if not path.exists() or path.read_bytes() != before[path]}
    assert {path.name for path in changed} <= {"run.log", "hydra.yaml", "overrides.yaml", "config.yaml"}


def test_the_command_of_a_refusal_can_be_typed(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "out", tmp_path / "out")
    (tmp_path / "out" / checkpoint.STATE).unlink()
    command = refused(run("resume=out", "steps=9", cwd=tmp_path)).strip().splitlines()[-1].split()
    assert command[:2] == ["python", "run.py"]
    assert run(*command[2:], "hydra.run.dir=further", cwd=tmp_path).returncode == 0
    assert record(tmp_path / "further")["init"]["sha256"] == record(tmp_path / "out")["result"]["sha256"]


def test_a_state_that_is_too_large_is_not_kept(tmp_path: Path) -> None:
    kept = run(*TINY, "steps=2", "keep_state=0.001", "hydra.run.dir=out", cwd=tmp_path)
    assert "keep_state" in kept.stderr
    assert not list((tmp_path / "out").glob("*.pt"))


def test_one_that_stopped_by_itself_is_finished_with_more_steps_too(tmp_path: Path) -> None:
    chosen = [*TINY, "optimizer=adam", "jitter=0", "stop_change=0.9", "steps=5"]
    assert run(*chosen, "hydra.run.dir=out", cwd=tmp_path).returncode == 0
    before = record(tmp_path / "out")
    assert before["steps"] == 1
    assert "finished already" in run("resume=out", "steps=9", cwd=tmp_path).stderr
    after = record(tmp_path / "out")
    assert after["config"]["steps"] == 9
    assert after["result"] == before["result"]


def progress(sweep: Path) -> list:
    about = json.loads((sweep / "sweep.json").read_text())["progress"]
    return [about[name] for name in ("done", "total", "current")]


def test_a_sweep_is_given_more_steps_as_a_whole(tmp_path: Path) -> None:
    chosen = [*TINY, "-m", "beta=0.1,1"]
    assert run(*chosen, "steps=5", "hydra.sweep.dir=out", cwd=tmp_path).returncode == 0
    assert run("resume=out", "beta=10", cwd=tmp_path).returncode == 0
    alone = refused(run("resume=out/0_beta=0.1", "steps=9", cwd=tmp_path))
    assert "resume=out with these steps" in alone
    result = run("resume=out", "steps=9", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "[2/3] beta=1 ... about" in result.stderr
    assert progress(tmp_path / "out") == [3, 3, []]
    assert run(*TINY, "-m", "beta=0.1,10", "steps=9", "hydra.sweep.dir=whole", cwd=tmp_path).returncode == 0
    for one, other in (("0_beta=0.1", "0_beta=0.1"), ("2_beta=10", "1_beta=10")):
        assert differences(tmp_path / "whole" / other, tmp_path / "out" / one) == []
    again = run("resume=out", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("finished already") == 3
    plan = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert [job["folder"] for job in plan["jobs"]] == ["0_beta=0.1", "1_beta=1", "2_beta=10"]
    assert [grid.count("steps=9") for grid in plan["grids"]] == [1, 1]


def test_a_batch_is_given_more_steps_as_one(tmp_path: Path) -> None:
    chosen = [*TINY, "-m", "beta=0.1,1", "hydra/launcher=batch"]
    assert run(*chosen, "steps=5", "hydra.sweep.dir=out", cwd=tmp_path).returncode == 0
    result = run("resume=out", "steps=9", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "[1-2/2] beta=0.1; beta=1" in result.stderr
    assert run(*chosen, "steps=9", "hydra.sweep.dir=whole", cwd=tmp_path).returncode == 0
    for job in ("0_beta=0.1", "1_beta=1"):
        assert differences(tmp_path / "whole" / job, tmp_path / "out" / job) == []
    assert progress(tmp_path / "out") == [2, 2, []]


def test_a_training_is_given_more_steps(tmp_path: Path) -> None:
    tiny = ["task=train", "size=48", "training.crop=32", "training.batch=2", "training.reference=false", "log_every=1"]
    tiny += ["report=false", "evaluator=none"]
    chosen = [*tiny, "lr_schedule=none"]
    assert run(*chosen, "steps=2", "hydra.run.dir=out", cwd=tmp_path).returncode == 0
    result = run("resume=out", "steps=4", cwd=tmp_path)
    assert "carried on from step 2" in result.stderr, result.stderr
    assert run(*chosen, "steps=4", "hydra.run.dir=whole", cwd=tmp_path).returncode == 0
    assert (tmp_path / "out" / "network.safetensors").read_bytes() == (
        tmp_path / "whole" / "network.safetensors"
    ).read_bytes()
    assert kill_and_resume.rows(tmp_path / "out") == kill_and_resume.rows(tmp_path / "whole")
    assert run(*tiny, "steps=2", "hydra.run.dir=cosine", cwd=tmp_path).returncode == 0
    text = refused(run("resume=cosine", "steps=4", cwd=tmp_path))
    assert "falls over all" in text
    assert "task=train" in text
    assert "init" not in text


def test_what_is_left_of_a_sweep_counts_pixels_and_steps_whatever_the_task(tmp_path: Path) -> None:
    typed = {
        "single": ["size=64", "steps=10", "schedule=single"],
        "pyramid": ["size=64", "steps=[10,20]", "schedule=pyramid", "schedule.from=32", "schedule.factor=2"],
        "training": ["task=train", "steps=20", "training.crop=32", "training.batch=3"],
    }
    jobs = [(words, composed(*words)) for words in typed.values()]
    plan = {"jobs": [{"overrides": words, "folder": name} for name, words in typed.items()]}
    (tmp_path / "sweep.json").write_text(json.dumps(plan))
    with open_dict(whole := composed()):
        whole.hydra = {"sweeper": {}}
    about_progress.begin(tmp_path, whole, jobs)
    work = json.loads((tmp_path / "sweep.json").read_text())["progress"]["work"]
    assert work == {
        "single": 10 * 64**2,
        "pyramid": 10 * 32**2 + 20 * 64**2,
        "training": 20 * 3 * 32**2,
    }


@posix
def test_an_interrupted_sweep_says_where_it_is_and_how_to_carry_on(tmp_path: Path) -> None:
    process = start("-m", "seed=0,1", *TINY, "jitter=2", "steps=100000", "hydra.sweep.dir=out", cwd=tmp_path)
    wait_for_steps(tmp_path / "out" / "0_seed=0")
    assert progress(tmp_path / "out") == [0, 2, ["0_seed=0"]]
    os.kill(process.pid, signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "[1/2] seed=0" in error
    assert "Finish it: python run.py resume=out" in out
    assert progress(tmp_path / "out") == [0, 2, []]
