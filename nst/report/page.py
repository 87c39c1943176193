"""The page of a report: one HTML file that needs nothing else, from the view.

The pictures, the tables, the commands and the provenance are written here, so that they are there without JavaScript;
``page.js`` adds the slider, the charts, the comparison and the sorting to what it finds.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import math
import re
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from nst.report.tables import brief, is_time, short_reason

FOLDER = Path(__file__).parent
MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
STATUSES = {
    "done": "done",
    "running": "running",
    "failed": "failed",
    "out_of_memory": "out of memory",
    "interrupted": "interrupted",
    "skipped": "not run",
}
# Before anything is drawn: the theme that was chosen last time, and the parts that need scripts.
FIRST = """
document.documentElement.classList.add("js");
try {
  document.documentElement.dataset.theme = localStorage.getItem("nst-report-theme") || "auto";
} catch {
  // no storage, no memory
}
"""
# What there is of a view and its parts, and what stands for what is missing.
VIEW: dict[str, Any] = {
    "title": "",
    "question": "",
    "command": "",
    "again": [],
    "resume": "",
    "started": "",
    "counts": {},
    "total": 0,
    "axes": [],
    "inputs": [],
    "columns": [],
    "pareto": [],
    "runs": [],
    "notes": [],
    "networks": [],
    "bibtex": "",
}
RUN: dict[str, Any] = {
    "id": None,
    "name": "",
    "label": "",
    "status": "",
    "reason": "",
    "axis": [],
    "values": {},
    "content": None,
    "style": None,
    "sprite": None,
    "preview": None,
    "full": None,
    "width": None,
    "height": None,
    "curves": None,
    "config": "",
    "overrides": [],
    "command": "",
    "reproduce": "",
    "provenance": [],
}
INPUT: dict[str, Any] = {
    "id": "",
    "kind": "",
    "name": "",
    "title": "",
    "author": "",
    "licence": "",
    "source": "",
    "sha256": "",
    "thumb": None,
}
COLUMN: dict[str, Any] = {
    "key": "",
    "label": "",
    "kind": "parameter",
    "evaluator": None,
    "better": None,
    "unit": "",
    "help": "",
}
AXIS: dict[str, Any] = {"key": "", "label": "", "texts": [], "numbers": None, "log": False}
KINDS = {"status": "", "parameter": "Parameters", "score": "Scores", "loss": "Final losses", "cost": "Cost"}


@dataclass
class Facet:
    """One grid of pictures.

    Attributes:
        heading: the values of the axes that are neither rows nor columns, as ``key = value``; may be empty.
        columns: index into the texts of the axis across, None for runs without a value there.
        rows: the same down, with the runs of each cell (positions in the list of runs), one list for each column.
    """

    heading: str
    columns: list[int | None]
    rows: list[tuple[int | None, list[list[int]]]] = field(default_factory=list)


def render(view: dict[str, Any]) -> str:
    """Return the page as HTML; the same view gives the same text.

    Args:
        view: what ``nst.report.view`` makes. Whatever is missing, null or empty is left out of the page, or said to
            be missing.
    """
    full = complete(view)
    runs, axes = full["runs"], full["axes"]
    across, down = directions(axes)
    css = (FOLDER / "page.css").read_text(encoding="utf-8")
    grids = facets(axes, runs, across, down) if across is not None and down is not None else []
    side_by_side = grids[0].columns if grids else strip(axes, runs)
    # how wide a picture can be, and how small the table has to be printed
    css += f"\n:root {{\n  --columns: {max(1, len(side_by_side))};\n  --fields: {1 + len(full['columns'])};\n}}\n"
    script = (FOLDER / "page.js").read_text(encoding="utf-8")
    pictured = faces(axes, runs, full["inputs"])
    shown = {place for values in pictured for place in values}
    beside = [i for i, item in enumerate(full["inputs"]) if item["thumb"] and i not in shown]
    shape = next(((r["width"], r["height"]) for r in runs if r["width"] and r["height"]), (3, 2))
    html = _template().render(
        **full,
        css=Markup(css),
        first=Markup(FIRST),
        script=Markup(script),
        # Only this style sheet and this script may run, and nothing may be fetched but pictures beside the page.
        policy=f"default-src 'none'; img-src 'self' file: data:; style-src '{_hash(css)}'; "
        f"script-src '{_hash(FIRST)}' '{_hash(script)}'; base-uri 'none'; form-action 'none'",
        across=across,
        down=down,
        facets=grids,
        strip=strip(axes, runs),
        faces=pictured,
        beside=beside,
        shape=shape,
        statuses=STATUSES,
        groups=groups(full["columns"]),
        cells=cells(full["columns"], runs),
        best=best(full["columns"], runs),
        troubles=troubles(runs),
        film=any(run["sprite"] and len(run["sprite"]["steps"]) > 1 for run in runs),
        charted=any(run["curves"] for run in runs),
        compared=len([r for r in runs if r["preview"] or r["sprite"]] + [i for i in full["inputs"] if i["thumb"]]) > 1,
        measured=[c for c in full["columns"] if c["kind"] in ("score", "loss", "cost")],
        when=when(full["started"]),
        data=_json(_data(full, across, down, pictured)),
        curves=_json([run["curves"] for run in runs]),
    )
    # A file name that is not valid UTF-8 arrives with lone surrogates, which no file can hold.
    return (html.strip() + "\n").encode("utf-8", "replace").decode("utf-8")


def complete(view: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of the view in which every key is there, with an empty value of its kind where there was none.

    A run's place in the list becomes its ``place``; an axis index that points nowhere becomes None.
    """
    full = _filled(view, VIEW)
    full["axes"] = [_filled(axis, AXIS) for axis in full["axes"]]
    full["inputs"] = [_filled(item, INPUT) for item in full["inputs"]]
    full["columns"] = [_filled(column, COLUMN) for column in full["columns"]]
    known = {item["id"] for item in full["inputs"]}
    runs = []
    for place, given in enumerate(full["runs"]):
        run = _filled(given, RUN)
        run["place"] = place
        run["id"] = place if run["id"] is None else run["id"]
        run["label"] = run["label"] or run["name"] or f"run {run['id']}"
        indices = [*run["axis"], *[None] * len(full["axes"])][: len(full["axes"])]
        run["axis"] = [
            i if isinstance(i, int) and 0 <= i < len(axis["texts"]) else None
            for i, axis in zip(indices, full["axes"], strict=True)
        ]
        if run["sprite"] and not run["sprite"].get("steps"):
            run["sprite"] = None
        for kind in ("content", "style"):
            run[kind] = run[kind] if run[kind] in known else None
        runs.append(run)
    full["runs"] = runs
    full["total"] = full["total"] or len(runs)
    full["again"] = full["again"] or [full["command"]]
    return full


