"""Which trackers watch a run, trackers of one's own, and what happens when one fails."""

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from batches import DiesAt, done_together
from command_line import ROOT, refused, run
from omegaconf import open_dict
from problems import job, run_here, stylized
from watched import run_info, snapshot

from nst import configuration, runtime, trust
from nst.errors import UserError
from nst.report.runs import collect
from nst.reproduce.rerun import recorded_config
from nst.runs.session import Session, run_session
from nst.setup.check import check
from nst.stylization.stylize import stylize
from nst.tracking import Tracker
from nst.tracking.common import Trackers

TINY = ("size=32", "steps=6", "log_every=2")
OWN = ROOT / "examples" / "own_tracker"
DIARY = "+tracking.diary={_target_: diary.Diary, every: 1}"


class Watcher(Tracker):
    """Notes what it is told; ``fails`` names the method that does not work."""

    told: ClassVar[list[Any]] = []
    fails = ""
    error: Exception = RuntimeError("the network is gone")

    def __init__(self, run: Any, position: Any = None) -> None:
        self.note("begin", position)

    def note(self, method: str, *given: Any) -> None:
        self.told.append((method, *given))
        if method == self.fails:
            raise self.error

    def step(self, snapshot: Any) -> None:
        self.note("step", snapshot.step.index)

    def scores(self, scores: Any, step: int) -> None:
        self.note("scores", step)

    def position(self) -> int:
        self.note("position")
        return 7

    def close(self, status: str, reason: str) -> None:
        self.note("close", status, reason)


@pytest.fixture
def watcher(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Watcher]]:
    monkeypatch.setattr(Watcher, "told", [])
    monkeypatch.setattr(Watcher, "fails", "")
    yield Watcher


WATCHED = "+tracking.watcher={_target_: test_trackers.Watcher}"


def test_a_tracker_sees_each_step_the_scores_and_the_end(tmp_path: Path, watcher: type[Watcher]) -> None:
    assert run_session(Session(job(tmp_path, *TINY, WATCHED), runtime.PoliteStop()), stylize)
    steps = [("step", index) for index in range(6)]
    kept = [("position",)]  # with the state for more steps later, before the last picture is seen
    assert watcher.told == [("begin", None), *steps, *kept, ("step", 6), ("scores", 6), ("close", "done", "")]


def test_it_is_told_why_a_run_was_interrupted_and_carried_on_where_it_stood(
    tmp_path: Path, watcher: type[Watcher]
) -> None:
    knobs = (*TINY, WATCHED, "checkpoint_steps=1", "checkpoint_seconds=0")
    with pytest.raises(runtime.Interrupted):
        run_session(Session(job(tmp_path, *knobs), DiesAt(3)), stylize)
    (status, reason) = watcher.told[-1][1:]
    assert status == "interrupted"
    assert "SIG" in reason
    watcher.told.clear()
    assert run_session(Session(job(tmp_path, *knobs), runtime.PoliteStop()), stylize)
    assert watcher.told[0] == ("begin", 7)
    assert watcher.told[-1] == ("close", "done", "")


def test_it_is_told_why_a_run_failed(tmp_path: Path, watcher: type[Watcher]) -> None:
    knobs = (*TINY, WATCHED, "optimizer=sgd", "optimizer.lr=1e30", "clamp=never")
    assert not run_session(Session(job(tmp_path, *knobs), runtime.PoliteStop()), stylize)
    assert watcher.told[-1][:2] == ("close", "failed")
    assert "NaN or infinite" in watcher.told[-1][2]


@pytest.mark.parametrize("fails", ["begin", "step", "scores", "position", "close"])
def test_one_that_fails_is_left_out_and_the_run_is_the_same(
    tmp_path: Path, watcher: type[Watcher], fails: str, caplog: pytest.LogCaptureFixture
) -> None:
    watcher.fails = fails
    with caplog.at_level(logging.WARNING):
        stylized(tmp_path / "a", *TINY, WATCHED, "checkpoint_steps=2", "checkpoint_seconds=0")
    stylized(tmp_path / "b", *TINY)
    assert (tmp_path / "a" / "result.png").read_bytes() == (tmp_path / "b" / "result.png").read_bytes()
    told = [message for message in caplog.messages if "the network is gone" in message]
    assert len(told) == 1
    assert "tracking.watcher fails and is left out" in told[0]
    assert "RuntimeError: the network is gone" in told[0]
    assert [entry[0] for entry in watcher.told].count(fails) == 1


