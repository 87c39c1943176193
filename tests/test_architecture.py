"""The rooms of the house: arrows go down only, no two files need each other, no function or call is too long."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# From the ground up: a room may use what stands before it, and itself.
ROOMS = (
    *("errors", "samples", "pretrained", "files", "configuration", "trust", "runtime", "cli"),
    *("images", "losses", "networks", "engines", "optimization", "transformers"),
    *("runs", "evaluation", "tracking", "setup"),
    *("stylization", "batching", "training", "applying"),
    *("report", "job", "callbacks", "reproduce", "api"),
)
ABOVE: set[tuple[str, str]] = set()


def files() -> list[Path]:
    return sorted((ROOT / "nst").rglob("*.py"))


def module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path) -> Iterator[str]:
    """Yield the modules of ours that a file imports, wherever in it."""
    names = {module(file) for file in files()}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "nst":
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in names else str(node.module)


def room(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


@pytest.mark.parametrize("path", files(), ids=module)
def test_arrows_go_down_only(path: Path) -> None:
    here = room(module(path))
    for name in imported(path):
        there = room(name)
        if here and there and (here, there) not in ABOVE:
            assert ROOMS.index(there) <= ROOMS.index(here), f"{module(path)} uses {name}"


def test_no_two_files_need_each_other() -> None:
    faces = {module(path) for path in files() if path.name == "__init__.py"}
    graph = {}
    for path in files():
        name = module(path)
        graph[name] = {other for other in imported(path) if other != name and not name.startswith(f"{other}.")}
        if name in faces:
            graph[name] = {other for other in graph[name] if not other.startswith(f"{name}.")}
    tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names them


@pytest.mark.parametrize("path", [path for path in files() if path.name == "__init__.py" and path.parent.name != "nst"])
def test_each_room_says_what_it_owns(path: Path) -> None:
    said = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert said.partition("\n")[0].endswith("."), said


@pytest.mark.parametrize("path", files(), ids=module)
def test_no_function_is_longer_than_eighty_lines_and_no_call_has_more_than_five_arguments_by_place(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= 80, f"{path.name}: {node.name} has {length} lines"
        if isinstance(node, ast.Call):
            assert len(node.args) <= 5, f"{path.name}:{node.lineno} has {len(node.args)} arguments by place"
