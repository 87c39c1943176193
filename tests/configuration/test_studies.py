"""The studies: each composes, is checked, is as long as it says, and leaves a whole grid; and how they are typed."""

import csv
import json
import math
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import ROOT, environment, refused, run
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig

from nst import configuration
from nst.networks import backbones
from nst.runs import sweep
from nst.setup.check import check

CONF = ROOT / "conf"
STUDIES = sorted(path.stem for path in (CONF / "study").glob("*.yaml"))
SMALL = ("size=32", "steps=1", "evaluator=none")
# Beside SMALL: what would be downloaded, or be long at any size.
SMALLER = {
    "networks": ["backbone.weights=random"],
    "smoothing": ["backbone.weights=random"],
    "methods": ["training.crop=32", "training.batch=1"],
    "three_approaches": ["training.painter.steps=1", "training.crop=32", "training.batch=1"],
}
DEFAULT_STEPS = {"pyramid": 40, "single": 300}  # at each scale, and those of experiment=sketch


def composed(*overrides: str, hydra: bool = False) -> DictConfig:
    configuration.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("config", list(overrides), return_hydra_config=hydra)


def axes_of(*overrides: str) -> dict[str, list[str]]:
    """Return what a study varies."""
    swept = composed(*overrides, hydra=True).hydra
    assert swept.mode == RunMode.MULTIRUN
    lines = [f"{key}={value}" for key, value in swept.sweeper.params.items()]
    parsed = OverridesParser.create().parse_overrides(lines)
    return {str(axis.get_key_element()): list(axis.sweep_string_iterator()) for axis in parsed}


def jobs_of(axes: dict[str, list[str]]) -> list[list[str]]:
    lines = [f"{key}={','.join(values)}" for key, values in axes.items()]
    return sweep.grid(OverridesParser.create().parse_overrides(lines))


def comment(study: str) -> dict[str, str]:
    """Return what a study's comment says under each of its headings, and the command under ``command``."""
    text = (CONF / "study" / f"{study}.yaml").read_text()
    package, *lines = re.match(r"(#.*\n)+", text)[0].splitlines()  # type: ignore[index]
    assert package == "# @package _global_"
    found = {"question": lines[0].removeprefix("# "), "command": lines[1].removeprefix("#   ")}
    heading = ""
    for line in lines[2:]:
        if start := re.match(r"# (Look at|Source|Takes): (.*)", line):
            heading = start[1]
            found[heading] = start[2]
        elif heading:
            found[heading] += " " + line.removeprefix("#").strip()
    return found


