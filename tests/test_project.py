"""The project itself: clean for the linters, no circular import, and a README that tells the truth."""

import dataclasses
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from packaging.requirements import Requirement

from nst import callbacks, cli, configuration
from nst.images import rgb
from nst.runs import resume, sweep
from nst.samples import samples

ROOT = Path(__file__).parent.parent
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "nst").rglob("*.py")
)


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]])
def test_the_linters_are_content(command: list[str]) -> None:
    result = python("-m", *command)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_module_can_be_imported_first() -> None:
    code = (
        "import importlib, sys\n"
        "import torch, hydra, tensorboard, torchvision, scipy.optimize  # slow, and not ours\n"
        f"for name in {MODULES!r}:\n"
        "    for loaded in [m for m in sys.modules if m.split('.')[0] == 'nst']:\n"
        "        del sys.modules[loaded]\n"
        "    importlib.import_module(name)\n"
    )
    result = python("-c", code)
    assert result.returncode == 0, result.stderr


def test_the_formulas_and_the_network_know_nothing_of_files_configs_and_trackers() -> None:
    for folder, forbidden in {
        "losses": r"from nst\.(images(?!\.(bands|pixels) )|configuration|stylization|tracking|optimization|networks)|"
        r"hydra|omegaconf",
        "tracking": r"from nst\.losses import",
    }.items():
        for path in (ROOT / "nst" / folder).glob("*.py"):
            imports = [line for line in path.read_text().splitlines() if line.startswith(("import ", "from "))]
            assert not re.search(forbidden, "\n".join(imports)), path
    assert "torch" not in (ROOT / "run.py").read_text().replace("for torch", "")


def test_only_public_interfaces_of_hydra_are_used() -> None:
    for path in (path for folder in ("nst", "hydra_plugins", "scripts") for path in (ROOT / folder).rglob("*.py")):
        assert "hydra._internal" not in path.read_text(), path


def test_the_readme_lists_every_knob_with_its_default() -> None:
    text = (ROOT / "README.md").read_text()
    defaults = re.findall(r"^([a-z_]+): (.+)$", (ROOT / "conf" / "config.yaml").read_text(), re.MULTILINE)
    for name, value in defaults:
        row = f"| `{name}` | `{value}` |" if name not in ("title", "question") else "| `title`, `question` | `null` |"
        assert row in text, name
    for knob in dataclasses.fields(configuration.Config):
        row = next(line for line in text.splitlines() if line.startswith("|") and f"`{knob.name}`" in line)
        assert all(f"`{choice}`" in row for choice in knob.metadata["choices"]), row


def test_the_readme_names_every_sample_and_every_file_it_links_to_exists() -> None:
    text = (ROOT / "README.md").read_text()
    for sample in samples():
        assert f"`{sample}`" in text
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)|src=\"([^\"]+)\"", page.read_text()):
            name = "".join(target)
            assert (page.parent / name).exists(), f"{page.name} links to {name}"


def test_every_sample_is_there_with_its_author_and_licence() -> None:
    for name, about in samples().items():
        picture = rgb.load(name, 64)
        assert picture.shape[0:2] == (1, 3)
        assert {"kind", "title", "author", "licence", "source"} <= about.keys()
    kinds = [about["kind"] for about in samples().values()]
    assert kinds.count("content") >= 3
    assert kinds.count("style") >= 4


def commands(text: str) -> list[list[str]]:
    """Return the words of each ``python run.py ...`` in a page, without flags and Hydra's own settings."""
    found = []
    for line in re.findall(r"python run\.py([^\n`|]*)", text.replace("\\\n", " ")):
        typed = line.split("   #")[0]
        if any(one in typed for one in ("...", "resume=", "hydra/sweeper", "--config-dir", "-sc ")):
            continue
        words = [cli.as_typed(word) for word in shlex.split(typed, comments=True)]
        own = [word for word in words if ("=" in word or word.startswith("~")) and not word.startswith("hydra")]
        if own and own not in found:
            found.append(own)
    return found


@pytest.mark.parametrize("page", ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
def test_no_command_of_a_page_holds_a_word_that_changes_nothing(page: str) -> None:
    configuration.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        for words in commands((ROOT / page).read_text(encoding="utf-8")):
            parsed = OverridesParser.create().parse_overrides(words)
            jobs = [job for _, job in sweep.composed("config", sweep.grid(parsed)[:2])]
            callbacks.refuse_idle(jobs, map(resume.key_of, words))


def test_the_constraints_fit_what_the_project_asks_for() -> None:
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for line in [*project["dependencies"], *project["optional-dependencies"]["test"]]:
        asked = Requirement(line)
        assert asked.specifier.contains(pins[asked.name.lower().replace("_", "-")]), line
