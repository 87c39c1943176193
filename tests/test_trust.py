"""What a stranger's run, bundle or network may not do, whoever reads it; the rules stand in docs/security.md."""

import csv
import io
import json
import os
import random
import re
import shutil
import stat
import zipfile
from pathlib import Path
from typing import Any

import pytest
import synthetic_runs
from command_line import ROOT, TINY, refused, run, script
from PIL import Image

from nst import configuration, trust
from nst.errors import UserError
from nst.report.bundle import write_bundle
from nst.report.page import render
from nst.report.runs import collect
from nst.report.tables import report_markdown, summary_csv
from nst.report.view import Place, draw_pictures, make_view
from nst.runs import resume

AXES = {"beta": [0.01, 0.1]}
SMALL: dict[str, Any] = {"size": (48, 32), "previews": 4, "rows": 5, "quick": True}


@pytest.mark.parametrize("group", (*configuration.GROUPS, "tracking"))
def test_whatever_an_option_of_ours_builds_may_be_built_from_a_record(group: str) -> None:
    targets = {
        target
        for path in (ROOT / "conf" / group).glob("*.yaml")
        for target in re.findall(r"_target_: (\S+)", path.read_text())
    }
    assert targets or group in ("layers", "schedule")
    sends = {"nst.tracking.wandb.WandB", "nst.tracking.mlflow.MLflow", "nst.tracking.trackio.Trackio"}
    assert {target for target in targets if not trust.HARMLESS.fullmatch(target)} <= {
        "nst.evaluation.evaluator.nothing",
        *sends,  # which a record is not to choose
    }


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return synthetic_runs.make_sweep(tmp_path / "sweep", AXES, title="A sweep", **SMALL)


