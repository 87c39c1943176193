"""W&B, MLflow and Trackio for real, offline and on this machine; each where its extra is installed.

pip install -e '.[wandb,mlflow,trackio]'
"""

import json
import os
import struct
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from batches import DiesAt
from problems import job
from watched import run_info, snapshot

from nst import runtime
from nst.runs.session import Session, run_session
from nst.stylization.stylize import stylize

TINY = ("size=32", "steps=6", "log_every=2", "checkpoint_steps=1", "checkpoint_seconds=0")


def died_and_carried_on(folder: Path, *knobs: str) -> dict[str, Any]:
    """Run a job of a sweep that is interrupted after its third step, and finish it; returns its record."""
    one = job(folder, *TINY, *knobs, "question=How?")
    one.sweep, one.choices["experiment"] = folder.parent, "sketch"
    with pytest.raises(runtime.Interrupted):
        run_session(Session(one, DiesAt(3)), stylize)
    assert run_session(Session(one, runtime.PoliteStop()), stylize)
    record: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return record


def records(file: bytes) -> Iterator[bytes]:
    """Yield the records of a file of W&B: after 7 bytes a log of LevelDB, in blocks of 32 KiB."""
    at, parts = 7, b""
    while at + 7 <= len(file):
        left = 2**15 - at % 2**15
        if left < 7:  # too short for a header: padding
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", file[at : at + 7])
        parts += file[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part of one
            yield parts
            parts = b""


def offline(folder: Path) -> tuple[set[str], dict[str, list[tuple[int, float]]], dict[str, Any]]:
    """Return of the files of W&B in a folder: ids of runs, numbers by tag as (step, value), and the rest."""
    from wandb.proto.wandb_internal_pb2 import Record

    ids, numbers, rest = set(), defaultdict(list), {"exits": [], "images": set(), "config": {}, "summary": {}}
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for data in records(path.read_bytes()):
            record = Record()
            record.ParseFromString(data)
            if record.HasField("run"):
                ids.add(record.run.run_id)
                rest |= {"group": record.run.run_group, "tags": set(record.run.tags), "notes": record.run.notes}
                rest["config"] |= {item.key: item.value_json for item in record.run.config.update}
            elif record.HasField("history"):
                items = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
                for key, value in items.items():
                    if isinstance(value, int | float):
                        numbers[key].append((items["_step"], value))
                    elif value == "image-file":
                        rest["images"].add(key.removesuffix("/_type"))
            elif record.HasField("summary"):
                updates = record.summary.update
                rest["summary"] |= {u.key or "/".join(u.nested_key): json.loads(u.value_json) for u in updates}
            elif record.HasField("exit"):
                rest["exits"].append(record.exit.exit_code)
    return ids, numbers, rest


def test_wandb_has_one_run_with_all_of_it(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="pip install -e '.[wandb]'")
    folder = tmp_path / "sweep" / "0"
    record = died_and_carried_on(folder, "+tracking=wandb", "tracking.wandb.mode=offline", "tracking.wandb.tags=[mine]")
    ids, numbers, rest = offline(folder)
    assert len(ids) == 1
    assert dict(numbers["loss/total"])[6] == pytest.approx(record["final"]["loss/total"])
    assert {step for step, _ in numbers["loss/total"]} == {0, 2, 4, 6}
    assert rest["exits"] == [1, 0]
    assert rest["images"] >= {"picture/progress", "picture/content_style_result"}
    assert rest["tags"] == {"sketch", "mine"}
    assert rest["group"].endswith("/sweep")
    assert rest["notes"] == "How?"
    assert json.loads(rest["config"]["beta"]) == record["config"]["beta"]
    assert rest["summary"]["status"] == "done"
    scores = record["scores"]
    assert rest["summary"][f"{scores['evaluator']}/ssim"] == pytest.approx(scores["ssim"])


def test_mlflow_has_one_run_with_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="pip install -e '.[mlflow]'")
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)
    record = died_and_carried_on(tmp_path / "sweep" / "0", "+tracking=mlflow", "tracking.mlflow.tags=[mine]")
    client = MlflowClient("sqlite:///mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("nst").experiment_id])
    history = client.get_metric_history(run.info.run_id, "loss/total")
    assert [point.step for point in history] == [0, 2, 4, 6]  # nothing twice
    assert history[-1].value == pytest.approx(record["final"]["loss/total"])
    assert run.info.status == "FINISHED"
    assert run.data.params["optimizer.lr"] == str(record["config"]["optimizer"]["lr"])
    assert run.data.params["beta"] == str(record["config"]["beta"])
    assert run.data.tags["sweep"].endswith("/sweep")
    assert (run.data.tags["tags"], run.data.tags["mine"]) == ("sketch", "true")
    assert run.data.tags["mlflow.note.content"] == "How?"
    scores = record["scores"]
    assert run.data.metrics[f"{scores['evaluator']}/ssim"] == pytest.approx(scores["ssim"])
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files >= {"config.yaml", "content_style_result.png", "images"}
    assert len(client.list_artifacts(run.info.run_id, "images")) > 4


def test_trackio_has_one_run_with_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio", reason="pip install -e '.[trackio]'")
    from trackio import utils
    from trackio.sqlite_storage import SQLiteStorage

    project = f"nst-test-{os.getpid()}"
    for module in ("utils", "sqlite_storage", "media.utils"):  # each has the folder of its first import
        monkeypatch.setattr(f"trackio.{module}.TRACKIO_DIR", tmp_path / "store", raising=False)
    assert tmp_path / "store" == utils.TRACKIO_DIR
    record = died_and_carried_on(tmp_path / "sweep" / "0", "+tracking=trackio", f"tracking.trackio.project={project}")
    (run,) = SQLiteStorage.get_run_records(project)
    assert str(run["name"]).endswith("sweep 0")
    logs = SQLiteStorage.get_logs(project, run["name"])
    losses = {entry["step"]: entry["loss/total"] for entry in logs if "loss/total" in entry}
    assert losses.keys() == {0, 2, 4, 6}
    assert losses[6] == pytest.approx(record["final"]["loss/total"])
    assert any("picture/content_style_result" in entry for entry in logs)
    assert [entry["status"] for entry in logs if "status" in entry] == ["interrupted", "done"]
    scores = record["scores"]
    assert [e[f"{scores['evaluator']}/ssim"] for e in logs if f"{scores['evaluator']}/ssim" in e] == [scores["ssim"]]
    config = SQLiteStorage.get_run_config(project, run["name"])
    assert config["beta"] == record["config"]["beta"]
    assert config["_Group"].endswith("/sweep")
    assert config["tags"] == ["sketch"]


def test_a_run_of_a_service_that_failed_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="pip install -e '.[mlflow]'")
    from mlflow import MlflowClient

    from nst.tracking.mlflow import MLflow

    monkeypatch.chdir(tmp_path)
    tracker = MLflow(run_info(tmp_path, 3))
    tracker.step(snapshot(0, loss=1.5))
    tracker.close("failed", "The loss became NaN.")
    run = MlflowClient("sqlite:///mlflow.db").get_run(tracker.position())
    assert (run.info.status, run.data.tags["reason"]) == ("FAILED", "The loss became NaN.")
    assert run.data.metrics["loss/total"] == 1.5
