"""The page of a report: one HTML file that needs nothing else, from the view.

The pictures, the tables, the commands and the provenance are written here, so that they are there without JavaScript;
``page.js`` adds the slider, the charts, the comparison and the sorting to what it finds.
"""

import base64
import functools
import hashlib
import itertools
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from nst.report.pairs import best, first_two
from nst.report.tables import FOR_A_PAPER, brief, is_time, mean, short_reason

FOLDER = Path(__file__).parent
STATUSES = {"out_of_memory": "out of memory", "skipped": "not run"}  # others go by their own name
KINDS = {"parameter": "Parameters", "score": "Scores", "loss": "Final losses", "cost": "Cost"}
KINDS |= dict.fromkeys(("status", "remark"), "")
Items = Sequence[dict[str, Any]]  # axes, runs, inputs or columns of a view


@dataclass
class Facet:
    """One grid of pictures."""

    heading: str  # the values of the axes that are neither rows nor columns nor seeds, as ``key = value``; may be empty
    columns: list[int | None]  # index into the texts of the axis across, None for runs without a value there
    # the same down, with the runs of each cell (positions in the list of runs), one list for each column
    rows: list[tuple[int | None, list[list[int]]]]


def render(view: dict[str, Any]) -> str:
    """Return the page of a view as HTML, the same for the same; what is null or empty is left out, or said to miss."""
    axes, runs, inputs, columns = (view[name] for name in ("axes", "runs", "inputs", "columns"))
    across, down = directions(axes)
    grids = facets(axes, runs, across, down) if across is not None and down is not None else []
    row = strip(axes, runs)
    pictured = faces(axes, runs, inputs)
    shown = {place for values in pictured for place in values}
    css = (FOLDER / "page.css").read_text(encoding="utf-8")
    # how wide a picture can be, and how small the table has to be printed
    side_by_side = max(1, len(grids[0].columns if grids else row))
    css += f"\n:root {{\n  --columns: {side_by_side};\n  --fields: {1 + len(columns)};\n}}\n"
    # the first before anything is drawn: the theme that was chosen last time, and the parts that need scripts
    first, script = ((FOLDER / name).read_text(encoding="utf-8") for name in ("first.js", "page.js"))
    html = _template().render(
        **view,
        css=Markup(css),
        first=Markup(first),
        script=Markup(script),
        # Only this style sheet and this script may run, and nothing may be fetched but pictures beside the page.
        policy=f"default-src 'none'; img-src 'self' file: data:; style-src '{_hash(css)}'; "
        f"script-src '{_hash(first)}' '{_hash(script)}'; base-uri 'none'; form-action 'none'",
        across=across,
        down=down,
        facets=grids,
        strip=row,
        faces=pictured,
        beside=[place for place, item in enumerate(inputs) if item["thumb"] and place not in shown],
        shape=next(((r["width"], r["height"]) for r in runs if r["width"] and r["height"]), (3, 2)),
        groups=groups(columns),
        cells=cells(columns, runs),
        best=best(columns, runs),
        seed=seed_axis(axes),
        spread=lambda places: spread(columns, [runs[place] for place in places]),
        troubles=troubles(runs),
        film=any(run["preview"] and run["sprite"] and len(run["sprite"]["steps"]) > 1 for run in runs),
        charted=any(run["curves"] for run in runs),
        compared=len(first_two(axes, runs, inputs)) > 1,
        measured=[column for column in columns if column["kind"] in ("score", "loss", "cost")],
        when=when(view["started"] or ""),
        # what the script cannot read from the page itself
        data=_json(
            {
                **{key: view[key] for key in ("axes", "columns", "pareto", "pairs")},
                **{"seed": seed_axis(axes), "repeats": repeats(axes, runs), "faces": pictured},
                "compared": first_two(axes, runs, inputs),
                "inputs": [{key: item[key] for key in ("id", "kind", "name")} for item in inputs],
                "runs": [_run_data(run) for run in runs],
            }
        ),
        curves=_json([run["curves"] for run in runs]),
    )
    # A file name that is not valid UTF-8 arrives with lone surrogates, which no file can hold.
    return (html.strip() + "\n").encode("utf-8", "replace").decode("utf-8")


def _run_data(run: dict[str, Any]) -> dict[str, Any]:
    return {
        **{key: run[key] for key in ("id", "label", "axis", "values", "content", "style")},
        **{"status": status_text(run["status"]), "reason": short_reason(run["reason"])},
        "steps": run["sprite"]["steps"] if run["preview"] and run["sprite"] else [],
    }


def seed_axis(axes: Items) -> int | None:
    """Return the axis of the seeds, which stand side by side in one cell with mean and spread, if there is one."""
    return next((i for i, axis in enumerate(axes) if axis["key"] == "seed"), None)


def directions(axes: Items) -> tuple[int | None, int | None]:
    """Return which axis runs across and which down: the first makes the rows and the second the columns, as typed.

    An only axis runs across; a seed does neither.
    """
    order = [i for i in range(len(axes)) if i != seed_axis(axes)]
    if len(order) < 2:
        return (order[0] if order else None), None
    return order[1], order[0]


def repeats(axes: Items, runs: Items) -> list[list[int]]:
    """Return the runs that stand in one cell: those that differ in the seed only, by it; without axes each alone."""
    if not axes:
        return [[run["id"]] for run in runs]
    seed = seed_axis(axes)
    found: dict[tuple[int | None, ...], list[int]] = {}
    for run in sorted(runs, key=lambda run: (seed is not None and run["axis"][seed]) or 0):
        found.setdefault(tuple(v for i, v in enumerate(run["axis"]) if i != seed), []).append(run["id"])
    return sorted(found.values(), key=min)