def directions(axes: list[dict[str, Any]]) -> tuple[int | None, int | None]:
    """Return which axis runs across and which down.

    The first makes the rows and the second the columns, in the order typed, but that a seed comes last of all. An only
    axis runs across.
    """
    order = sorted(range(len(axes)), key=lambda i: axes[i]["key"] == "seed")
    if len(order) < 2:
        return (order[0] if order else None), None
    return order[1], order[0]


def facets(axes: list[dict[str, Any]], runs: list[dict[str, Any]], across: int, down: int) -> list[Facet]:
    """Return a grid of runs for each combination of the other axes' values that has a run.

    Every run is in exactly one cell; a cell holds as many as there are.
    """
    others = [i for i in range(len(axes)) if i not in (across, down)]
    columns = _values(axes, runs, across)
    found: dict[tuple[int | None, ...], dict[tuple[int | None, int | None], list[int]]] = {}
    for run in sorted(runs, key=lambda run: [_rank(run["axis"][i]) for i in others]):
        cell = (run["axis"][down], run["axis"][across])
        found.setdefault(tuple(run["axis"][i] for i in others), {}).setdefault(cell, []).append(run["place"])
    result = []
    for key, runs_of in found.items():
        heading = ", ".join(f"{axes[i]['label']} = {text_of(axes[i], v)}" for i, v in zip(others, key, strict=True))
        rows = [(row, [runs_of.get((row, column), []) for column in columns]) for row in _values(axes, runs, down)]
        result.append(Facet(heading, columns, rows))
    return result


def strip(axes: list[dict[str, Any]], runs: list[dict[str, Any]]) -> list[tuple[str, list[int]]]:
    """Return caption and runs for each value of the only axis; without an axis, each run with its label."""
    if len(axes) > 1:
        return []
    if not axes:
        return [(run["label"], [run["place"]]) for run in runs]
    values = _values(axes, runs, 0)
    return [(text_of(axes[0], v), [run["place"] for run in runs if run["axis"][0] == v]) for v in values]


def faces(
    axes: list[dict[str, Any]], runs: list[dict[str, Any]], inputs: list[dict[str, Any]]
) -> list[list[int | None]]:
    """Return for each value of each axis the input image (its place in the list) that stands for it, or None.

    Only the axes ``content`` and ``style`` have one, where all runs of a value share the image.
    """
    places = {item["id"]: place for place, item in enumerate(inputs)}
    result: list[list[int | None]] = []
    for i, axis in enumerate(axes):
        of_axis: list[int | None] = []
        for value in range(len(axis["texts"])):
            used = {run.get(axis["key"]) for run in runs if run["axis"][i] == value} - {None}  # jobs not begun
            known = axis["key"] in ("content", "style") and len(used) == 1
            of_axis.append(places.get(used.pop()) if known else None)
        result.append(of_axis)
    return result


def text_of(axis: dict[str, Any], index: int | None) -> str:
    """Return a value of an axis as typed, or a dash for a run that has none."""
    return "–" if index is None else str(axis["texts"][index])  # noqa: RUF001