def test_a_mistake_of_the_user_ends_the_run_and_the_others_are_closed(
    tmp_path: Path, watcher: type[Watcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = {name: {"_target_": f"test_trackers.{name}"} for name in ("Watcher", "Full")}
    trackers = Trackers(run_info(tmp_path, 3), nodes, {})
    with pytest.raises(UserError, match="disk"):
        trackers.step(snapshot(0))
    with pytest.raises(UserError, match="disk"):
        trackers.close("failed", "full")
    assert watcher.told[-1] == ("close", "failed", "full")


class Full(Tracker):
    """Has no room."""

    def step(self, snapshot: Any) -> None:
        raise UserError("The disk is full.")

    def close(self, status: str, reason: str) -> None:
        raise UserError("The disk is full.")


def test_of_one_that_is_gone_the_position_is_kept(tmp_path: Path) -> None:
    trackers = Trackers(run_info(tmp_path, 3), {"watcher": {"_target_": "test_trackers.Watcher"}}, {"metrics": 80})
    assert trackers.position() == {"metrics": 80, "watcher": 7}


def test_the_example_writes_its_page_and_carries_on_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(OWN))
    knobs = (*TINY, DIARY, "checkpoint_steps=1", "checkpoint_seconds=0")
    stylized(tmp_path / "whole", *knobs)
    page = (tmp_path / "whole" / "diary.md").read_text()
    assert "![](diary_000004.png)" in page
    assert page.rstrip().endswith("done")
    with pytest.raises(runtime.Interrupted):
        stylized(tmp_path / "died", *knobs, stop=DiesAt(4))
    stylized(tmp_path / "died", *knobs)
    assert (tmp_path / "died" / "diary.md").read_text() == page


def test_the_example_is_found_by_its_folder(tmp_path: Path) -> None:
    own = shutil.copytree(OWN, tmp_path / "own", ignore=shutil.ignore_patterns("__pycache__"))
    assert len([path for path in own.rglob("*") if path.is_file()]) == 2
    done = run(*TINY, "--config-dir", "own", "+tracking=diary", "hydra.run.dir=out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Scores: " in (tmp_path / "out" / "diary.md").read_text()
    assert json.loads((tmp_path / "out" / "run.json").read_text())["config"]["tracking"]["diary"]["every"] == 2


def test_the_jobs_of_a_batch_have_each_their_own(tmp_path: Path, watcher: type[Watcher]) -> None:
    done_together(tmp_path, (*TINY, WATCHED), (*TINY, WATCHED, "beta=0.1"))
    assert sum(entry == ("close", "done", "") for entry in watcher.told) == 2
    assert sum(entry[0] == "step" for entry in watcher.told) == 14


def test_without_metrics_and_previews_the_run_says_what_will_be_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    knobs = (*TINY, "tracking=[]", "checkpoint_steps=1", "checkpoint_seconds=0")
    with caplog.at_level(logging.INFO), pytest.raises(runtime.Interrupted):
        stylized(tmp_path, *knobs, stop=DiesAt(3))
    text = " ".join(caplog.messages)
    assert "tracking leaves out metrics" in text
    assert "tracking leaves out previews" in text
    stylized(tmp_path, *knobs[:3], "tracking=[metrics,previews]")  # others than it was begun with
    steps = [line.split(",")[0] for line in (tmp_path / "metrics.csv").read_text().splitlines()]
    assert steps[0] == "step"
    assert steps[-1] == "6"
    assert not [*tmp_path.glob("events*")]


def test_a_run_without_trackers_is_the_same_picture_and_has_a_report(tmp_path: Path) -> None:
    for name, tracking in {"a": "tracking=[]", "b": "tracking=tensorboard"}.items():
        one = job(tmp_path / name, *TINY, tracking)
        assert run_session(Session(one, runtime.PoliteStop()), stylize)
    assert (tmp_path / "a" / "result.png").read_bytes() == (tmp_path / "b" / "result.png").read_bytes()
    record = json.loads((tmp_path / "a" / "run.json").read_text())
    assert record["outputs"].keys() == {"result.png"}
    (found, _) = collect([tmp_path]).runs
    assert found.metrics == {}
    assert found.previews == {}


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (("tracking=[tensorboard]", "+tracking=wandb"), "tracking is typed twice"),
        (("+tracking=wandb", "+tracking=mlflow"), "tracking is typed twice"),
        (("tracking=[metrics,wandbb]",), "There is no tracking=wandbb"),
        (("-m", "tracking=[metrics],[frames]"), "tracking changes no picture"),
        (("-m", "tracking.frames.x=1,2"), "tracking.frames.x changes no picture"),
    ],
)
def test_what_is_typed_is_not_ignored(tmp_path: Path, typed: tuple[str, ...], told: str) -> None:
    assert told in refused(run(*TINY, *typed, cwd=tmp_path))


