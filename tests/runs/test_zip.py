"""Sweeps that are no plain grid: over the pictures of a folder or a pattern, and with axes that go together."""

import csv
import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import ROOT, refused, run
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from nst import configuration
from nst.errors import UserError
from nst.runs import pairs, sweep

SAMPLES = ROOT / "nst" / "samples"
SMALL = ("size=32", "steps=1", "evaluator.size=32", "device=cpu")


def grid(*words: str) -> list[list[str]]:
    return sweep.grid(OverridesParser.create().parse_overrides(list(words)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photographs that the alphabet has in another order, two paintings, and what is no picture."""
    top = tmp_path_factory.mktemp("pictures")
    files = {"my photos": {"p10": "coffee", "p9": "chelsea", "p1": "rocket"}, "art": {"s,1": "wave", "s,2": "mosaic"}}
    for name, pictures in files.items():
        (top / name).mkdir()
        for picture, sample in pictures.items():
            shutil.copy(SAMPLES / f"{sample}.jpg", top / name / f"{picture}.jpg")
    (top / "my photos" / "notes.txt").write_text("no picture")
    (top / "my photos" / ".hidden.jpg").write_text("no picture")
    (top / "empty").mkdir()
    return top


@pytest.fixture
def in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(folder)
    configuration.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        yield


# Axes that go together


def test_axes_that_go_together_make_the_pairs_of_python_s_zip_within_the_grid_of_the_others() -> None:
    contents, styles, betas = ("a", "b", "c"), ("x", "y", "z"), ("1", "2")
    expected = [
        [f"content={content}", f"style={style}", f"beta={beta}"]
        for (content, style), beta in itertools.product(zip(contents, styles, strict=True), betas)
    ]
    words = ("content=a,b,c", "style=x,y,z", "beta=1,2")
    for written in ("zip=content,style", "zip=[content,style]", "zip=style,content", "zip=[[content,style]]"):
        assert grid(*words, written) == grid(written, *words) == expected
    apart = [["content=a", "style=x", "beta=1"], ["content=a", "style=x", "beta=2"]]
    assert grid("content=a,b", "beta=1,2", "style=x,y", "zip='content','style'")[:2] == apart
    assert grid("content=a,b", "style=x,y", "beta=1,2", "seed=3,4", "zip=[content,style],[beta,seed]") == [
        [f"content={c}", f"style={s}", f"beta={b}", f"seed={n}"]
        for (c, s), (b, n) in itertools.product((("a", "x"), ("b", "y")), (("1", "3"), ("2", "4")))
    ]
    assert grid("optimizer=adam,sgd", "+optimizer.weight_decay=0.1,0.2", "zip=optimizer,optimizer.weight_decay") == [
        ["optimizer=adam", "+optimizer.weight_decay=0.1"],
        ["optimizer=sgd", "+optimizer.weight_decay=0.2"],
    ]


@pytest.mark.parametrize(
    ("words", "piece"),
    [
        (("content=a,b,c", "style=x,y", "zip=content,style"), "content has 3, style has 2"),
        (("content=a,b", "style=x", "zip=content,style"), "content has 2, style has 1"),
        (("content=a,b", "zip=content,stile"), "no axis stile. Give it values"),
        (("content=a,b", "style=x,y", "zip=content,stlye"), "no axis stlye. Did you mean 'style'"),
        (("content=a,b", "zip=[content]"), "two axes or more"),
        (("content=a,b", "zip=content,content"), "each once"),
        (("a=1,2", "b=1,2", "c=1,2", "zip=[a,b],[b,c]"), "each once"),
    ],
)
def test_axes_that_cannot_go_together_are_told_in_a_sentence(words: tuple[str, ...], piece: str) -> None:
    with pytest.raises(UserError, match=piece):
        grid(*words)


# Pictures of folders and patterns


def listed(*words: str) -> list[Any]:
    """Return the values of the last override that a sweep is given, as Hydra reads them."""
    config = compose("config", return_hydra_config=True)
    config.hydra.overrides.task = list(words)
    pairs.list_pictures(config)
    parsed = OverridesParser.create().parse_override(str(config.hydra.overrides.task[-1]))
    return (
        [str(getattr(v, "text", v)) for v in parsed.sweep_iterator()]
        if parsed.is_sweep_override()
        else [parsed.value()]
    )


def test_a_folder_or_a_pattern_is_its_pictures_in_the_order_of_their_numbers(
    in_folder: None, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = [f"my photos/p{number}.jpg" for number in (1, 9, 10)]
    assert listed("content=my photos") == photos
    assert capsys.readouterr().err == "content=my photos: left out, since it is no picture: notes.txt\n"
    assert listed("content='my photos/*.jpg'") == listed("content=glob(my photos/p*)") == photos
    assert listed("content='my photos/p?.jpg'") == photos[:2]
    assert listed("content='my photos/[p]*0.jpg'") == photos[2:]
    assert listed("content='**/*.jpg'") == [f"art/s,{number}.jpg" for number in (1, 2)] + photos
    assert listed("style=wave,art,'my photos/p9.jpg'") == ["wave", "art/s,1.jpg", "art/s,2.jpg", photos[1]]
    assert listed("style=[wave,mosaic],art")[0] == "['wave', 'mosaic']"
    assert listed("seed=1,2", "content=coffee") == ["coffee"]
    with pytest.raises(UserError, match="no picture in empty"):
        listed("style=empty")
    with pytest.raises(UserError, match=r"no picture in my photos/\*\.txt"):
        listed("style='my photos/*.txt'")
    with pytest.raises(UserError, match="nothing matches nowhere"):
        listed("style=nowhere/*")
    with pytest.raises(UserError, match="content= is empty"):
        listed("content=")


@pytest.mark.parametrize(
    ("arguments", "piece"),
    [
        (("-m", "content=glob(nowhere/*)"), "nothing matches nowhere"),
        (("-m", "seed=range(0)"), "seed=range(0) gives no values"),
        (("-m", "optimizer=glob(nothing*)"), "gives no values"),
        (("content=art",), "python run.py -m content=art"),
        (("style=art/*.jpg",), "python run.py -m 'style=art/*.jpg'"),
        (("zip=[content,style]",), "zip is for sweeps"),
        (("zip=content,style",), "-m in front"),
        (("-m", "zip=content,style", "content=my photos", "style=art"), "content has 3, style has 2"),
        (("-m", "zip=beta,seed", "beta=1,2", "seed=1,2", "hydra/sweeper=optuna"), "grid of listed values"),
    ],
)
def test_a_mistake_is_told_before_anything_is_made(folder: Path, arguments: tuple[str, ...], piece: str) -> None:
    if "hydra/sweeper=optuna" in arguments:
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    assert piece in refused(run(*arguments, *SMALL, cwd=folder))
    assert not (folder / "outputs").exists()


def test_a_zipped_sweep_is_planned_named_reported_and_given_further_points(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    words = ("-m", "content=my photos/p[19].jpg", "style=art", "zip=content,style", "hydra/launcher=batch")
    done = run(*words, *SMALL, f"hydra.sweep.dir={out}", cwd=folder)
    assert done.returncode == 0, done.stderr
    names = ["0_content=p1.jpg,style=s,1.jpg", "1_content=p9.jpg,style=s,2.jpg"]
    before = [(out / name / "result.png").read_bytes() for name in names]
    records = [json.loads((out / name / "run.json").read_text()) for name in names]
    assert [record["config"]["zip"] for record in records] == [None, None]
    assert [record["batch"]["images"] for record in records] == [2, 2]
    assert not any("zip" in line for record in records for line in record["overrides"])
    done = run(f"resume={out}", "content=chelsea,rocket", "style=hatching,wave", cwd=folder)
    assert done.returncode == 0, done.stderr
    plan = json.loads((out / "sweep.json").read_text())
    names += ["2_content=chelsea,style=hatching", "3_content=rocket,style=wave"]
    assert [job["folder"] for job in plan["jobs"]] == names
    assert plan["zip"] == [["content", "style"]]
    assert [(out / name / "result.png").read_bytes() for name in names[:2]] == before
    text = (out / "report.md").read_text()
    assert [line for line in text.splitlines() if line.startswith(("* content:", "* style:"))] == [
        "* content: p1.jpg, p9.jpg, chelsea, rocket"  # one axis, not two with gaps
    ]
    with (out / "summary.csv").open(encoding="utf-8") as file:
        assert [row["style"] for row in csv.DictReader(file)] == ["s,1.jpg", "s,2.jpg", "hatching", "wave"]
    done = run(f"resume={out}", cwd=folder)
    assert "4 done earlier" in done.stdout