def changed(path: Path, **facts: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


def first(sweep: Path) -> Path:
    return sorted(path for path in sweep.iterdir() if path.is_dir())[0]


def reported(folder: Path) -> tuple[str, str, str, zipfile.ZipFile]:
    """Return what a report makes of a folder: page, Markdown, CSV and bundle."""
    collection = collect([folder])
    view = make_view(collection, draw_pictures(collection, 200_000), Place(folder))
    texts = {"report.html": render(view), "report.md": report_markdown(view), "summary.csv": summary_csv(view)}
    file = io.BytesIO()
    write_bundle(file, collection, {name: text.encode() for name, text in texts.items()}, "A sweep")
    return *texts.values(), zipfile.ZipFile(file)  # type: ignore[return-value]


# Code


@pytest.mark.parametrize(
    ("target", "harmless"),
    [
        ("nst.losses.GramLoss", True),
        ("torch.optim.RMSprop", True),
        ("torch.optim.lr_scheduler.StepLR", True),
        ("os.system", False),
        ("nst.runs.provenance.subprocess.run", False),
        ("torch.optim.adam.torch.hub.load", False),
        ("torch.utils.collect_env.run", False),
        ("hydra.utils.get_method", False),
        ("builtins.eval", False),
    ],
)
def test_a_record_names_no_code_but_ours(tmp_path: Path, target: str, harmless: bool) -> None:
    config = {"style_loss": {"_target_": "nst.losses.GramLoss", "inner": [{"_target_": target}]}}
    if harmless:
        trust.refuse_foreign_code(config, "bundle.zip", [], [])
    else:
        with pytest.raises(UserError, match=target):
            trust.refuse_foreign_code(config, "bundle.zip", [], [])
    trust.refuse_foreign_code(config, "bundle.zip", [], [], is_trusted=True)
    (tmp_path / "os.py").touch()
    if target == "os.system":  # which a module of that name in a folder of one's own does not make one's own
        with pytest.raises(UserError, match=target):
            trust.refuse_foreign_code(config, "a run", [], [tmp_path])
    (tmp_path / "mine.py").touch()
    trust.refuse_foreign_code({"style_loss": {"_target_": "mine.Loss"}}, "a run", [], [tmp_path])


@pytest.mark.parametrize(
    "hidden",
    [
        "${oc.decode:'{_target_: os.mkdir, path: executed}'}",
        {"_target_": "nst.losses.GramLoss", "scale": ["${oc.env:HOME}"]},
        {"_target_": "nst.losses.GramLoss", "${oc.env:HOME}": 1},
    ],
)
def test_an_interpolation_in_a_record_is_refused_before_it_is_resolved(hidden: Any) -> None:
    with pytest.raises(UserError, match="has an interpolation"):
        trust.refuse_foreign_code({"style_loss": hidden}, "a run", [], [], is_trusted=True)


def test_only_the_variables_that_runs_record_reach_a_process() -> None:
    good = {"OMP_NUM_THREADS": "2", "CUBLAS_WORKSPACE_CONFIG": ":4096:8", "MKL_CBWR": "AVX2,STRICT"}
    bad = {"PYTHONWARNINGS": "all:0:antigravity.x:0:0", "BROWSER": "touch x %s", "LD_PRELOAD": "/x.so", "PATH": "/x"}
    told = [f"The recorded variable {name} is not set: a run records none like it." for name in bad]
    assert trust.safe_variables(good | bad) == (good, told)
    assert trust.safe_variables({"OMP_NUM_THREADS": "2; touch x"})[0] == {}
    assert trust.safe_variables(None) == (None, [])
    assert trust.safe_variables("x") == (None, [])


ATTACKS = (
    "style_loss._target_=torch.utils.collect_env.run",
    "+style_loss={_target_: os.system, command: touch executed}",
    "style_loss=${oc.decode:'{_target_: os.mkdir, path: executed}'}",
    "content=${oc.env:HOME}",
    "+hydra.callbacks.x._target_=os.mkdir",
    "hydra.searchpath=[file:///tmp/x]",
    "hydra/job_logging=evil",
    "--config-name=evil",
    "--config-na=evil",
    "--config-di=evil",
    "style_loss._target_=imaplib.IMAP4_stream",
    "+hydra={job:{env_set:{LD_PRELOAD:x}}}",
    "+hydra.sweeper.params.x=1",
    "hydra.sweep.subdir=../../x",
    "optimizer@hydra.launcher=adam",
    "title=$\\{oc.env:HOME\\}",
    "title=\\{_tar$\\{question\\}: x\\}",
    "hydra.launcher.setup=[touch executed]",
    "hydra.launcher._target_=os.system",
    "hydra.run.dir=${oc.env:HOME}",
    "~hydra.callbacks",
)
HARMLESS_WORDS = (
    "beta=0.1",
    "content=${style}",
    "hydra.run.dir=outputs/x",
    "hydra.run.dir=outputs/${now:%Y-%m-%d}",
    "hydra.sweep.subdir=${hydra:job.num}",
    "hydra/launcher=joblib",
    "hydra.launcher.n_jobs=2",
    "style_loss._target_=nst.losses.MomentsLoss",
    'title="What is \\${this}?"',
    "-m",
)


@pytest.mark.parametrize("word", ATTACKS)
def test_words_of_a_record_that_can_run_code_do_not_count_when_it_is_resumed(tmp_path: Path, word: str) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"arguments": [word], "overrides": [word], "config": {}}))
    with pytest.raises(UserError, match="type it again beside resume="):
        resume.command_lines([f"resume={tmp_path}"])
    (tmp_path / "sweep.json").write_text(json.dumps({"grids": [["--multirun", word]], "jobs": []}))
    with pytest.raises(UserError, match="type it again beside resume="):
        resume.command_lines([f"resume={tmp_path}"])


def test_words_of_a_record_that_are_a_user_s_count() -> None:
    trust.refuse_foreign_words([*HARMLESS_WORDS], Path("x"))


