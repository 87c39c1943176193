"""Figures for a paper: the pictures and numbers that they are drawn from, and how LaTeX takes them in."""

from __future__ import annotations

import json
import re
import statistics
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nst import trust
from nst.errors import UserError
from nst.report import captions, plots
from nst.report.axes import Axis
from nst.report.columns import LABELS, scores_of
from nst.report.inputs import Input, inputs_of
from nst.report.plots import Cell, Chart, Curve, Grid, Line, Panel
from nst.report.runs import Collection, Run, number
from nst.report.selection import MOST_PAIRS, Selection, choose, looks, place, text_at

FOLDER, OPTIONS = "figures", "options.json"
OWN = re.compile(r"grid(_\d+)?\.(pdf|png)|(losses|scores|tradeoff)\.(pdf|svg)|options\.json")  # files that we write
WIDTH, DPI = 5.5, 300  # inches: the text of NeurIPS and ICLR, which have one column
UNITS = {"in": 1.0, "cm": 1 / 2.54, "mm": 1 / 25.4, "pt": 1 / 72.27}  # in inches; points are those of TeX
WIDTHS, DPIS = (1.5, 20.0), (50, 1200)
LOSSES = {"loss/total": "total loss", "unweighted/content": "content loss", "unweighted/style": "style loss"}
SCORES = ("content_distance", "style_distance", "ssim", "lpips")  # a panel for each
MOST_GRIDS, MOST_TICKS = 8, 5
NARROW = 0.85  # inches, that a picture of a single line has at least; a longer line is broken
STATUSES = {"done": "no picture", "out_of_memory": "out of memory"}


@dataclass(frozen=True)
class Options:
    """What is asked of the figures."""

    width: float = WIDTH  # inches
    dpi: int = DPI  # of pictures
    rows: str | None = None  # axis of the grid, by its key
    columns: str | None = None  # likewise; the charts have it as x, if it is no image
    runs: Sequence[str] = ()  # each a name, numbers or a filter; without any all runs
    step: int | None = None  # of the pictures; without it the last


@dataclass(frozen=True)
class Figure:
    """A figure as files, by their suffix, and what a caption says of it, in LaTeX."""

    name: str
    files: dict[str, bytes]
    caption: str


@dataclass(frozen=True)
class Figures:
    """All figures, and what a reader should know, one sentence each."""

    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    options: Options | None = None  # what was asked for, to draw them again

    @property
    def files(self) -> dict[str, bytes]:
        """The content of their files by path from the report."""
        files = {f"{FOLDER}/{one.name}.{kind}": data for one in self.figures for kind, data in one.files.items()}
        if self.options:
            files[f"{FOLDER}/{OPTIONS}"] = (json.dumps(asdict(self.options), indent=2) + "\n").encode()
        return files

    @property
    def markdown(self) -> list[str]:
        """The paragraphs of ``report.md`` on them: each to look at, and as a block for LaTeX."""
        parts = ["## Figures", "They need `\\usepackage{graphicx}`, and the folder `figures/` beside the document."]
        for one in self.figures:
            shown = next(kind for kind in ("png", "svg") if kind in one.files)
            parts.append(f"![{one.name}]({FOLDER}/{one.name}.{shown})")
            file = f"\\includegraphics[width=\\linewidth]{{{FOLDER}/{one.name}.pdf}}"
            caption = f"\\caption{{{one.caption}}}\\label{{fig:{one.name}}}"
            lines = ["\\begin{figure}", "\\centering", file, caption, "\\end{figure}"]
            parts.append("\n".join(["```latex", *lines, "```"]))
        return parts if self.figures else []


def inches(text: str) -> float:
    """Return a width as typed, ``5.5in``, ``14cm`` or ``397pt``, in inches; raise UserError if it is none."""
    found = re.fullmatch(rf"\s*([\d.]+)\s*({'|'.join(UNITS)})\s*", text)
    width = (number(found[1]) or 0.0) * UNITS[found[2]] if found else 0.0
    if not WIDTHS[0] <= width <= WIDTHS[1]:
        limits = "from {:g} to {:g} inches".format(*WIDTHS)
        raise UserError(f"'{text}' is no width of a figure: 5.5in, 14cm, 140mm or 397pt are, {limits}.")
    return width


def options_in(folder: Path) -> Options | None:
    """Return what the figures in a folder were drawn with, the usual if that cannot be read; None if none is there."""
    if not folder.is_dir() or not any(OWN.fullmatch(path.name) for path in folder.iterdir()):
        return None
    try:
        kept = Options(**json.loads((folder / OPTIONS).read_text(encoding="utf-8")))
        words = [*kept.runs, *(word for word in (kept.rows, kept.columns) if word is not None)]
        fits = WIDTHS[0] <= kept.width <= WIDTHS[1] and kept.dpi in range(DPIS[0], DPIS[1] + 1)
        fits &= all(isinstance(word, str) for word in words) and isinstance(kept.step, int | None)
    except (OSError, ValueError, TypeError):
        return Options()
    return kept if fits else Options()