def mistakes(*overrides: str, tracking: Any = None) -> str:
    config = job(Path(), *TINY, *overrides).config
    if tracking is not None:
        with open_dict(config):
            config.tracking = tracking
    with pytest.raises(UserError) as refusal:
        check(config)
    return str(refusal.value)


def test_mistakes_are_told_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "argument of MetricsFile" in mistakes("+tracking.metrics.color=red")
    assert "begins with a name for it" in mistakes(tracking={"_target_": "diary.Diary"})
    assert "has no _target_" in mistakes(tracking={"mine": {"every": 2}})
    assert "cannot be imported" in mistakes(tracking={"mine": {"_target_": "nowhere.Mine"}})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in ("wandb", "mlflow", "trackio"):
        assert f"pip install -e '.[{name}]'" in mistakes(f"+tracking={name}")


def test_a_reproduction_sends_nothing_anywhere(tmp_path: Path) -> None:
    config = job(tmp_path, "+tracking=[wandb,mlflow,trackio]", DIARY).config
    recorded = configuration.tasks.in_use(json.loads(json.dumps(_plain(config))))
    found, _ = recorded_config({"config": recorded})
    assert found["tracking"].keys() == {"metrics", "previews", "frames", "tensorboard", "progress"}


def _plain(config: Any) -> Any:
    from nst.runs.resume import settings

    return settings(config)


@pytest.mark.parametrize(
    ("word", "sends"),
    [
        ("tracking=[metrics,tensorboard]", False),
        ("tracking=[]", False),
        ("tracking=frames", False),
        ("+tracking=wandb", True),
        ("tracking=[metrics,mlflow]", True),
        ("tracking.mlflow.uri=http://elsewhere", True),
        ("++tracking.x._target_=wandb.init", True),
    ],
)
def test_a_strangers_run_does_not_say_where_it_is_sent(tmp_path: Path, word: str, sends: bool) -> None:
    if not sends:
        trust.refuse_foreign_words([word], tmp_path, is_at_home=False)
        return
    with pytest.raises(UserError, match="may send it elsewhere"):
        trust.refuse_foreign_words([word], tmp_path, is_at_home=False)


def test_training_is_watched_too(tmp_path: Path, watcher: type[Watcher]) -> None:
    from nst.training.train import train

    knobs = ("task=train", "backbone=squeezenet", "size=32", "steps=2", "log_every=1", WATCHED)
    knobs += ("training.crop=32", "training.batch=1", "training.validation=[]", "training.reference=false")
    torch.manual_seed(0)
    run_here(job(tmp_path, *knobs), train)
    assert [entry for entry in watcher.told if entry[0] == "step"] == [("step", index) for index in range(3)]
    assert watcher.told[-1] == ("close", "done", "")
