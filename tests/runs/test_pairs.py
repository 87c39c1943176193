"""Pairs of content and style as one axis: read from a folder or a CSV file, swept, told by name, carried on with."""

import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest
from command_line import ROOT, refused, run, script

from nst.errors import UserError
from nst.report.axes import canonical, parse
from nst.runs import pairs, resume
from nst.runs.folders import find

SAMPLES = ROOT / "nst" / "samples"
SMALL = ("size=32", "steps=1", "schedule=single", "evaluator.size=32", "device=cpu")


def folder_of(tmp_path: Path, contents: dict[str, str], styles: dict[str, str]) -> Path:
    folder = tmp_path / "my pairs"
    for kind, files in (("content", contents), ("style", styles)):
        (folder / kind).mkdir(parents=True)
        for name, sample in files.items():
            shutil.copy(SAMPLES / f"{sample}.jpg", folder / kind / name)
    return folder


def names(found: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(Path(content).name, Path(style).name) for content, style in found]


# Reading


def test_a_folder_gives_every_content_with_every_style_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    files = {"c10.jpg": "coffee", "c9.jpg": "chelsea"}
    folder = folder_of(tmp_path, files, {"s2.jpg": "wave", "s1.jpg": "mosaic"})
    (folder / "style" / "notes.txt").write_text("not a picture")
    found = pairs.read(str(folder))
    expected = [("c9.jpg", "s1.jpg"), ("c9.jpg", "s2.jpg"), ("c10.jpg", "s1.jpg"), ("c10.jpg", "s2.jpg")]
    assert names(found) == expected
    assert all(Path(one).is_file() for pair in found for one in pair)
    assert names(pairs.read(str(folder), "order")) == [("c9.jpg", "s1.jpg"), ("c10.jpg", "s2.jpg")]


def test_a_csv_file_s_paths_count_from_its_folder_and_a_sample_goes_by_its_name(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"a.jpg": "coffee"}, {"b, c.jpg": "wave"})
    (folder / "mosaic").write_text("a file beside it goes before the sample of its name")
    text = '\ufeffstyle,note,content\n"style/b, c.jpg",x,content/a.jpg\nmosaic,,chelsea\nwave,,/elsewhere/d.png\n'
    (folder / "pairs.csv").write_text(text, encoding="utf-8")
    assert pairs.read(str(folder / "pairs.csv")) == [
        (str(folder / "content" / "a.jpg"), str(folder / "style" / "b, c.jpg")),
        ("chelsea", str(folder / "mosaic")),
        ("/elsewhere/d.png", "wave"),
    ]


@pytest.mark.parametrize(
    ("file", "text", "piece"),
    [
        ("none", None, "there is no such folder or CSV file"),
        ("empty.csv", "", "has no pairs"),
        ("heads.csv", "content,style\n", "has no pairs"),
        ("columns.csv", "content,painting\na,b\n", "no column style"),
        ("half.csv", "content,style\na,b\nc,\n", "line 3"),
        ("short.csv", "content,style\na\n", "line 2"),
        ("bytes.csv", b"content,style\n\xff\xfe,b\n", "cannot be read"),
        ("nul.csv", b'content,style\n"a\n', "cannot be read"),
    ],
)
def test_a_csv_file_at_fault_is_told_in_a_sentence(tmp_path: Path, file: str, text: Any, piece: str) -> None:
    if text is not None:
        (tmp_path / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=piece):
        pairs.read(str(tmp_path / file))


def test_a_folder_at_fault_is_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        pairs.read(str(tmp_path))
    folder = folder_of(tmp_path, {"a.jpg": "coffee", "b.jpg": "chelsea"}, {})
    with pytest.raises(UserError, match="no picture in"):
        pairs.read(str(folder))
    shutil.copy(SAMPLES / "wave.jpg", folder / "style")
    with pytest.raises(UserError, match="2 in content/ and 1 in style/"):
        pairs.read(str(folder), "order")
    (folder / "pairs.csv").write_text("content,style\na,b\n")
    with pytest.raises(UserError, match="pairs already"):
        pairs.read(str(folder / "pairs.csv"), "order")


