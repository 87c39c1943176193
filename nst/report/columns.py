"""The columns of a report's table: parameters, status, scores, final losses and cost, and the value of each run."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nst.report.axes import MISSING, canonical, value_of
from nst.report.runs import Run, nested, number

# Which is better, and what it means.
SCORES = {
    "content_distance": (
        "lower",
        "Feature maps against the content image's: 0 is the content itself, 1 as far as the style image laid over it.",
    ),
    "style_distance": (
        "lower",
        "Gram matrices against the style image's: 0 is the style itself, 1 as far as the untouched content image.",
    ),
    "ssim": ("higher", "Structural similarity of the luminance with the content image; 1 is the same."),
    "edge_correlation": ("higher", "Correlation of edge strengths with the content image; 1 is the same."),
    "color_histogram_distance": (
        "lower",
        "Hellinger distance of the colour histogram from the style image's: 0 to 1, 0 is the same.",
    ),
    "total_variation": (None, "Mean difference of neighbouring pixels; there is no best value."),
    "lpips": ("lower", "Learned perceptual distance from the content image; 0 is the same."),
}
LABELS = {"ssim": "SSIM", "lpips": "LPIPS", "color_histogram_distance": "colour distance"}  # others go by their name
LOSSES = {
    "unweighted/content": ("lower", "The run's own content loss at the end, without its weight."),
    "unweighted/style": ("lower", "The run's own style loss at the end, without its weight."),
    "loss/total": (None, "What was minimised; it compares only between runs with equal losses and weights."),
}
COST = {  # label, unit, and what it means; lower is better
    "seconds": ("time", "s", "Wall-clock time of the whole run."),
    "training_seconds": ("training", "s", "Time of training a network, and of painting what it learnt from."),
    "seconds_per_picture": (
        "time per picture",
        "s",
        "Time of the optimisation; of a network the median in which it paints, loading not counted.",
    ),
    "break_even": (
        "break-even",
        "pictures",
        "From how many pictures on training the network, and painting with it, is quicker than optimising each.",
    ),
    "seconds_per_step": ("time per step", "s", "Time of the optimisation divided by its steps."),
    "evaluations": ("evaluations", None, "Forward and backward passes."),
    "peak_memory_mb": ("peak memory", "MB", "Most memory the process used, in 10^6 bytes; on a GPU, the GPU's."),
}
OF_NETWORKS = ("training_seconds", "seconds_per_picture", "break_even")  # only where a network painted one of the runs


def columns_of(runs: Sequence[Run], parameters: Sequence[str]) -> list[dict[str, Any]]:
    """Return the columns of the table, from left to right."""
    columns = [_column(key, key, "parameter", f"{key}, as configured.") for key in parameters]
    columns.append(_column("status", "status", "status", "How the run ended."))
    for key, text in {"tags": "Given by scripts/runs.py --tag.", "note": "Written by scripts/runs.py --note."}.items():
        if any(getattr(run.own, key) for run in runs):
            columns.append(_column(key, key, "remark", text))
    for evaluator in sorted({name for run in runs for name in scores_of(run)}):
        names = {name for run in runs for name in scores_of(run).get(evaluator, {})}
        known = [name for name in SCORES if name in names]
        for name in [*known, *sorted(names - {*SCORES, "evaluator"})]:
            better, text = SCORES.get(name, (None, f"The score {name}."))
            key, label = f"{evaluator}/{name}", LABELS.get(name, name.replace("_", " "))
            columns.append(_column(key, label, "score", text, better=better, evaluator=evaluator))
    for key, (better, text) in LOSSES.items():
        if any(number(run.fact("final", key)) is not None for run in runs):
            columns.append(_column(key, f"{key.partition('/')[2]} loss", "loss", text, better=better))
    by_network = any(number(run.fact("seconds_per_picture")) for run in runs)
    for key, (label, unit, text) in COST.items():
        if (by_network or key not in OF_NETWORKS) and any(_cost(run, key) is not None for run in runs):
            columns.append(_column(key, label, "cost", text, better="lower", unit=unit))
    return columns


def _column(key: str, label: str, kind: str, text: str, **more: str | None) -> dict[str, Any]:
    about = {"key": key, "label": label, "kind": kind, "help": text}
    return {**about, "evaluator": None, "better": None, "unit": None, **more}


def value_in(column: dict[str, Any], run: Run, texts: Mapping[str, Mapping[str, str]]) -> float | str | None:
    """Return what stands in a run's row under a column; ``texts`` has what to show for each canonical value."""
    key, kind = column["key"], column["kind"]
    if kind == "parameter":
        value = value_of(run, key)
        if value is MISSING:
            return None
        if isinstance(value, int | float) and not isinstance(value, bool):
            return value if math.isfinite(value) else str(value)
        return texts[key][canonical(value)]
    if kind == "status":
        return run.status
    if kind == "remark":
        return ", ".join(run.own.tags) if key == "tags" else run.own.note
    if kind == "score":
        return number(nested(scores_of(run), column["evaluator"], key.removeprefix(f"{column['evaluator']}/")))
    if kind == "loss":
        value = number(run.fact("final", key))
        return run.metrics[key][-1] if value is None and run.status == "done" and run.metrics.get(key) else value
    return _cost(run, key)


def _cost(run: Run, key: str) -> float | None:
    optimisation = number(run.fact("seconds", "optimisation"))
    if key == "seconds":
        return number(run.fact("seconds", "total"))
    if key == "seconds_per_picture" and (run.fact("config", "task") or "optimize") == "optimize":
        return optimisation
    if key == "seconds_per_step":
        steps = number(run.fact("steps"))
        return round(optimisation / steps, 9) if optimisation is not None and steps else None
    if key == "peak_memory_mb":
        peak = number(run.fact("peak_memory_bytes"))
        return round(peak / 1e6, 1) if peak is not None else None
    value = number(run.fact(key))
    return int(value) if value is not None and value.is_integer() else value


def evaluator_of(run: Run) -> str | None:
    """Return the name of the evaluator that scored a run."""
    name = nested(run.record, "scores", "evaluator")
    return name if isinstance(name, str) else None


def scores_of(run: Run) -> dict[str, dict[str, Any]]:
    """Return a run's scores by the name of the evaluator: those added by scripts/evaluate.py, and its own."""
    further = run.fact("further_scores") or {}
    return further | ({name: run.record["scores"]} if (name := evaluator_of(run)) else {})
