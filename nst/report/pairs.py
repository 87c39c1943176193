"""Pairs of images, within which scores compare: across them they do not (docs/evaluator.md)."""

from collections.abc import Mapping, Sequence
from typing import Any

from nst.report.inputs import Input, inputs_of
from nst.report.runs import Run

Items = Sequence[Mapping[str, Any]]  # columns, axes, inputs or runs of a view


def pair_of(run: Run, inputs: Mapping[str, Input]) -> tuple[str, ...]:
    """Return the ids of a run's content and style images; empty for a job that has not begun."""
    ours = [image for image in inputs_of(run) if image.kind in ("content", "style")]
    return tuple(name for name, other in inputs.items() if any(image.is_same(other) for image in ours))


def by_pair(runs: Items) -> dict[int | None, list[Any]]:
    """Return the runs of each pair of images, in the order of the pairs."""
    pairs = sorted({run["pair"] for run in runs if run["pair"] is not None})
    found = {pair: [run for run in runs if run["pair"] == pair] for pair in [*pairs, None]}
    return {pair: those for pair, those in found.items() if those}


def best(columns: Items, runs: Items) -> dict[tuple[int | None, str], float]:
    """Return the best value of each score, by pair and the column's key, where at least two of a pair's runs differ."""
    result = {}
    for pair, those in by_pair(runs).items():
        for key, better in ((c["key"], c["better"]) for c in columns if c["kind"] == "score" and c["better"]):
            values = {value for run in those if (value := run["values"].get(key)) is not None}
            if len(values) > 1:
                result[pair, key] = min(values) if better == "lower" else max(values)
    return result


def trade_offs(columns: Items, runs: Items) -> list[dict[str, Any]]:
    """Return what to set content against style distance for: each evaluator that has both, and each pair of images.

    Of a pair there are its runs with both scores and, from left to right, those of them that no other one beats.
    """
    keys = {column["key"] for column in columns}
    found = []
    for name in dict.fromkeys(column["evaluator"] for column in columns if column["evaluator"]):
        x, y = f"{name}/content_distance", f"{name}/style_distance"
        if {x, y} <= keys:
            fronts = []
            for pair, those in by_pair(runs).items():
                points = {
                    run["id"]: (run["values"][x], run["values"][y])
                    for run in those
                    if run["values"].get(x) is not None and run["values"].get(y) is not None
                }
                if points:
                    fronts.append({"pair": pair, "runs": list(points), "front": front(points)})
            found.append({"evaluator": name, "x": x, "y": y, "fronts": fronts})
    return found


def front(points: Mapping[int, tuple[float, float]]) -> list[int]:
    """Return the points that no other one beats on both axes (lower is better), from left to right; equal ones all."""
    kept: list[int] = []
    for name, (x, y) in sorted(points.items(), key=lambda item: item[1]):
        if not kept or y < points[kept[-1]][1] or (x, y) == points[kept[-1]]:
            kept.append(name)
    return kept


def first_two(axes: Items, runs: Items, inputs: Items) -> list[str]:
    """Return what a comparison starts with, as ``run-3`` or ``input-0``: two runs of a pair that differ in one knob.

    That knob is the first that has such runs, a seed last; of its values the ends. Where there are none it is two runs
    of a pair, else the content image and a run. A run that is not done is never chosen.
    """
    shown = [run for run in runs if run["status"] == "done" and run["preview"]]
    knobs = [i for i, axis in enumerate(axes) if axis["key"] not in ("content", "style")]
    for knob in sorted(knobs, key=lambda i: axes[i]["key"] == "seed"):
        alike: dict[Any, list[Mapping[str, Any]]] = {}
        for run in shown:
            if run["axis"][knob] is not None:
                others = tuple(value for i, value in enumerate(run["axis"]) if i != knob)
                alike.setdefault((run["pair"], others), []).append(run)
        ends = [sorted(those, key=lambda run: run["axis"][knob]) for those in alike.values()]
        far = max(ends, key=lambda those: those[-1]["axis"][knob] - those[0]["axis"][knob], default=[])
        if far and far[0]["axis"][knob] != far[-1]["axis"][knob]:
            return [f"run-{far[0]['id']}", f"run-{far[-1]['id']}"]
    for those in by_pair(shown).values():
        if len(those) > 1:
            return [f"run-{those[0]['id']}", f"run-{those[1]['id']}"]
    pictures = [f"input-{i}" for i, item in enumerate(inputs) if item["thumb"]]
    places = [*pictures[:1], *(f"run-{run['id']}" for run in shown[:1]), *pictures[1:]]
    return places[:2]