@pytest.mark.parametrize(
    ("arguments", "piece"),
    [
        (("pair=[coffee]",), "pair=[CONTENT,STYLE]"),
        (("pair=coffee",), "pair=[CONTENT,STYLE]"),
        (("pair=[coffee,wave,mosaic]",), "pair=[CONTENT,STYLE]"),
        (("pair=[coffee,nothing]",), "style=nothing"),
        (("pair=[coffee,wave]", "content=chelsea"), "content or style is given beside it"),
        (("pairs=FOLDER",), "python run.py -m"),
        (("pairing=order",), "there is no folder of pairs"),
        (("-m", "pairs=nothing"), "there is no such folder or CSV file"),
        (("-m", "pair=[coffee,wave],[chelsea,mosaic]", "content=coffee"), "so does content"),
        (("-m", "pairs=nothing", "style=wave,mosaic"), "so does style"),
        (("-m", "pairs=nothing", "pair=[coffee,wave]"), "so does pair"),
        (("study=methods", "content=coffee"), "so does content"),
    ],
)
def test_a_mistake_with_pairs_is_told_before_anything_is_made(
    tmp_path: Path, arguments: tuple[str, ...], piece: str
) -> None:
    folders = (f"hydra.run.dir={tmp_path / 'out'}", f"hydra.sweep.dir={tmp_path / 'out'}")
    assert piece in refused(run(*arguments, *SMALL, *folders))
    assert not (tmp_path / "out").exists()


def test_a_list_is_the_same_value_however_it_is_typed() -> None:
    value = ["a b/c 1.jpg", "it's.jpg"]
    assert canonical(parse('["a b/c 1.jpg", "it\'s.jpg"]')) == canonical(value)
    assert canonical(parse("[1, 2]")) == canonical([1, 2]) == "[1,2]"