@pytest.mark.parametrize("study", STUDIES)
def test_every_job_of_every_study_passes_the_check(study: str) -> None:
    for job in jobs_of(axes_of(f"study={study}")):
        check(composed(f"study={study}", *job))


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_says_its_command_its_question_its_source_and_how_long_it_takes(study: str) -> None:
    said = comment(study)
    settings = composed(f"study={study}")
    assert said["command"] == f"python run.py study={study}"
    assert said["question"].endswith("?") or "?" in said["question"]
    assert settings.title
    assert settings.question.endswith("?")
    assert said["Look at"]
    assert said["Source"]
    count = len(jobs_of(axes_of(f"study={study}")))
    default = DEFAULT_STEPS["pyramid" if "from" in settings.schedule else "single"]
    length = {1: "the default length", 2: "twice the default length"}[settings.steps // default]
    assert said["Takes"].startswith(f"{count} runs of {length}")


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_has_one_or_two_axes_as_a_figure_has(study: str) -> None:
    axes = axes_of(f"study={study}")
    assert len(axes) in (1, 2)
    assert all(len(values) > 1 for values in axes.values())


def test_the_page_about_studies_has_a_row_for_each_with_what_its_file_says() -> None:
    text = (ROOT / "docs" / "studies.md").read_text()
    rows = {name: row for row in text.splitlines() if (name := "".join(re.findall(r"^\| \[`(\w+)`\]", row)))}
    assert sorted(rows) == STUDIES
    for study, row in rows.items():
        said = comment(study)
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells == [
            f"[`{study}`](../conf/study/{study}.yaml)",
            str(composed(f"study={study}").question),
            said["Source"],
            said["Look at"],
            said["Takes"],
        ]
        assert said["command"] in text


# Layers that follow the network


@pytest.mark.parametrize(
    ("architecture", "names"),
    [
        ("vgg19", ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")),
        ("vgg16_bn", ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")),
        ("squeezenet1_1", ("relu1", "fire2", "fire4", "fire6")),
    ],
)
def test_a_network_has_a_layer_for_each_of_its_scales(architecture: str, names: tuple[str, ...]) -> None:
    assert backbones.scales(architecture) == names
    assert sweep.single_layers(architecture) == ",".join(f"[{name}]" for name in names)
    growing = sweep.growing_layers(architecture)
    assert growing.startswith(f"[{names[0]}],[{names[0]},{names[1]}],")
    assert growing.endswith(f",[{','.join(names)}]")


@pytest.mark.parametrize("architecture", backbones.ARCHITECTURES)
def test_the_layers_of_the_scales_are_layers(architecture: str) -> None:
    names = backbones.scales(architecture)
    assert len(names) >= 4
    assert [backbones.resolve(name, architecture).name for name in names] == list(names)


def test_a_study_of_layers_of_a_network_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "backbone").mkdir()
    (tmp_path / "backbone" / "mine.yaml").write_text("_target_: mine.Network\narchitecture: mine\n")
    text = refused(run("--config-dir", str(tmp_path), "study=reconstruction", "backbone=mine", "layers=vgg19"))
    assert "The layers of mine are not known here." in text
    assert "interpolation" not in text


@pytest.mark.parametrize("study", ["layers_and_weights", "content_layer", "reconstruction", "style_reconstruction"])
def test_the_layers_of_a_study_follow_the_backbone(study: str) -> None:
    axes = axes_of(f"study={study}", "backbone=vgg19")
    (values,) = [values for key, values in axes.items() if key.startswith("layers.")]
    assert len(values) == 5
    assert "relu5_1" in values[-1]
    for job in jobs_of(axes):
        check(composed(f"study={study}", "backbone=vgg19", *job))


def test_weights_that_are_compared_are_those_of_the_backbone() -> None:
    assert axes_of("study=random_weights")["backbone.weights"] == ["bundled", "random"]
    assert axes_of("study=random_weights", "backbone=vgg19")["backbone.weights"] == ["torchvision", "random"]


# As a user types them


@pytest.fixture(scope="module")
def grids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every study, small, one after the other in one process of its own, each in a folder of its name."""
    folder = tmp_path_factory.mktemp("studies")
    calls = [
        [
            f"study={study}",
            *SMALL,
            *SMALLER.get(study, []),
            f"hydra.sweep.dir={folder / study}",
        ]
        for study in STUDIES
    ]
    code = (
        "import json, runpy, sys\n"
        "from nst import callbacks\n"
        "for arguments in json.loads(sys.argv[1]):\n"
        "    sys.argv = ['run.py', *arguments]\n"
        "    try:\n"
        "        runpy.run_path('run.py', run_name='__main__')\n"
        "    except SystemExit as ended:\n"
        "        print(*arguments, 'ended with', ended.code)\n"
        "    callbacks._launched = None\n"
    )
    command = [sys.executable, "-c", code, json.dumps(calls)]
    result = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert result.stdout.count("ended with 0") == len(STUDIES), result.stdout + result.stderr[-2000:]
    return folder


@pytest.mark.parametrize("study", STUDIES)
def test_every_study_leaves_its_whole_grid(study: str, grids: Path) -> None:
    folder = grids / study
    swept = {key: values for key, values in axes_of(f"study={study}").items() if len(values) > 1}
    count = math.prod(map(len, swept.values()))
    axes = [values for key, values in swept.items() if key != "seed"]  # seeds share a cell
    rows = list(csv.DictReader((folder / "summary.csv").open()))
    assert [row["status"] for row in rows] == ["done"] * count
    assert len(list(folder.glob("*/result.png"))) == count
    page = (folder / "report.html").read_text()
    assert page.count('<figure class="cell"') == page.count('<img class="still" src="data:') == count
    assert 'class="none">no run' not in page
    if len(axes) == 2:  # the first makes the rows, the second the columns
        grid = re.search(r'<table class="grid">(.*?)</table>', page, re.DOTALL)[1]  # type: ignore[index]
        assert grid.count('<th scope="row">') == len(axes[0])
        assert grid.count('<th scope="col">') == len(axes[1])
        assert grid.count("<td>") == math.prod(map(len, axes))
    assert str(composed(f"study={study}").question) in page


def typed(folder: Path, *arguments: str) -> dict[str, Any]:
    result = run(*arguments, *SMALL, "report=false", f"hydra.sweep.dir={folder}")
    assert result.returncode == 0, result.stderr
    return dict(json.loads((folder / "sweep.json").read_text()))


@pytest.fixture(scope="module")
def pooling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with an axis replaced by a single value and a title of one's own; -m is typed as well."""
    folder = tmp_path_factory.mktemp("typed") / "pooling"
    own = ("style=mosaic", "title=Mine, all mine", *SMALL, "steps=2")
    result = run("-m", "study=pooling", *own, f"hydra.sweep.dir={folder}")
    assert result.returncode == 0, result.stderr
    return folder


def test_what_is_typed_beside_a_study_wins_in_every_job(pooling: Path) -> None:
    plan = json.loads((pooling / "sweep.json").read_text())
    assert (plan["title"], plan["question"]) == ("Mine, all mine", composed("study=pooling").question)
    assert plan["swept"] == {"pooling": ["max", "avg"]}
    assert [job["folder"] for job in plan["jobs"]] == ["0_pooling=max", "1_pooling=avg"]
    records = [json.loads((pooling / job["folder"] / "run.json").read_text()) for job in plan["jobs"]]
    assert [(r["config"]["pooling"], r["config"]["style"], r["config"]["size"], r["steps"]) for r in records] == [
        ("max", "mosaic", 32, 2),
        ("avg", "mosaic", 32, 2),
    ]
    page = (pooling / "report.html").read_text()
    assert page.count('<figure class="cell"') == 2
    assert "Mine, all mine" in page


def test_a_typed_sweep_takes_the_place_of_the_study_s_axis_and_a_further_one_is_added(tmp_path: Path) -> None:
    plan = typed(tmp_path / "out", "study=reconstruction", "layers.content=[fire2],[fire3]", "seed=1,2")
    assert plan["swept"] == {"layers.content": ["[fire2]", "[fire3]"], "seed": ["1", "2"]}
    assert [job["folder"] for job in plan["jobs"]][::3] == [
        "0_layers.content=fire2,seed=1",
        "3_layers.content=fire3,seed=2",
    ]
    record = json.loads((tmp_path / "out" / "0_layers.content=fire2,seed=1" / "run.json").read_text())
    assert (record["config"]["beta"], record["choices"]["init"]) == (0, "noise")  # the study's own settings


def test_a_study_is_resumed_and_given_further_points(pooling: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in pooling.glob("*/result.png")}
    for path in (pooling / "1_pooling=avg").iterdir():
        if path.is_file():
            path.unlink()
    result = run(f"resume={pooling}")
    assert result.returncode == 0, result.stderr
    assert "done earlier" in result.stdout
    assert {path: path.read_bytes() for path in pooling.glob("*/result.png")} == before
    result = run(f"resume={pooling}", "seed=0,1")
    assert result.returncode == 0, result.stderr
    assert len(list(pooling.glob("*/result.png"))) == 4
    single = run(f"resume={pooling / '0_pooling=max'}")  # a job of it is a run, not the study again
    assert single.returncode == 0, single.stderr
    assert "is finished already" in single.stderr
    assert not (pooling / "0_pooling=max" / "sweep.json").exists()


def test_a_job_of_a_study_is_run_alone_as_the_report_says_and_reproduced(pooling: Path, tmp_path: Path) -> None:
    page = (pooling / "report.html").read_text()
    words = shlex.split(re.search(r"<code>(python run\.py [^<]*pooling=max[^<]*)</code>", page)[1])[2:]  # type: ignore[index]
    result = run(*words, f"hydra.run.dir={tmp_path / 'alone'}")
    assert result.returncode == 0, result.stderr
    picture = (tmp_path / "alone" / "result.png").read_bytes()
    assert picture == (pooling / "0_pooling=max" / "result.png").read_bytes()
    command = [sys.executable, str(ROOT / "scripts" / "reproduce.py"), str(pooling / "0_pooling=max")]
    again = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stdout + again.stderr


def test_all_jobs_of_a_study_are_checked_before_the_first_one_starts(tmp_path: Path) -> None:
    text = refused(run("study=pooling", "style=nothing,mosaic", *SMALL, f"hydra.sweep.dir={tmp_path / 'out'}"))
    assert "style=nothing" in text
    assert "in 2 of 4 jobs" in text
    assert not (tmp_path / "out").exists()


def test_studies_are_not_swept(tmp_path: Path) -> None:
    text = refused(run("-m", "study=pooling,optimisers", *SMALL, f"hydra.sweep.dir={tmp_path / 'out'}"))
    assert "study=NAME" in text
    assert not (tmp_path / "out").exists()


def test_the_help_page_names_the_studies() -> None:
    text = run("--help").stdout
    assert re.search(r"study: " + ", ".join(STUDIES), text)