def make_figures(collection: Collection, options: Options) -> Figures:
    """Draw the figures of a report.

    Raises:
        UserError: matplotlib is not installed, or there is no such run or axis.
    """
    plots.check_installed()
    chosen, made = choose(collection, options.runs, options.rows, options.columns), Figures(options=options)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        _draw(chosen, options, made)
    if any("missing from font" in str(one.message) for one in told):
        made.notes.append("Letters that the fonts of the figures lack are boxes in them: give such files other names.")
    return made


def _draw(chosen: Selection, options: Options, made: Figures) -> None:
    for name, grid, caption in _grids(chosen, options, made.notes):
        made.figures.append(Figure(name, plots.draw_grid(grid, options.width, options.dpi), caption))
    charts = {
        "losses": (losses(chosen, made.notes), captions.losses),
        "scores": (scores(chosen, made.notes), captions.scores),
        "tradeoff": (trade_off(chosen, made.notes), captions.trade_off),
    }
    for name, (chart, caption_of) in charts.items():
        if chart is not None:
            files = plots.draw_chart(chart, options.width, options.dpi)
            made.figures.append(Figure(name, files, caption_of(chart, chosen)))


# The grid


def _grids(chosen: Selection, options: Options, notes: list[str]) -> Iterator[tuple[str, Grid, str]]:
    """Yield name, grid and caption: a grid for each combination of the axes that are neither rows nor columns."""
    facets: dict[tuple[int, ...], list[Run]] = {}
    for run in chosen.runs:
        facets.setdefault(tuple(place(axis, run) for axis in chosen.others), []).append(run)
    if len(facets) > MOST_GRIDS:
        notes.append(f"{MOST_GRIDS} of {len(facets)} grids are drawn; choose with --rows, --columns and --runs.")
    steps: Counter[int] = Counter()
    for count, (places, runs) in enumerate(sorted(facets.items(), key=lambda one: one[0])[:MOST_GRIDS], start=1):
        grid, shown = arrange(chosen, runs, options)
        steps.update(at for _, at in shown if at is not None)
        here = [(axis.key, text_at(axis, where)) for axis, where in zip(chosen.others, places, strict=True)]
        yield f"grid_{count}" if len(facets) > 1 else "grid", grid, captions.grid(chosen, here, shown)
    for step, times in sorted(steps.items()):
        if step != options.step:
            notes.append(
                f"Of step {options.step} no picture was kept: the nearest, of step {step}, stands for it in "
                f"{times} {'run' if times == 1 else 'runs'}. save_every=N keeps more."
            )


def arrange(chosen: Selection, runs: Sequence[Run], options: Options) -> tuple[Grid, list[tuple[Run, int | None]]]:
    """Lay runs out in rows and columns; returns the runs that are shown as well, each with its picture's step if asked.

    An input image stands where it belongs: beside its row, above its column, or at the left if all runs share it.
    """
    rows, columns = chosen.rows, chosen.columns
    down, across = (sorted({place(axis, run) for run in runs}) for axis in (rows, columns))
    at = {
        (r, c): [run for run in runs if (place(rows, run), place(columns, run)) == (r, c)] for r in down for c in across
    }
    cells = {where: _cell(chosen, those, options.step) for where, those in at.items()}
    strip: list[tuple[str, Cell]] = []
    beside: list[list[Cell]] = [[] for _ in down]
    names: list[str] = []
    above: list[list[Cell]] = [[] for _ in across]
    found: dict[Input, Cell] = {}
    for kind in ("content", "style"):
        images = {run.name: cells_ for run in runs if (cells_ := _images(chosen, run, kind, found))}
        in_rows, in_columns = (
            [{images[run.name] for where, those in at.items() if where[i] == one for run in those if run.name in images}
             for one in line]
            for i, line in enumerate((down, across))
        )  # fmt: skip
        if len(everywhere := set(images.values())) == 1:
            strip += [(kind, cell) for cell in everywhere.pop()]
        elif max(map(len, in_rows)) == 1:
            _add(beside, in_rows)
            names += [kind] * (len(beside[0]) - len(names))
        elif max(map(len, in_columns)) == 1:
            _add(above, in_columns)
    heads = [text_at(columns, c) for c in across] if columns else ["result"] if strip else []
    lines_above = [list(line) for line in zip(*above, strict=True)]
    if rows is None:
        lines = _broken([cells[down[0], c][0] for c in across], heads, lines_above, options.width, len(strip))
    else:
        lines = [
            Line(
                [cells[r, c][0] for c in across], text_at(rows, r), beside[i], *((heads, lines_above) if i == 0 else ())
            )
            for i, r in enumerate(down)
        ]
    titles = rows.key if rows and names != [rows.key] else "", columns.key if columns else ""
    return Grid(lines, *titles, strip, names), [shown for _, shown in cells.values() if shown]