# Sweeping


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods on the four pairs of a folder whose name and files have spaces and commas in theirs."""
    tmp_path = tmp_path_factory.mktemp("pairs")
    contents, styles = {"c 10.jpg": "coffee", "c 9.jpg": "chelsea"}, {"s,1.jpg": "wave", "s,2.jpg": "mosaic"}
    folder = folder_of(tmp_path, contents, styles)
    typed = ("study=methods", "method=gram,moments", f"pairs={folder}", *SMALL, "backbone=squeezenet")
    result = run(*typed, f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert result.returncode == 0, result.stdout + result.stderr
    return tmp_path / "sweep"


def records(sweep: Path) -> list[dict[str, Any]]:
    return [json.loads((path / "run.json").read_text(encoding="utf-8")) for path in find(sweep)[0]]


def test_each_pair_is_one_value_of_one_axis(sweep: Path) -> None:
    plan = json.loads((sweep / "sweep.json").read_text(encoding="utf-8"))
    assert list(plan["swept"]) == ["method", "pair"]
    assert [len(values) for values in plan["swept"].values()] == [2, 4]
    found = [(Path(one["content"]["file"]).name, Path(one["style"]["file"]).name) for one in records(sweep)]
    assert found == 2 * [
        ("c 9.jpg", "s,1.jpg"),
        ("c 9.jpg", "s,2.jpg"),
        ("c 10.jpg", "s,1.jpg"),
        ("c 10.jpg", "s,2.jpg"),
    ]
    assert plan["jobs"][0]["folder"] == "0_method=gram,pair=c-9.jpg,s,1.jpg"
    assert all(one["config"]["pairs"] is None for one in records(sweep))


def test_the_report_tells_a_pair_by_its_pictures_and_has_means_over_the_pairs(sweep: Path) -> None:
    text = (sweep / "report.md").read_text(encoding="utf-8")
    assert "* pair: c 9.jpg, s, 1.jpg; c 9.jpg, s, 2.jpg; c 10.jpg, s, 1.jpg; c 10.jpg, s, 2.jpg" in text
    table = text.partition("## Means over the pairs")[2].split("\n\n")[1].splitlines()
    heads, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert heads[:3] == ["method", "runs", "content distance"]
    for row, method in zip(rows, ("gram", "moments"), strict=True):
        scores = [one["scores"] for one in records(sweep) if one["choices"]["method"] == method]
        values = [one["content_distance"] for one in scores]
        mean, _, spread = row[2].partition(" ± ")
        assert (row[0], row[1]) == (method, "4")
        assert float(mean) == pytest.approx(statistics.mean(values), rel=1e-3)
        assert float(spread) == pytest.approx(statistics.stdev(values), rel=0.05)
    latex = text.partition("## For LaTeX")[2]
    assert "standard deviation over the pairs" in latex
    assert latex.count("\\pm") >= 2


def test_the_report_has_scores_by_a_second_evaluator(sweep: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    shutil.copytree(sweep, folder)
    for words in (("evaluate.py", folder, "--add", "evaluator.size=48"), ("report.py", folder)):
        done = script(ROOT / "scripts" / words[0], *words[1:])
        assert done.returncode == 0, done.stderr
    (name,) = {name for one in records(folder) for name in one["further_scores"]}
    own = records(folder)[0]["scores"]["evaluator"]
    head = (folder / "summary.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    assert {f"{own}/style_distance", f"{name}/style_distance"} <= {*head}
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert f"style distance ({name})" in text.partition("## Means over the pairs")[2]
    assert "different evaluators do not compare" not in text


def test_a_sweep_over_pairs_is_carried_on_with_and_finds_new_pictures(sweep: Path, tmp_path: Path) -> None:
    folder, source = tmp_path / "sweep", sweep.parent / "my pairs"
    shutil.copytree(sweep, folder)
    (folder / "0_method=gram,pair=c-9.jpg,s,1.jpg" / "status.json").unlink()
    before = {path.parent.name: path.read_bytes() for path in folder.glob("*/result.png")}
    result = run(f"resume={folder}")
    assert result.returncode == 0, result.stdout + result.stderr
    assert {path.parent.name: path.read_bytes() for path in folder.glob("*/result.png")} == before
    shutil.copy(SAMPLES / "rocket.jpg", source / "content" / "c 11.jpg")
    try:
        assert run(f"resume={folder}").returncode == 0
    finally:
        (source / "content" / "c 11.jpg").unlink()
    assert len(list(folder.glob("*/result.png"))) == 12
    assert {name: (folder / name / "result.png").read_bytes() for name in before} == before


def test_a_job_is_reproduced_and_pairs_run_as_a_batch_give_the_same_bytes(sweep: Path, tmp_path: Path) -> None:
    done = script(ROOT / "scripts" / "reproduce.py", sweep / "3_method=gram,pair=c-10.jpg,s,2.jpg", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pair=" not in done.stdout + done.stderr  # no note that it was not recorded
    job = resume.read(sweep / "sweep.json")["jobs"][3]["overrides"]
    alone = run(*job, "hydra.mode=RUN", f"hydra.run.dir={tmp_path / 'alone'}")
    assert alone.returncode == 0, alone.stderr
    wanted = (sweep / "3_method=gram,pair=c-10.jpg,s,2.jpg" / "result.png").read_bytes()
    assert (tmp_path / "alone" / "result.png").read_bytes() == wanted


def test_pairs_go_as_one_batch(tmp_path: Path) -> None:
    words = ("-m", "pair=[coffee,wave],[coffee,mosaic]", "size=32", "steps=2", "evaluator=none")
    for launcher in ("batch", "basic"):
        result = run(*words, f"hydra/launcher={launcher}", f"hydra.sweep.dir={tmp_path / launcher}")
        assert result.returncode == 0, result.stderr
    assert [one["batch"]["images"] for one in records(tmp_path / "batch")] == [2, 2]