def groups(columns: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """Return the headings above the columns of the table with the number of columns each spans."""
    result: list[tuple[str, int]] = []
    for column in columns:
        name = KINDS.get(column["kind"], "")
        if column["kind"] == "score" and column["evaluator"]:
            name = f"Scores by {column['evaluator']}"
        if result and result[-1][0] == name:
            result[-1] = (name, result[-1][1] + 1)
        else:
            result.append((name, 1))
    return result


def cells(columns: list[dict[str, Any]], runs: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Return the text of every cell for each column's key."""
    result = {}
    for column in columns:
        texts = [number(run["values"].get(column["key"]), is_time(column)) for run in runs]
        if column["kind"] == "status":
            texts = [STATUSES.get(run["status"], run["status"]) for run in runs]
        result[column["key"]] = texts
    return result


def number(value: Any, time: bool = False) -> str:
    """Return a value as ``nst.report.tables.brief`` does, a number with a real minus sign."""
    text = brief(value, time)
    return text.replace("-", "−") if isinstance(value, int | float) else text  # noqa: RUF001


def best(columns: list[dict[str, Any]], runs: list[dict[str, Any]]) -> dict[str, float]:
    """Return the best value of each score column, by its key, where at least two runs differ."""
    result = {}
    for column in columns:
        if column["kind"] != "score" or column["better"] not in ("lower", "higher"):
            continue
        values = [v for run in runs if _finite(v := run["values"].get(column["key"]))]
        if len(set(values)) > 1:
            result[column["key"]] = min(values) if column["better"] == "lower" else max(values)
    return result


def troubles(runs: list[dict[str, Any]]) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """Return status, short reason and runs of what is neither done nor running; the same reason is told once."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in runs:
        if run["status"] not in ("done", "running"):
            found.setdefault((run["status"], short_reason(run["reason"])), []).append(run)
    return [(status, reason, those) for (status, reason), those in found.items()]


def when(started: str) -> str:
    """Return an ISO time as a reader writes it, or the text itself if it is none."""
    try:
        time = datetime.fromisoformat(started)
    except ValueError:
        return started
    zone = f" {name}" if (name := time.tzname()) else ""
    return f"{time.day} {MONTHS[time.month - 1]} {time.year}, {time:%H:%M}{zone}"


def _data(
    full: dict[str, Any], across: int | None, down: int | None, pictured: list[list[int | None]]
) -> dict[str, Any]:
    """Return what the script cannot read from the page itself."""
    runs = [
        {
            "id": run["id"],
            "label": run["label"],
            "status": STATUSES.get(run["status"], run["status"]),
            "reason": short_reason(run["reason"]),
            "axis": run["axis"],
            "values": run["values"],
            "content": run["content"],
            "style": run["style"],
            "steps": run["sprite"]["steps"] if run["sprite"] else [],
        }
        for run in full["runs"]
    ]
    columns = [{**column, "unit": column["unit"] or ""} for column in full["columns"]]
    inputs = [{key: item[key] for key in ("id", "kind", "name")} for item in full["inputs"]]
    return {
        "axes": full["axes"],
        "across": across,
        "down": down,
        "faces": pictured,
        "columns": columns,
        "inputs": inputs,
        "pareto": full["pareto"],
        "runs": runs,
    }


def _filled(given: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Return ``given`` with a default wherever a key is missing or null."""
    return {**defaults, **{key: value for key, value in given.items() if value is not None}}


def _values(axes: list[dict[str, Any]], runs: list[dict[str, Any]], axis: int) -> list[int | None]:
    """Return the indices of an axis' values, and None at the end if some run has no value there."""
    none: list[int | None] = [None] if any(run["axis"][axis] is None for run in runs) else []
    return [*range(len(axes[axis]["texts"])), *none]


def _rank(index: int | None) -> float:
    return math.inf if index is None else index


def _address(path: str) -> str:
    """Return a link to a file beside the page, which no scheme in its name can turn into something else."""
    return path if path.startswith("file:///") else f"./{path}"


def breakable(name: str) -> Markup:
    """Return a name that may be broken after its dots and underscores."""
    return Markup("<wbr>").join(re.split(r"(?<=[._])", name))


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _json(content: Any) -> Markup:
    """Return JSON that can stand in a ``<script>``: no ``<`` that could end it, and null for what JSON cannot say."""
    try:
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError:
        text = json.dumps(_finite_only(content), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _finite_only(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite_only(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite_only(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _hash(text: str) -> str:
    """Return what a Content-Security-Policy calls a text by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _link(text: str) -> Markup:
    """Return a text with its web addresses as links."""
    parts = re.split(r"(https?://[^\s<>\"']*[^\s<>\"'.,;)])", text)
    links = [Markup('<a href="{0}" rel="noreferrer">{0}</a>').format(p) if i % 2 else p for i, p in enumerate(parts)]
    return Markup("").join(links)


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["linked"] = _link
    environment.filters["address"] = _address
    environment.filters["breakable"] = breakable
    environment.filters["shortened"] = short_reason
    environment.globals["text_of"] = text_of
    return environment.get_template("page.html.j2")