def test_what_is_typed_again_counts(tmp_path: Path) -> None:
    own = "style_loss._target_=mine.Loss"
    (tmp_path / "run.json").write_text(json.dumps({"arguments": [own], "overrides": [own]}))
    (words,) = resume.command_lines([f"resume={tmp_path}", own])
    assert own in words


def test_code_is_the_users_own_only_where_a_run_was_begun_and_outside_of_its_folder(tmp_path: Path) -> None:
    folder, mine = tmp_path / "run", tmp_path / "mine"
    for place in (folder, mine):
        place.mkdir()
        (place / "own.py").touch()
    trust.refuse_foreign_words(["--config-dir", str(mine), "style_loss=own"], folder)
    for words, is_at_home in (([f"--config-dir={folder}"], True), (["--config-dir", str(mine)], False)):
        with pytest.raises(UserError, match="uses code of its own"):
            trust.refuse_foreign_words(words, folder, is_at_home)


def test_a_hundred_mutated_attacks_run_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each attack with other quotes, places, spaces and names: none passes, and nothing is executed on the way."""
    monkeypatch.chdir(tmp_path)
    chance = random.Random(0)
    targets = ["os.mkdir", "subprocess.run", "torch.utils.collect_env.run", "builtins.exec", "nst.cli.subprocess.run"]
    knobs = ["style_loss", "init", "optimizer", "evaluator", "backbone", "lr_schedule", "training.painter.optimizer"]
    for _ in range(100):
        target, knob = chance.choice(targets), chance.choice(knobs)
        text = chance.choice(
            [
                "{_target_: T, name: executed}", "{name: executed, _target_: T}", "{x: {y: [{_target_: T}]}}",
                "[{_target_: T}]", "${oc.decode:'{_target_: T}'}", "${ oc.decode:'{_target_: T}'}", "${oc.env:PATH}",
                "'{_target_: T}'", "${.x}${oc.env:PATH}", "{ '_target_' : T }",
            ]
        ).replace("T", target)  # fmt: skip
        word = f"{chance.choice(['', '+', '++'])}{knob}{chance.choice(['', '.x', '._target_'])}={text}"
        with pytest.raises(UserError):
            trust.refuse_foreign_words([word], tmp_path)
        node: Any = {"_target_": target}
        for _ in range(chance.randrange(4)):
            node = chance.choice([{"a": node}, [node], {"_target_": "nst.losses.GramLoss", "b": node}])
        with pytest.raises(UserError):
            trust.refuse_foreign_code({knob: node}, "a run", [], [])
        with pytest.raises(UserError):
            trust.refuse_foreign_code(
                {knob: {"a": [f"x{chance.choice(['${oc.env:A}', '${a}', '${b.c}'])}"]}}, "", [], []
            )
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_with_every_attack_runs_nothing(tmp_path: Path) -> None:
    assert run(*TINY, "hydra.run.dir=run", "evaluator=none", cwd=tmp_path).returncode == 0
    folder = tmp_path / "run"
    whole = json.loads((folder / "run.json").read_text())
    touch = f"touch {tmp_path}/executed"
    attacks: list[tuple[dict[str, Any], str]] = [
        ({"style_loss": {"_target_": "torch.utils.collect_env.run", "command": touch}}, "code of its own"),
        ({"style_loss": f"${{oc.decode:'{{_target_: torch.utils.collect_env.run, command: {touch}}}'}}"}, "interpolat"),
    ]
    for config, words in attacks:
        changed(folder / "run.json", config=whole["config"] | config)
        done = script(ROOT / "scripts" / "reproduce.py", folder, cwd=tmp_path)
        assert done.returncode == 1
        assert words in done.stderr
        assert "Traceback" not in done.stderr
    variables = {"PYTHONWARNINGS": "all:0:antigravity.x:0:0", "BROWSER": f"{touch} %s"}
    changed(folder / "run.json", config=whole["config"], determinism={"variables": variables})
    done = script(ROOT / "scripts" / "reproduce.py", folder, cwd=tmp_path)
    assert "The recorded variable BROWSER is not set" in done.stdout
    assert not (tmp_path / "executed").exists()


# Files


def test_a_report_takes_nothing_from_elsewhere(sweep: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key.py").write_text("KEY = 'of mine'")
    Image.new("RGB", (64, 64), "teal").save(secret / "private.png")
    folder = first(sweep)
    (folder / "uncommitted_x.diff").symlink_to(secret / "key.py")
    (folder / "previews" / "99999.jpg").symlink_to(secret / "private.png")
    fact = {"name": "private.png", "file": str(secret / "private.png"), "sha256": "0" * 64}
    changed(
        folder / "run.json", config_folders=[str(secret)], content=fact, own_code={str(secret / "key.py"): "0" * 64}
    )
    _, _, _, bundle = reported(sweep)
    names = bundle.namelist()
    assert not [
        name for name in names if "key" in name or "private" in name or "uncommitted" in name or "99999" in name
    ]
    assert not [name for name in names if b"of mine" in bundle.read(name)]
    without_hash = {key: value for key, value in fact.items() if key != "sha256"}
    changed(folder / "run.json", content=without_hash)
    collection = collect([sweep])
    assert "content" not in collection.runs[0].record


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
@pytest.mark.parametrize("name", ["metrics.csv", "run.json", "status.json", ".hydra/config.yaml"])
def test_a_pipe_in_place_of_a_file_does_not_hang(sweep: Path, name: str) -> None:
    folder = first(sweep)
    (folder / name).unlink(missing_ok=True)
    (folder / name).parent.mkdir(exist_ok=True)
    os.mkfifo(folder / name)
    html, *_ = reported(sweep)
    assert "beta" in html
    assert resume.read(folder / "run.json") == {} or name != "run.json"


def test_a_picture_that_claims_to_be_huge_is_not_decoded(sweep: Path) -> None:
    folder = first(sweep)
    result = next(folder.glob("result.*"))
    Image.new("1", (13300, 13300)).save(result.with_suffix(".png"))
    assert result.with_suffix(".png").stat().st_size < 40_000
    collection = collect([sweep])
    pictures = draw_pictures(collection, 200_000)
    assert folder / "result.png" in pictures.broken


# Texts


def test_a_command_that_would_do_more_is_not_shown_as_one(sweep: Path) -> None:
    for command in (
        "python run.py -m beta=1; rm -rf /",
        "python run.py\nrm -rf /",
        "rm -rf /",
        "python run.py $(rm x)",
    ):
        changed(sweep / "sweep.json", command=command, arguments=["-m", "beta=0.01,0.1"])
        html, markdown, *_ = reported(sweep)
        assert "rm -rf" not in html + markdown
        assert "$(rm" not in html + markdown
        assert "python run.py -m beta=0.01,0.1" in markdown
    assert trust.is_one_command("python run.py -m 'title=What; is > this?' beta=1,2")


def test_cells_are_no_formulas(sweep: Path) -> None:
    evil = '=HYPERLINK("http://x","y")'
    changed(first(sweep) / "status.json", status="failed", reason=evil)
    _, _, table, _ = reported(sweep)
    rows = list(csv.DictReader(io.StringIO(table)))
    assert f"'{evil}" in [row["reason"] for row in rows]
    assert [trust.cell(text) for text in ("-0.5", "+3", "1e-3", "@x", "-x", "a=b")] == [
        "-0.5", "+3", "1e-3", "'@x", "'-x", "a=b",
    ]  # fmt: skip


def test_what_turns_a_text_round_is_written_out(sweep: Path) -> None:
    changed(first(sweep) / "status.json", status="failed", reason="user\u202egnp.exe\x1b[31m")
    html, markdown, _, _ = reported(sweep)
    assert "\\u202e" in html
    assert "\\u001b" in html
    for character in ("\u202e", "\x1b"):
        assert character not in html + markdown
    assert "unicode-bidi: isolate" in html


# Damage


def broken(value: Any, chance: random.Random) -> Any:
    """Return a value with one entry somewhere in it replaced by something else."""
    if isinstance(value, dict | list) and value and chance.random() < 0.8:
        made = dict(value) if isinstance(value, dict) else list(value)
        key = chance.choice(list(made) if isinstance(made, dict) else range(len(made)))  # type: ignore[arg-type]
        made[key] = broken(made[key], chance)
        return made
    deep: Any = []
    for _ in range(200):
        deep = [deep]
    return chance.choice([None, 0, -1.5, True, "", "x", "../../x", [], {}, ["x"], {"x": None}, [[]], 10**400, deep])


@pytest.mark.parametrize("name", ["status.json", "run.json", "sweep.json"])
def test_a_hundred_broken_records_are_read_by_everybody(sweep: Path, name: str, tmp_path: Path) -> None:
    chance = random.Random(name)
    path = sweep / name if name == "sweep.json" else first(sweep) / name
    whole = path.read_text()
    for number in range(100):
        path.write_text(json.dumps(broken(json.loads(whole), chance)))
        if number % 4 == 0:
            reported(sweep)
        past = resume.past(first(sweep))
        assert past is None or isinstance(past.is_done, bool)
        try:
            resume.command_lines([f"resume={path.parent}"])
        except UserError as error:
            assert str(error)
    for text in (
        "",
        "{",
        "[" * 100_000,
        "\0",
        '{"a": NaN}',
        "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
    ):
        path.write_text(text)
        reported(sweep)
        resume.past(first(sweep))


def test_times_and_names_have_their_form() -> None:
    def left(name: str, **facts: Any) -> set[str]:
        return {key for key, value in facts.items() if trust._has_form(value, trust.FORMS[name][key])}

    assert left("status.json", started="2026-01-01T00:00:00+00:00", ended="yesterday") == {"started"}
    assert left("run.json", result={"file": "../x.png", "sha256": "0"}, seconds={"total": "x"}, arguments=["-m"]) == {
        "arguments"
    }
    assert left("sweep.json", jobs=[{"folder": "/etc", "overrides": []}], swept={"beta": ["1"]}) == {"swept"}


def test_broken_records_are_one_message_on_the_command_line(tmp_path: Path) -> None:
    assert run(*TINY, "hydra.run.dir=run", "evaluator=none", cwd=tmp_path).returncode == 0
    folder = tmp_path / "run"
    whole = (folder / "run.json").read_text()
    (folder / "run.json").write_text('{"config": ' + "[" * 5000 + "]" * 5000 + "}")
    done = script(ROOT / "scripts" / "reproduce.py", "run", cwd=tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    changed_record = json.loads(whole) | {"overrides": 3, "arguments": {"a": 1}, "config": [], "seconds": "x"}
    (folder / "run.json").write_text(json.dumps(changed_record))
    done = script(ROOT / "scripts" / "reproduce.py", "run", cwd=tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    (folder / "run.json").unlink()
    shutil.rmtree(folder / ".hydra")
    (folder / "run.json").write_text("[]")
    assert "damaged" in refused(run("resume=run", cwd=tmp_path))


# Bundles


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "C:\\x", "..\\x", "a\0b"])
def test_no_member_of_a_bundle_is_written_elsewhere(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        about = zipfile.ZipInfo("x")
        about.filename = about.orig_filename = name
        archive.writestr(about, "x")
    (tmp_path / "to").mkdir()
    with pytest.raises(UserError):
        trust._refuse_unsafe(tmp_path / "b.zip", about)


def test_a_link_in_a_bundle_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        about = zipfile.ZipInfo("run.json")
        about.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(about, "/etc/passwd")
    (tmp_path / "to").mkdir()
    with pytest.raises(UserError, match="is a link"):
        trust.unpack(tmp_path / "b.zip", tmp_path / "to")
    assert list((tmp_path / "to").iterdir()) == []