def _add(lines: list[list[Cell]], images: Sequence[set[tuple[Cell, ...]]]) -> None:
    """Add its images to each line, as many to all: nothing where a line has less."""
    most = max(len(cells) for those in images for cells in those)
    for line, those in zip(lines, images, strict=True):
        cells = next(iter(those), ())
        line += [*cells, *[Cell(None)] * (most - len(cells))]


def _broken(cells: list[Cell], heads: list[str], above: list[list[Cell]], width: float, strip: int) -> list[Line]:
    """Break a single line of pictures into lines of equal length if it is too long for its width."""
    fit = int(width / NARROW)
    if len(cells) + strip > max(fit, 3):
        fit = max(2, fit - min(strip, 1))
        length = -(-len(cells) // -(-len(cells) // fit))
    else:
        length = len(cells)
    parts = [slice(begin, begin + length) for begin in range(0, len(cells), length)]
    return [Line(cells[part], heads=heads[part], above=[line[part] for line in above]) for part in parts]


def _cell(chosen: Selection, runs: Sequence[Run], step: int | None) -> tuple[Cell, tuple[Run, int | None] | None]:
    """Return a picture of the first seed that has one, or the status of a run; and that run with its picture's step."""
    runs = sorted(runs, key=lambda run: place(chosen.seeds, run))
    for run in runs:
        path, at = picture_at(run, step)
        if path is not None:
            return Cell(path), (run, at)
    if not runs:
        return Cell(None), None
    status = runs[0].status
    return Cell(None, STATUSES.get(status, status)), (runs[0], None)


def picture_at(run: Run, step: int | None) -> tuple[Path | None, int | None]:
    """Return the final picture; or, of those kept on the way, the one nearest to a step, and its step.

    Frames, which have full size, go before previews.
    """
    if step is None:
        return run.picture, None
    frames = {int(path.stem): path for path in (run.folder / "frames").glob("*.png") if path.stem.isdecimal()}
    kept = run.previews | {at: path for at, path in frames.items() if trust.is_inside(run.folder, path)}
    last = run.fact("steps")
    if run.status == "done" and run.picture is not None and isinstance(last, int):
        kept[last] = run.picture
    nearest = min(sorted(kept), key=lambda at: abs(at - step), default=None)
    return (None, None) if nearest is None else (kept[nearest], nearest)


def _images(chosen: Selection, run: Run, kind: str, found: dict[Input, Cell]) -> tuple[Cell, ...]:
    """Return a run's input images of a kind; those that are gone by their names."""
    images = [image for image in inputs_of(run) if image.kind == kind]
    for image in images:
        if image not in found:
            same = next((cell for other, cell in found.items() if image.is_same(other)), None)
            path = None if same else image.find(chosen.collection.base)
            found[image] = same or Cell(path, "" if path else image.short)
    return tuple(found[image] for image in images)


# The numbers of the charts


def losses(chosen: Selection, notes: list[str]) -> Chart | None:
    """Return the losses at every logged step, a line of panels for each pair of images; None if nothing was logged."""
    logged = [run for run in chosen.finished if run.metrics.get("step")]
    keys = [key for key in LOSSES if any(value is not None for run in logged for value in run.metrics.get(key, []))]
    if not keys:
        return None
    colours = [chosen.along] if chosen.along else []
    look = looks(chosen, colours, by_pair=not chosen.knobs)
    pairs = _pairs(chosen, notes, "losses") if chosen.knobs else {"": chosen.finished}
    panels = []
    for pair, runs in pairs.items():
        for key in keys:
            groups = look.grouped([run for run in runs if run in logged]).items()
            curves = [curve for places, group in groups if (curve := mean_curve(group, key, places)).x]
            title = f"{LOSSES[key]}, {pair}" if pair else LOSSES[key]
            panels.append(Panel(title, ("step", ""), curves, (False, _spans_a_decade(curves))))
    return Chart(panels, look.texts, len(keys), points=False, apart=len(keys))


def mean_curve(runs: Sequence[Run], key: str, places: tuple[int, int]) -> Curve:
    """Return a loss at the steps that all of some runs have logged: its mean, and its spread if they are several."""
    values = [dict(zip(run.metrics["step"], run.metrics.get(key, []), strict=False)) for run in runs]
    steps = [step for step in values[0] if all(one.get(step) is not None for one in values)]
    means = [_mean([one[step] for one in values]) for step in steps]
    spread = [each[1] for each in means] if len(runs) > 1 else None
    return Curve(places, [float(step or 0) for step in steps], [mean for mean, _ in means], y_spread=spread)


def scores(chosen: Selection, notes: list[str]) -> Chart | None:
    """Return the scores against a parameter, a panel for each score; None if there is no score or no parameter."""
    along, evaluator = chosen.along, captions.evaluator_of(chosen)
    if along is None or evaluator is None:
        return None
    if len({name for run in chosen.finished for name in scores_of(run)}) > 1:
        notes.append(f"The figures have the scores by {evaluator}; those by other evaluators do not compare with them.")
    several = len(chosen.pairs()) > 1
    colours = [axis for axis in chosen.knobs if axis is not along]
    if along.numbers:  # else there are no lines that could differ
        colours = [] if several else colours[:1]
    look = looks(chosen, colours, by_pair=several)
    panels = []
    for name in SCORES:
        curves = []
        for places, group in look.grouped(chosen.finished).items():
            at = {x: _scored([run for run in group if place(along, run) == x], evaluator, name) for x in _places(along)}
            points = sorted((_x(along, x), *mean) for x, mean in at.items() if mean is not None)
            if points:
                x, y, spread = (list(values) for values in zip(*points, strict=True))
                curves.append(Curve(places, x, y, y_spread=spread if any(spread) else None))
        if curves:
            label = LABELS.get(name, name.replace("_", " "))
            panels.append(Panel("", (along.key, label), curves, (along.log, False), _ticks(along)))
    across = 2 if len(panels) == 4 else 3
    return Chart(panels, look.texts, across, points=True, joined=along.numbers is not None) if panels else None


def trade_off(chosen: Selection, notes: list[str]) -> Chart | None:
    """Return content distance against style distance, a panel for each pair of images, within which scores compare."""
    evaluator = captions.evaluator_of(chosen)
    if evaluator is None or chosen.along is None:
        return None
    look = looks(chosen, [chosen.along])
    panels = []
    for pair, runs in _pairs(chosen, notes, "trade-offs").items():
        points: dict[tuple[int, int], Curve] = {}
        for places, group in look.grouped(runs).items():
            x, y = (_scored(group, evaluator, name) for name in SCORES[:2])
            if x is not None and y is not None:
                spreads = [[mean[1]] if mean[1] else None for mean in (x, y)]
                points[places] = Curve(places, [x[0]], [y[0]], *spreads)
        if points:
            best = front([(curve.x[0], curve.y[0]) for curve in points.values()])
            panels.append(Panel(pair, ("content distance", "style distance"), [*points.values()], front=best))
    compare = any(len(panel.curves) > 1 for panel in panels)
    return Chart(panels, look.texts, 3, points=True, joined=False, shapes=True) if compare else None


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points that no other beats in one distance without being beaten in the other, from left to right."""
    best: list[tuple[float, float]] = []
    for point in sorted(set(points)):
        if not best or point[1] < best[-1][1]:
            best.append(point)
    return best


def _pairs(chosen: Selection, notes: list[str], what: str) -> dict[str, list[Run]]:
    """Return the finished runs of each pair of images, of the first ones if there are many."""
    pairs = chosen.pairs()
    if len(pairs) > MOST_PAIRS:
        notes.append(f"The figure of the {what} has {MOST_PAIRS} of {len(pairs)} pairs of images; choose with --runs.")
    return dict(list(pairs.items())[:MOST_PAIRS])


def _scored(runs: Sequence[Run], evaluator: str, name: str) -> tuple[float, float] | None:
    """Return mean and spread of a score; None if no run has it."""
    values = [number(scores_of(run).get(evaluator, {}).get(name)) for run in runs]
    known = [value for value in values if value is not None]
    return _mean(known) if known else None


def _mean(values: Sequence[Any]) -> tuple[float, float]:
    """Return mean and standard deviation of a sample; 0 for that of a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def _places(axis: Axis) -> range:
    return range(-1, len(axis.values))


def _x(axis: Axis, where: int) -> float:
    return axis.numbers[where] if axis.numbers and where >= 0 else float(where)


def _ticks(axis: Axis) -> list[tuple[float, str]]:
    """Return the ticks of an axis: its own values, unless they are many numbers."""
    if axis.numbers and (len(axis.numbers) > MOST_TICKS or not axis.log):
        return []
    return [(_x(axis, where), text) for where, text in enumerate(axis.texts)]


def _spans_a_decade(curves: Sequence[Curve]) -> bool:
    values = [y for curve in curves for y in curve.y]
    return bool(values) and min(values) > 0 and max(values) >= 10 * min(values)
