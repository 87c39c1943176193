"""Drafts of captions for figures, in LaTeX: what varies, what is fixed, who scored, and what is not shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from nst.report.axes import MISSING, Axis, canonical, value_of, values_of
from nst.report.columns import scores_of
from nst.report.inputs import inputs_of
from nst.report.plots import Chart
from nst.report.runs import Run
from nst.report.selection import MOST_PAIRS, Selection, used_by
from nst.report.tables import latex

MOST_VALUES = 8  # of an axis
FIXED = ("backbone", "alpha", "beta", "tv", "style_loss", "content_loss", "pooling", "init", "optimizer", "schedule")
FIXED_OF = {
    "optimize": FIXED,
    "train": ("transformer", "training", *FIXED[:6]),
    "apply": ("model",),
}  # by task: the knobs that make the picture, besides what is said of its size, steps, seed and images


def grid(chosen: Selection, here: Sequence[tuple[str, str]], shown: Sequence[tuple[Run, int | None]]) -> str:
    """Return the caption of a grid.

    Args:
        chosen: the runs of all grids.
        here: key and value of what tells this grid from others.
        shown: the runs in it, with the step of each picture if one was asked for.
    """
    runs = [run for run, _ in shown]
    axes = [axis for axis in (chosen.rows, chosen.columns) if axis]
    wheres = [" (rows)", " (columns)"] if len(axes) == 2 else [""]
    here_used = [(used_by(axis, runs), where) for axis, where in zip(axes, wheres, strict=False)]
    lines = [_values(axis) + where for axis, where in here_used if axis]
    lines += [f"{_name(key)} = {latex(value)}" for key, value in here]
    steps = sorted({step for _, step in shown if step is not None})
    text = "Results" if len(runs) > 1 else "The result"
    text += f" at step {_listed([str(step) for step in steps])}" if steps else ""
    text += f" for {_listed(lines)}." if lines else "."
    seeds = chosen.seeds if chosen.seeds and chosen.seeds not in (chosen.rows, chosen.columns) else None
    if seeds:
        used = sorted({seeds.texts[where] for run in runs if (where := seeds.place(run)) is not None})
        text += f" Of {len(seeds.values)} seeds, {' and '.join(used[:3])} {'is' if len(used) == 1 else 'are'} shown."
    return f"{text}{_fixed(runs, [key for key, _ in here])}{_unfinished(runs)}"


def losses(chart: Chart, chosen: Selection) -> str:
    """Return the caption of the loss curves."""
    weights = " (content and style without their weights)" if len(chart.panels) > 1 else ""
    text = f"Losses at every logged step{weights}{_varying(chosen)}.{_repeated(chosen, 'Bands')}"
    if len(chosen.pairs()) > 1:
        text += f" Losses compare within a pair of images only.{_first_pairs(chosen) if chosen.knobs else ''}"
    return f"{text}{_fixed(chosen.finished)}{_left_out(chosen)}"


def scores(chart: Chart, chosen: Selection) -> str:
    """Return the caption of the scores against a parameter."""
    named = _listed([latex(panel.labels[1]) for panel in chart.panels])
    along = "".join(
        f" against {_values(axis)}" for axis in _axes(chosen) if chosen.along and axis.key == chosen.along.key
    )
    text = f"{named[0].upper()}{named[1:]}{along}{_varying(chosen, without=chosen.along)}."
    return f"{text}{_repeated(chosen, 'Error bars')}{_scored(chosen)}{_fixed(chosen.finished)}{_left_out(chosen)}"


def trade_off(chart: Chart, chosen: Selection) -> str:
    """Return the caption of content distance against style distance."""
    panels = ", a panel for each pair of images" if len(chart.panels) > 1 else ""
    text = f"Content distance against style distance{panels}{_varying(chosen)}."
    text += (
        " Lower is better in both. The dotted line joins the front: those that no other beats in one distance without"
    )
    text += f" being beaten in the other.{_first_pairs(chosen)}"
    return f"{text}{_repeated(chosen, 'Error bars')}{_scored(chosen)}{_fixed(chosen.finished)}{_left_out(chosen)}"


def _first_pairs(chosen: Selection) -> str:
    count = len(chosen.pairs())
    return f" The first {MOST_PAIRS} of {count} pairs are shown." if count > MOST_PAIRS else ""


def evaluator_of(chosen: Selection) -> str | None:
    """Return the evaluator that scored most of the finished runs; None without scores."""
    names = Counter(name for run in chosen.finished for name in scores_of(run))
    return min(names, key=lambda name: (-names[name], name), default=None)


def _listed(texts: Sequence[str]) -> str:
    *first, last = texts
    return f"{', '.join(first)} and {last}" if first else last


def _name(key: str) -> str:
    """Return a knob as a paper writes it."""
    return f"$\\{key}$" if key in ("alpha", "beta") else latex(key)


def _values(axis: Axis) -> str:
    """Return an axis with its values, or with their range if they are many."""
    texts = [latex(text) for text in axis.texts]
    if len(texts) <= MOST_VALUES:
        return f"{_name(axis.key)} = {('; ' if any(', ' in text for text in texts) else ', ').join(texts)}"
    if axis.numbers:
        by_size = [text for _, text in sorted(zip(axis.numbers, texts, strict=True))]
        return f"{_name(axis.key)} from {by_size[0]} to {by_size[-1]}, {len(texts)} values"
    return f"{len(texts)} values of {_name(axis.key)}"


def _varying(chosen: Selection, without: Axis | None = None) -> str:
    axes = [axis for axis in _axes(chosen) if without is None or axis.key != without.key]
    return f" for {_listed([_values(axis) for axis in axes])}" if axes else ""


def _axes(chosen: Selection) -> list[Axis]:
    """Return the axes of a chart with the values that it shows; the seeds are told of by themselves."""
    axes = [axis for axis in (chosen.rows, chosen.columns, *chosen.others) if axis and axis is not chosen.seeds]
    return [used for axis in axes if (used := used_by(axis, chosen.finished))]


def _repeated(chosen: Selection, marks: str) -> str:
    """Return what means are taken over."""
    seeds = used_by(chosen.seeds, chosen.finished) if chosen.seeds else None
    return f" Means over {_values(seeds)}. {marks}: $\\pm$ one standard deviation." if seeds else ""


def _scored(chosen: Selection) -> str:
    lowest = "for content 0 is the content image, 1 the style image laid over it; for style 0 is the style image, "
    lowest += "1 the content image as it was"
    within = " Scores compare within a pair of images only." if len(chosen.pairs()) > 1 else ""
    return f" Distances by the evaluator {latex(evaluator_of(chosen))}: {lowest}.{within}"


def _fixed(runs: Sequence[Run], told: Sequence[str] = ()) -> str:
    """Return what all runs have in common, as a sentence: images, knobs that make the picture, size, steps, seed.

    What is told already is left out.
    """
    tasks = {str(run.config.get("task", "optimize")) for run in runs if run.config}
    task = tasks.pop() if len(tasks) == 1 else "optimize"
    facts = []
    for kind in ("content", "style"):
        names = {tuple(image.short for image in inputs_of(run) if image.kind == kind) for run in runs} - {()}
        if kind not in told and len(names) == 1:
            images = names.pop()
            facts.append(f"{kind} {' and '.join(map(latex, images))}")
    for key in FIXED_OF.get(task, FIXED):
        if key not in told and len(values_of(runs, key)) == 1 and (text := _fixed_text(runs, key)):
            facts.append(text)
    if len(sizes := {(size.get("width"), size.get("height")) for run in runs if (size := run.fact("size"))}) == 1:
        facts.append("${} \\times {}$ pixels".format(*sizes.pop()))
    steps = {run.fact("steps") for run in runs if run.fact("steps") is not None}
    if task != "apply" and len(steps) == 1:
        facts.append(f"{steps.pop()} {'training ' if task == 'train' else ''}steps")
    if len(seeds := values_of(runs, "seed")) == 1 and task != "apply":
        facts.append(f"seed {latex(seeds[0])}")
    return f" Fixed: {', '.join(facts)}." if facts else ""


def _fixed_text(runs: Sequence[Run], key: str) -> str:
    """Return a fixed knob: an option of a group by its name, a number with an equals sign; nothing for none."""
    value = next((found for run in runs if (found := value_of(run, key)) is not MISSING), None)
    if value in (None, "none"):
        return ""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{_name(key)} = {latex(canonical(value))}" if number else f"{_name(key.replace('_', ' '))} {latex(value)}"


def _left_out(chosen: Selection) -> str:
    count = len(chosen.runs) - len(chosen.finished)
    return (
        f" {count} {'run was not finished, and is' if count == 1 else 'runs were not finished, and are'} left out."
        * bool(count)
    )


def _unfinished(runs: Sequence[Run]) -> str:
    count = sum(run.status != "done" and run.picture is not None for run in runs)
    return f" {count} of the pictures {'is' if count == 1 else 'are'} of a run that was not finished." if count else ""
