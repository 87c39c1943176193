"""The list of runs: what it says, which runs a filter means, tags and notes, differences, and what is never deleted."""

import csv
import io
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import ROOT
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nst.errors import UserError
from nst.files import claim
from nst.report import catalogue, filters
from nst.report.write import write_report
from nst.runs import notes

DAY = "2026-11-22"


def make_run(folder: Path, minute: int = 0, status: str = "done", **config: Any) -> Path:
    """Make a run's folder as a run leaves it, as far as a list is concerned."""
    folder.mkdir(parents=True)
    whole = {"task": "optimize", "content": "photos/coffee.jpg", "style": "wave", "beta": 0.01, "title": None, **config}
    record: dict[str, Any] = {
        "config": whole,
        "choices": {"optimizer": "lbfgs", "experiment": None, "init": "content"},
        "overrides": [f"{key}={value}" for key, value in config.items()],
        "versions": {"torch": "2.9"},
        "git": {"commit": "abc"},
        "seconds": {"total": 60 * whole["beta"]},
    }
    if status == "done":
        (folder / "result.png").write_bytes(b"x" * 1000)
        record["result"] = {"file": "result.png", "sha256": "0" * 64}
        record["scores"] = {"evaluator": "e", "content_distance": 1 - whole["beta"], "style_distance": whole["beta"]}
    began = f"{DAY}T10:{minute:02d}:00+00:00"
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "status.json").write_text(json.dumps({"status": status, "started": began, "host": os.uname().nodename}))
    return folder


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs, and a sweep of three jobs of which one failed and one was not begun."""
    monkeypatch.chdir(tmp_path)
    top = tmp_path / "outputs"
    make_run(top / DAY / "10-00-00_coffee_wave", 0)
    make_run(top / "mine", 1, style="mosaic", beta=0.1)
    sweep = top / "multirun" / DAY / "10-02-00_beta"
    jobs = [{"folder": f"{n}_beta={b}", "overrides": [f"beta={b}"]} for n, b in enumerate((0.5, 1, 2))]
    make_run(sweep / "0_beta=0.5", 2, beta=0.5)
    make_run(sweep / "1_beta=1", 3, status="failed", beta=1)
    plan = {"started": f"{DAY}T10:02:00+00:00", "swept": {"beta": ["0.5", "1", "2"]}, "jobs": jobs}
    (sweep / "sweep.json").write_text(json.dumps(plan))
    return Path("outputs")


def names(entries: list[catalogue.Entry]) -> list[str]:
    return [entry.folder.name for entry in entries]


# The list


def test_each_run_and_sweep_has_one_line_that_says_what_its_folder_s_name_does_not(outputs: Path) -> None:
    found = catalogue.listed([outputs])
    assert names(found) == ["10-00-00_coffee_wave", "mine", "10-02-00_beta"]
    heads, first, second, third = catalogue.table(found).splitlines()
    assert heads.split()[:4] == ["status", "content", "style", "MB"]
    assert first.split() == ["done", "0.990", "0.0100", "0.0", f"outputs/{DAY}/10-00-00_coffee_wave"]
    local = found[1].when
    assert second.endswith(f"outputs/mine  {local}, mosaic on coffee, beta=0.1")
    assert third.split("  ")[0] == "1/3 done"
    assert third.endswith("10-02-00_beta  3 runs over beta")
    found[1].own.tags = ["paper"]
    narrow = catalogue.table(found, 80).splitlines()
    assert narrow[2] == f"{second.replace('mine', 'mine  #paper')[:79]}…"
    narrow = catalogue.table(found, 60).splitlines()
    assert narrow[2].endswith("outputs/mine  #paper")
    assert narrow[3].endswith("outputs/multirun/2026-11-22/10-02-00_beta")  # which can be copied
    assert len(catalogue.listed([outputs], jobs=True)) == 5


def test_the_rows_for_other_programs_hold_all_of_it(outputs: Path) -> None:
    found = catalogue.listed([outputs])
    walks = [[Path(top) / name for top, _, files in os.walk(one.folder) for name in files] for one in found]
    sizes = [sum(path.stat().st_size for path in paths) for paths in walks]
    assert [entry.row()["bytes"] for entry in found] == sizes
    row = found[1].row()
    assert row["scores"] == {"evaluator": "e", "content_distance": 0.9, "style_distance": 0.1}
    assert (row["what"], row["status"], row["kind"]) == ("mosaic on coffee, beta=0.1", "done", "run")
    rows = list(csv.DictReader(io.StringIO(catalogue.as_csv(found))))
    assert [line["style_distance"] for line in rows] == ["0.01", "0.1", ""]
    assert catalogue.as_csv([]).strip() == ""


def test_it_needs_no_torch_and_a_damaged_record_is_no_obstacle(outputs: Path) -> None:
    (outputs / "mine" / "run.json").write_text('{"config": {"beta"')
    assert names(catalogue.listed([outputs]))[:2] == ["10-00-00_coffee_wave", "mine"]
    code = "import sys; import nst.report.catalogue; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# Filters

FACTS = [{"beta": b, "size": s, "style": t} for b in (0.001, 0.1, 1.0) for s in (64, 256) for t in ("wave", "mosaic")]


@pytest.mark.parametrize(
    "expression",
    [
        *("beta>0.01 and style=='wave'", "beta >= 0.1 or not size < 100", "0.01 < beta < 1", "beta in (0.001, 1)"),
        *("style != 'wave' and (size == 64 or beta == 1)", "'mos' in style", "0.1 == beta", "beta > -1", "1 > beta"),
        *("style not in ['mosaic']", "'a' not in style", "size"),
    ],
)
def test_a_filter_says_what_python_would(expression: str) -> None:
    expected = [bool(eval(expression, {}, dict(facts))) for facts in FACTS]
    assert filters.matching(FACTS, expression) == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("style==wave", ["10-00-00_coffee_wave", "0_beta=0.5", "1_beta=1"]),
        ("content==coffee and status==done and beta<0.2", ["10-00-00_coffee_wave", "mine"]),
        ("init==content and style==mosaic", ["mine"]),
        ("experiment==none and kind==run and style_distance>0.05", ["mine", "0_beta=0.5"]),
        ("style_distance==none", ["10-02-00_beta", "1_beta=1"]),
        ("kind==sweep and 'beta' in swept", ["10-02-00_beta"]),
        ("tag==paper", ["mine"]),
        ("mb>0.0012 and seconds<1", ["10-00-00_coffee_wave"]),
        (f"when<'{DAY}'", []),
    ],
)
def test_a_filter_finds_runs_and_the_jobs_of_sweeps(outputs: Path, expression: str, expected: list[str]) -> None:
    notes.write(outputs / "mine", notes.Notes(["paper", "best"]))
    found = catalogue.listed([outputs], [expression])
    assert sorted(names(found)) == sorted(expected)


@pytest.mark.parametrize(
    ("expression", "piece"),
    [
        ("bta>1", "Did you mean 'beta'?"),
        ("wave==style", "'wave'"),
        ("beta>word", "a number with a text"),
        ("beta>", "cannot be read"),
        ("1<2", "needs one name"),
        ("beta<1<2", "needs one name"),
        ("__import__('os').system('touch hacked')", "cannot be read"),
        ("beta.__class__()==1", "needs one name"),
        ("style==[x for x in (1,)]", "cannot be read"),
        ("when>2026-11-29", "cannot be read"),
    ],
)
def test_a_filter_that_means_nothing_is_told_and_runs_nothing(outputs: Path, expression: str, piece: str) -> None:
    with pytest.raises(UserError, match="(?s)" + piece.replace("?", r"\?")):
        catalogue.listed([outputs], [expression])
    assert not Path("hacked").exists()


# Tags and notes


def test_tags_and_a_note_stand_beside_the_record_in_tensorboard_and_in_the_report(outputs: Path) -> None:
    run, sweep = outputs / "mine", next(outputs.glob("multirun/*/*"))
    record = (run / "run.json").read_bytes()
    for _ in range(2):  # written anew, not beside it
        notes.write(run, notes.Notes(["paper", "best"], "Hang it."))
    notes.write(sweep, notes.Notes(note="Of the lecture."))
    assert (run / "run.json").read_bytes() == record
    assert notes.notes_in(run) == notes.Notes(["paper", "best"], "Hang it.")
    events = EventAccumulator(str(run)).Reload()
    (text,) = events.Tensors("notes")
    assert text.tensor_proto.string_val == [b"Tags: paper, best\n\nHang it."]
    assert events.SummaryMetadata("notes").plugin_data.plugin_name == "text"
    write_report([outputs], outputs, budget=0)
    rows = {row["run"]: row for row in csv.DictReader((outputs / "summary.csv").open(encoding="utf-8"))}
    assert (rows["mine"]["tags"], rows["mine"]["note"]) == ("paper, best", "Hang it.")
    page = (outputs / "report.html").read_text(encoding="utf-8")
    assert "paper, best" in page
    write_report([sweep], sweep, budget=0)
    assert "Of the lecture." in (sweep / "report.md").read_text(encoding="utf-8")
    lock = claim(run)
    notes.write(run, notes.Notes(["live"]))
    assert not list(run.glob("events*"))  # which would lead TensorBoard away from the run's own
    lock.release()
    notes.write(run, notes.Notes())
    assert not (run / "notes.json").exists()


# Differences


def test_the_difference_of_two_runs_names_what_differs_and_nothing_else(outputs: Path) -> None:
    one, other = outputs / DAY / "10-00-00_coffee_wave", outputs / "mine"
    record = json.loads((other / "run.json").read_text())
    record["versions"]["torch"] = "2.14"
    record["git"]["commit"] = "def"
    record["choices"]["optimizer"] = "adam"
    (other / "run.json").write_text(json.dumps(record))
    found = catalogue.differences(one, other)
    assert found["options"] == {"optimizer": ('"lbfgs"', '"adam"')}
    assert found["configuration"] == {"style": ('"wave"', '"mosaic"'), "beta": ("0.01", "0.1")}
    assert found["versions"] == {"torch": ('"2.9"', '"2.14"')}
    assert found["source"] == {"git.commit": ('"abc"', '"def"')}
    assert found["outcome"]["style_distance"] == ("0.01", "0.1")
    assert {*found} == {"options", "configuration", "versions", "source", "outcome"}
    assert catalogue.difference_table(catalogue.differences(one, one)) == "No difference."
    with pytest.raises(UserError, match="two of the runs"):
        catalogue.differences(one, next(outputs.glob("multirun/*/*")))


# Deleting


def test_nothing_is_deleted_that_is_at_work_elsewhere_or_no_run(outputs: Path, tmp_path: Path) -> None:
    mine, sweep = outputs / "mine", next(outputs.glob("multirun/*/*"))

    def kept(path: Path) -> str:
        (entry,) = [one for one in catalogue.listed([path], jobs=True) if one.folder == path]
        with pytest.raises(UserError, match="is not deleted"):
            catalogue.delete(entry)
        assert path.exists()
        return catalogue.why_kept(entry) or ""

    lock = claim(sweep / "1_beta=1")
    assert "a process works in it" in kept(sweep)
    lock.release()
    lock = claim(sweep)
    assert "a process works in it" in kept(sweep / "0_beta=0.5")
    lock.release()
    (tmp_path / "link").symlink_to(mine)
    assert "link" in kept(tmp_path / "link")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "metrics.csv").write_text("step\n")
    assert "no record" in kept(tmp_path / "thesis")
    make_run(mine / "within" / "another")
    assert "another run" in kept(mine)
    make_run(sweep / "gallery" / "1")
    assert "another run" in kept(sweep)
    far = make_run(outputs / "far", status="running")
    (far / "status.json").write_text(json.dumps({"status": "running", "host": "some cluster's"}))
    assert "some cluster's" in kept(far)
    os.chdir(outputs / DAY / "10-00-00_coffee_wave")
    assert "current folder" in kept(tmp_path / outputs / DAY / "10-00-00_coffee_wave")


def test_a_deleted_run_leaves_what_its_links_lead_to(outputs: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").write_text("dear")
    (outputs / "mine" / "photos").symlink_to(tmp_path / "photos")
    (mine,) = catalogue.listed([outputs / "mine"])
    assert mine.size < 2000
    catalogue.delete(mine)
    assert not (outputs / "mine").exists()
    assert (tmp_path / "photos" / "mine.jpg").read_text() == "dear"


def test_what_was_taken_away_is_listed_as_it_was_typed(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | {"overrides": ["~tracking.tensorboard", "beta=0.1"]}))
    text = catalogue.table(catalogue.listed([tmp_path]))
    assert "~tracking.tensorboard" in text
    assert "tracking.tensorboard=" not in text


def test_the_command_lists_tags_and_deletes_after_a_dry_run(
    outputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def runs(*words: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["runs.py", *words])
        code: object = 0
        try:
            runpy.run_path(str(ROOT / "scripts" / "runs.py"), run_name="__main__")
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return code, out, f"{err}{code}"

    code, out, _ = runs("style==mosaic", "--tag", "paper", "--note", "Hang it.", "--json")
    (row,) = json.loads(out)
    assert (code, row["folder"], row["tags"], row["note"]) == (0, "outputs/mine", ["paper"], "Hang it.")
    assert runs("style=mosaic", "--json") == runs("style==mosaic", "--json")  # as it was typed
    assert "#paper" in runs()[1]
    assert runs("outputs/mine", "--untag", "paper", "--note", "")[0] == 0
    assert not (outputs / "mine" / "notes.json").exists()
    for words, piece in {
        ("outputs/mine", "--untag", "paper"): "has no tag paper",
        ("--delete",): "Say which runs",
        ("nothing",): "no folder here",
        ("status==failed", "--delete"): "add --yes",
        ("--tag", "two words", "outputs"): "one word",
        ("--yes",): "go with --delete",
    }.items():
        code, _, told = runs(*words)
        assert code != 0
        assert piece in told
    failed = next(outputs.glob("multirun/*/*/1_beta=1"))
    code, out, _ = runs("status==failed", "--delete", "--dry-run")
    assert "Would delete 1 folder" in out
    assert failed.exists()
    code, out, _ = runs("status==failed", "--delete", "--yes")
    assert code == 0
    assert not failed.exists()
    code, out, _ = runs("outputs", "--delete", "--yes")
    assert code == 0
    assert "3 folders" in out
    assert not list(outputs.rglob("run.json"))
    assert "No run in outputs" in runs()[1]
