"""What ``scripts/benchmark.py`` shows: the rows it measured as a table, as CSV and as a plot."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

PRECISIONS = ("float32", "tf32", "bfloat16")


@dataclass
class Row:
    """One contestant in one case; what was not measured is None. Seconds are of a step, bytes of its peak."""

    study: str  # table, pixels, layers or batch
    backbone: str
    recipe: str
    size: int
    layers: int
    batch: int
    engine: str
    precision: str
    seconds: float
    seconds_min: float
    reference: str
    ratio: float
    flops: int
    flops_per_second: float  # of the matrix product
    roofline_seconds: float
    times_roofline: float
    peak_bytes: int | None
    to_loss: float | None
    to_loss_steps: int | None
    to_loss_seconds: float | None
    device: str
    torch: str
    threads: int

    @property
    def name(self) -> str:
        """Return the contestant's name."""
        return self.engine if self.engine == "notebook" else f"{self.engine}/{self.precision}"


def table(rows: list[Row], limit: int) -> str:
    """Return the rows of a case as a table in Markdown, at most 100 columns wide."""
    columns: list[tuple[str, Callable[[Row], str]]] = [
        ("contestant", lambda row: row.name),
        ("s / step", lambda row: f"{row.seconds:.4g}"),
        ("min", lambda row: f"{row.seconds_min:.4g}"),
        ("ratio", lambda row: f"{row.ratio:.3f}"),
        ("roofline s", lambda row: f"{row.roofline_seconds:.4g}"),
        ("x roofline", lambda row: f"{row.times_roofline:.2f}"),
    ]
    if any(row.peak_bytes is not None for row in rows):
        columns.append(("peak MB", lambda row: "" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:.0f}"))
    if goal := rows[0].to_loss:
        columns += [
            (f"to {goal:g}", lambda row: str(row.to_loss_steps or f"> {limit}")),
            ("in s", lambda row: "" if row.to_loss_seconds is None else f"{row.to_loss_seconds:.4g}"),
        ]
    cells = [[title for title, _ in columns], *([show(row) for _, show in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * (width - 1) + ":" if i else "-" * width for i, width in enumerate(widths)])
    lines = []
    for line in cells:
        first, *others = (f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True))
        lines.append(" | ".join([f"{first.strip():<{widths[0]}}", *others]))
    return "\n".join(f"| {line} |" for line in lines)


def title(rows: list[Row]) -> str:
    """Return what a case is and what its figures are relative to, in two lines."""
    row = rows[0]
    products = {row.precision: row.flops_per_second for row in rows}
    rates = ", ".join(f"{precision} {rate / 1e12:.3g}" for precision, rate in products.items())
    return (
        f"{row.backbone}, {row.recipe} recipe ({row.layers} layers), {row.size} x {row.size}, batch {row.batch}: "
        f"{row.flops / 1e9:.4g} GFLOP\n"
        f"ratio to {row.reference}; matrix product in TFLOP/s: {rates}"
    )


def growth(rows: list[Row], study: str) -> str:
    """Return the power of pixels or batch with which each contestant's seconds grow, by least squares of the logs."""
    lines = []
    for name in dict.fromkeys(row.name for row in rows):
        own = [row for row in rows if row.name == name]
        places = [math.log(along(row, study)) for row in own]
        if len(set(places)) > 1:
            slope = statistics.linear_regression(places, [math.log(row.seconds) for row in own]).slope
            lines.append(f"{name} {slope:.2f}")
    return f"seconds grow as a power of the {study}: " + ", ".join(lines) if lines else ""


def along(row: Row, study: str) -> float:
    """Return where a row stands on the axis of a study; a table's is pixels."""
    return row.size**2 if study in ("pixels", "table") else float(row.layers if study == "layers" else row.batch)


def plot(rows: list[Row], path: Path) -> None:
    """Draw seconds a step against pixels, layers or batch, logarithmic, a panel for each study; dashed: rooflines."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    matplotlib.rcParams |= {"font.size": 13, "lines.linewidth": 2, "lines.markersize": 7}
    panels: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        batch = f", batch {row.batch}" if row.study != "batch" else ""
        size = f", {row.size} pixels" if row.study in ("layers", "batch") else ""
        panels.setdefault((row.study, f"{row.backbone}, {row.recipe} recipe{size}{batch}"), []).append(row)
    across = min(3, len(panels))
    down = math.ceil(len(panels) / across)
    figure, grid = pyplot.subplots(
        down, across, figsize=(6.5 * across, 5.5 * down), squeeze=False, layout="constrained"
    )
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, ((study, name), own) in zip(grid.flat, panels.items(), strict=False):
        colours = dict(zip(dict.fromkeys(row.name for row in own), pyplot.rcParams["axes.prop_cycle"], strict=False))
        for contestant, style in colours.items():
            line = [row for row in own if row.name == contestant]
            axes.plot(
                [along(row, study) for row in line], [row.seconds for row in line], "o-", label=contestant, **style
            )
        for precision in dict.fromkeys(row.precision for row in own):
            line = list({along(row, study): row for row in own if row.precision == precision}.values())
            grey = f"{0.25 + 0.2 * PRECISIONS.index(precision):.2f}"
            axes.plot(
                [along(row, study) for row in line],
                [row.roofline_seconds for row in line],
                "x--",
                color=grey,
                label=f"roofline, {precision}",
            )
        axes.set(xscale="log", yscale="log", title=name, ylabel="seconds a step")
        axes.set_xlabel("pixels" if study == "table" else study)
        axes.grid(which="both", alpha=0.3)
        if study != "layers" or len({row.layers for row in own}) < 12:
            ticks = sorted({along(row, study) for row in own})
            names = [f"{math.isqrt(int(t))}²" if study in ("table", "pixels") else f"{t:g}" for t in ticks]
            axes.set_xticks(ticks, names)
            axes.set_xticks([], minor=True)
        axes.legend(fontsize=11)
    figure.suptitle(f"{rows[0].device}, {rows[0].threads} threads, torch {rows[0].torch}", fontsize=12)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def write_csv(rows: list[Row], path: Path) -> None:
    """Write all rows, with what was not measured left empty."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