def spread(columns: Items, runs: Items) -> list[tuple[str, str]]:
    """Return name and mean ± standard deviation over runs of the scores by the first evaluator and the final losses.

    Of a single run they are its own; of several those that at least two have.
    """
    first = next((column["evaluator"] for column in columns if column["evaluator"]), None)
    shown = [c for c in columns if c["kind"] == "score" and c["evaluator"] == first and c["label"] in FOR_A_PAPER[:2]]
    shown += [c for c in columns if c["kind"] == "loss" and c["better"]]
    done = [run["values"] for run in runs if run["status"] == "done"]
    known = [(c["label"], [v for values in done if (v := values.get(c["key"])) is not None]) for c in shown]
    return [(label, mean(values)) for label, values in known if len(values) >= min(2, len(runs))]


def facets(axes: Items, runs: Items, across: int, down: int) -> list[Facet]:
    """Return a grid of runs for each combination of the other axes' values, but the seed's, that has a run.

    Every run is in exactly one cell; a cell holds as many as there are.
    """
    others = [i for i in range(len(axes)) if i not in (across, down, seed_axis(axes))]
    columns = _values(axes, runs, across)
    found: dict[tuple[int | None, ...], dict[tuple[int | None, int | None], list[int]]] = {}
    for places in sorted(
        repeats(axes, runs),
        key=lambda places: [math.inf if (v := runs[places[0]]["axis"][i]) is None else v for i in others],
    ):
        values = runs[places[0]]["axis"]
        cell = (values[down], values[across])
        found.setdefault(tuple(values[i] for i in others), {})[cell] = places
    result = []
    for key, runs_of in found.items():
        heading = ", ".join(f"{axes[i]['label']} = {text_of(axes[i], v)}" for i, v in zip(others, key, strict=True))
        rows = [(row, [runs_of.get((row, column), []) for column in columns]) for row in _values(axes, runs, down)]
        result.append(Facet(heading, columns, rows))
    return result


def strip(axes: Items, runs: Items) -> list[tuple[str, list[int]]]:
    """Return caption and runs for each value of the only axis; without one, or with seeds alone, for each cell."""
    across, down = directions(axes)
    if down is not None:
        return []
    cells = repeats(axes, runs)
    if across is None:
        return [("" if axes else runs[places[0]]["label"], places) for places in cells]
    found = {runs[places[0]]["axis"][across]: places for places in cells}
    return [(text_of(axes[across], v), found.get(v, [])) for v in _values(axes, runs, across)]


def faces(axes: Items, runs: Items, inputs: Items) -> list[list[int | None]]:
    """Return for each value of each axis the input image (its place in the list) that stands for it, or None.

    Only the axes ``content`` and ``style`` have one, where all runs of a value share the image.
    """
    places = {item["id"]: place for place, item in enumerate(inputs)}
    result: list[list[int | None]] = []
    for i, axis in enumerate(axes):
        values: list[set[str | None]] = [set() for _ in axis["texts"]]
        for run in runs:
            if axis["key"] in ("content", "style") and run["axis"][i] is not None:
                values[run["axis"][i]] |= {run[axis["key"]]} - {None}  # of jobs not begun
        result.append([places[used.pop()] if len(used) == 1 else None for used in values])
    return result


def text_of(axis: dict[str, Any], index: int | None) -> str:
    """Return a value of an axis as typed, or a dash for a run that has none."""
    return "–" if index is None else str(axis["texts"][index])  # noqa: RUF001


def groups(columns: Items) -> list[tuple[str, int]]:
    """Return the headings above the columns of the table with the number of columns each spans."""
    names = (f"Scores by {c['evaluator']}" if c["evaluator"] else KINDS[c["kind"]] for c in columns)
    return [(name, len(list(those))) for name, those in itertools.groupby(names)]


def cells(columns: Items, runs: Items) -> dict[str, list[str]]:
    """Return the text of every cell for each column's key."""
    texts = {c["key"]: [number(run["values"].get(c["key"]), is_time(c)) for run in runs] for c in columns}
    return texts | {c["key"]: [status_text(run["status"]) for run in runs] for c in columns if c["kind"] == "status"}


def status_text(status: str) -> str:
    """Return a status as it is written in a sentence."""
    return STATUSES.get(status, status)


def number(value: Any, time: bool = False) -> str:
    """Return a value as ``nst.report.tables.brief`` does, a number with a real minus sign."""
    text = brief(value, time)
    return text.replace("-", "−") if isinstance(value, int | float) else text  # noqa: RUF001


def troubles(runs: Items) -> list[tuple[str, str, list[dict[str, Any]]]]:
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
    return f"{time.day} {time:%B %Y, %H:%M}{zone}"


def _values(axes: Items, runs: Items, axis: int) -> list[int | None]:
    """Return the indices of an axis' values, and None at the end if some run has no value there."""
    return [*range(len(axes[axis]["texts"])), *([None] if any(run["axis"][axis] is None for run in runs) else [])]


def _address(path: str) -> str:
    """Return a link to a file beside the page, which no scheme in its name can turn into something else."""
    return path if path.startswith("file:///") else f"./{path}"


def breakable(name: str) -> Markup:
    """Return a name that may be broken after its dots and underscores."""
    return Markup("<wbr>").join(re.split(r"(?<=[._])", name))


def _json(content: Any) -> Markup:
    """Return JSON that can stand in a ``<script>``: no ``<`` that could end it."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


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
    environment.filters |= {"linked": _link, "address": _address, "breakable": breakable}
    environment.filters |= {"shortened": short_reason, "status": status_text}
    environment.globals["text_of"] = text_of
    return environment.get_template("page.html.j2")
