"""Figures drawn with matplotlib: a grid of pictures, and charts. The same data gives the same bytes.

Lengths are in inches, sizes of text in points. A figure is exactly as wide as asked for.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from nst.errors import UserError
from nst.images import decoding
from nst.report.pictures import MOST_PIXELS, WHITE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = 8  # of all text: as in a caption
MOST_LONG = 4  # entries of a legend that may take three lines, to be told apart
FINE = 720  # dots an inch for measuring text, so that they round nothing
TALLEST = 8.5  # inches; what is higher does not fit on a page with its caption
GAP, WIDE_GAP, LINE = 0.04, 0.14, 0.15  # between pictures, between groups of them, and for a line of text
LABEL_SHARE, LABEL_LINES = 0.2, 3  # of the width at most for the labels of rows
PANEL_WIDTH, MOST_ACROSS, MOST_IN_LEGEND, MOST_BESIDE = 1.6, 4, 24, 10
FEW_POINTS = 10  # of a curve, which all get a marker
LINES = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)), (0, (8, 1.5, 1, 1.5, 1, 1.5)))
MARKERS = "osD^vP*X"
# Type 42 keeps letters as letters, which journals ask for; in SVG they are outlines, so that no font is missing.
STYLE: dict[str, Any] = {
    **{"pdf.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "nst", "image.composite_image": False},
    **{"font.family": ["STIXGeneral", "DejaVu Sans"], "font.size": POINTS, "mathtext.fontset": "stix"},
    **dict.fromkeys(("axes.labelsize", "axes.titlesize", "xtick.labelsize", "ytick.labelsize"), POINTS),
    **{"legend.fontsize": POINTS, "legend.title_fontsize": POINTS, "legend.frameon": False},
    **{"axes.linewidth": 0.5, "lines.linewidth": 1.0, "lines.markersize": 3.5, "axes.spines.top": False},
    **{"axes.spines.right": False, "xtick.major.width": 0.5, "ytick.major.width": 0.5, "xtick.minor.width": 0.3},
    **{"ytick.minor.width": 0.3, "axes.grid": True, "grid.linewidth": 0.3, "grid.color": "0.85"},
}
UNDATED = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}


@dataclass(frozen=True)
class Cell:
    """A picture of a grid, or the words in its place."""

    path: Path | None
    words: str = ""


@dataclass(frozen=True)
class Line:
    """A line of a grid: labels of columns, below them pictures, and below these the cells with what is beside them."""

    cells: list[Cell]
    label: str = ""
    beside: list[Cell] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)  # one for each cell, or none
    above: list[list[Cell]] = field(default_factory=list)  # lines of as many pictures


@dataclass(frozen=True)
class Grid:
    """A grid of pictures; ``strip`` has what all of them share, with its name, and stands at the left."""

    lines: list[Line]
    row_title: str
    column_title: str
    strip: list[tuple[str, Cell]]
    beside: list[str] = field(default_factory=list)  # names of what stands beside the lines


@dataclass(frozen=True)
class Curve:
    """A line of a chart: means over repetitions of a run, and their standard deviations where there are several."""

    looks: tuple[int, int]  # places in the two legends: of colour and marker; of the kind of line
    x: list[float]
    y: list[float]
    x_spread: list[float] | None = None
    y_spread: list[float] | None = None


@dataclass(frozen=True)
class Panel:
    """One pair of axes with the curves in it."""

    title: str
    labels: tuple[str, str]
    curves: list[Curve]
    logs: tuple[bool, bool] = (False, False)
    ticks: list[tuple[float, str]] = field(default_factory=list)  # of x, where they are not its own
    front: list[tuple[float, float]] = field(default_factory=list)  # points that no other beats


@dataclass(frozen=True)
class Chart:
    """Panels that share their legends: what colours and markers stand for, and what kinds of line."""

    panels: list[Panel]
    legends: tuple[list[str], list[str]]
    across: int  # panels in a line, if there is room
    points: bool  # a marker for each point; else a few along the curve, and the spread as a band
    joined: bool = True  # by lines
    apart: int = 0  # panels that share no line with others, such as those of a pair; 0 if all may
    shapes: bool = False  # markers, not kinds of line, stand for the second legend


def check_installed() -> None:
    """Raise UserError if matplotlib, which draws the figures, is not installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise UserError("Figures are drawn with matplotlib: pip install -e '.[figures]'.") from error


@contextlib.contextmanager
def _style() -> Iterator[None]:
    """Draw in our style, whatever the user's own settings of matplotlib are."""
    import matplotlib

    settings: Any = matplotlib.rcParams
    fonts = logging.getLogger("fontTools")  # which tells at length what it leaves out
    level = fonts.level
    fonts.setLevel(logging.WARNING)
    try:
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            settings.update(STYLE)
            yield
    finally:
        fonts.setLevel(level)


def _saved(figure: Figure, kinds: Sequence[str], dpi: int) -> dict[str, bytes]:
    files = {}
    for kind in kinds:
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=UNDATED[kind])
        files[kind] = buffer.getvalue()
    return files


def _plain(text: str) -> str:
    """Return a text that matplotlib shows as it is, without maths between dollars."""
    return text.replace("$", r"\$")


# The grid


class _Page:
    """A figure on which pictures and words are laid by hand, in inches from the top left."""

    def __init__(self, width: float, height: float, dpi: int) -> None:
        from matplotlib.figure import Figure

        self.dpi, self.width, self.height = dpi, width, height
        self.figure = Figure(figsize=(width, height), dpi=dpi)

    def write(self, x: float, y: float, text: str, **how: Any) -> None:
        about: dict[str, Any] = {"ha": "center", "va": "center", "linespacing": 1.0, **how}
        self.figure.text(x / self.width, 1 - y / self.height, _plain(text), **about)

    def lay(self, cell: Cell, x: float, y: float, width: float, height: float) -> None:
        """Lay a picture into the middle of a box, or the words in its place onto grey."""
        left, top, right, bottom = (round(side * self.dpi) for side in (x, y, x + width, y + height))
        picture = _read(cell.path, right - left, bottom - top) if cell.path else None
        words = cell.words if cell.path is None else "" if picture else "cannot be read"
        if picture is None and not words:
            return
        if picture is None:
            picture = Image.new("RGB", (right - left, bottom - top), "#eeeeee")
        left += (right - left - picture.width) // 2
        top += (bottom - top - picture.height) // 2
        size = self.width * self.dpi, self.height * self.dpi
        box = (left / size[0], 1 - (top + picture.height) / size[1], picture.width / size[0], picture.height / size[1])
        axes = self.figure.add_axes(box, frameon=False, xticks=[], yticks=[])
        axes.imshow(np.asarray(picture), interpolation="none", aspect="auto")
        if words:
            fitted = _fitted(words, width - 0.06, 3)
            self.write(x + width / 2, y + height / 2, fitted, color="0.35")


def _read(path: Path, width: int, height: int) -> Image.Image | None:
    """Return a picture that fills a box in pixels, in its own shape; None if it cannot be read."""
    try:
        image = decoding.read(path, WHITE, min(width, height), MOST_PIXELS)
    except UserError:
        return None
    scale = min(width / image.width, height / image.height)
    shape = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(shape, Image.Resampling.LANCZOS, reducing_gap=3.0)


def _fitted(text: str, width: float, lines: int) -> str:
    """Return a text broken into lines no wider than so many inches; what has no room is cut."""
    rows = [""]
    for letter in text:
        if _width(rows[-1] + letter) > width and rows[-1]:
            space = max(rows[-1].rfind(mark) for mark in " _-,./=") + 1
            rows[-1:] = [rows[-1][:space], rows[-1][space:]] if space > len(rows[-1]) / 3 else [rows[-1], ""]
        rows[-1] += letter
        if len(rows) > lines:
            break
    rows = [row.strip() for row in rows]
    if len(rows) > lines:
        rows = [*rows[: lines - 1], rows[lines - 1] + "…"]
        while len(rows[-1]) > 1 and _width(rows[-1]) > width:
            rows[-1] = rows[-1][:-2] + "…"
    return "\n".join(rows)


def _width(text: str) -> float:
    """Return how wide a line of text is, in inches."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties(family=STYLE["font.family"][:1])))
    font.set_size(POINTS, FINE)
    font.set_text(text.strip())
    return float(font.get_width_height()[0]) / 64 / FINE


@dataclass(frozen=True)
class _Sizes:
    """How large everything in a grid is."""

    left: float  # where the strip begins
    beside: float  # where the pictures beside the lines begin
    cells: float  # where those of the grid begin
    label: float  # width of the labels of rows
    cell: tuple[float, float]
    heads: float  # height of the labels of columns
    turned: bool  # these stand upright
    height: float


def _measure(grid: Grid, width: float, shape: float) -> _Sizes:
    """Find the largest cells of a shape (height / width) for which the whole is as wide as said, and fits on a page."""
    labels = [line.label for line in grid.lines]
    label = min(max(map(_width, labels)), LABEL_SHARE * width) + 0.06 if any(labels) else 0.0
    title = LINE if grid.row_title else 0.0
    beside, across = len(grid.lines[0].beside), max(len(line.cells) for line in grid.lines)
    strip = 0 if not grid.strip else len(grid.strip) if len(grid.lines) == 1 else 1
    gaps = GAP * (strip + beside + across - 1) + (WIDE_GAP - GAP) * (bool(strip) + bool(beside))
    room = width - title - label - gaps
    cell = room / (strip + beside + across)
    heads = [head for line in grid.lines for head in line.heads] + [name for name, _ in grid.strip] + grid.beside
    turned = bool(heads) and max(map(_width, heads)) > cell and len(grid.lines[0].cells) > MOST_ACROSS + 2
    if turned:
        head = min(max(map(_width, heads)), 1.2) + 0.06
    else:
        head = LINE * max((_fitted(text, cell, 2).count("\n") + 1 for text in heads), default=0)
    above = LINE if grid.column_title else 0.0
    headed = sum(bool(line.heads) for line in grid.lines) or bool(grid.strip or grid.beside)
    rows = sum(1 + len(line.above) for line in grid.lines)
    fixed = (
        above + headed * head + GAP * (rows - 1) + (WIDE_GAP - GAP) * sum(len(line.above) > 0 for line in grid.lines)
    )
    high = min(cell * shape, (TALLEST - fixed) / rows)
    cell = min(cell, high / shape)
    spare = room - cell * (strip + beside + across)
    left = spare / 2
    first = left + strip * (cell + GAP) + (WIDE_GAP - GAP) * bool(strip) + title + label
    return _Sizes(
        left,
        beside=first,
        cells=first + beside * (cell + GAP) + (WIDE_GAP - GAP) * bool(beside),
        label=label,
        cell=(cell, high),
        heads=head,
        turned=turned,
        height=fixed + high * rows,
    )


def draw_grid(grid: Grid, width: float, dpi: int) -> dict[str, bytes]:
    """Draw a grid of pictures; returns PDF and PNG by their suffix."""
    shape = _shape([cell.path for line in grid.lines for cell in line.cells if cell.path])
    with _style():
        sizes = _measure(grid, width, shape)
        page = _Page(width, sizes.height, dpi)
        (across, high), beside, cells, y = sizes.cell, sizes.beside, sizes.cells, 0.0
        count = max(len(line.cells) for line in grid.lines)
        if grid.column_title:
            page.write(cells + (count * (across + GAP) - GAP) / 2, LINE / 2, grid.column_title)
            y = LINE
        _lay_strip(page, grid, sizes, y)
        for number, line in enumerate(grid.lines):
            if line.heads or ((grid.strip or grid.beside) and number == 0):
                for place, head in enumerate(line.heads):
                    _write_head(page, head, cells + place * (across + GAP), y, sizes)
                for place, head in enumerate(grid.beside if number == 0 else []):
                    _write_head(page, head, beside + place * (across + GAP), y, sizes)
                y += sizes.heads
            for pictures in line.above:
                for place, cell in enumerate(pictures):
                    page.lay(cell, cells + place * (across + GAP), y, across, high)
                y += high + (GAP if pictures is not line.above[-1] else WIDE_GAP)
            for place, cell in enumerate(line.beside):
                page.lay(cell, beside + place * (across + GAP), y, across, high)
            for place, cell in enumerate(line.cells):
                page.lay(cell, cells + place * (across + GAP), y, across, high)
            if line.label:
                fitted = _fitted(line.label, sizes.label - 0.05, max(1, min(LABEL_LINES, int(high / LINE))))
                page.write(beside - 0.05, y + high / 2, fitted, ha="right")
            y += high + GAP
        if grid.row_title:
            rows = len(grid.lines) * (high + GAP) - GAP
            page.write(beside - sizes.label - LINE / 2, sizes.height - rows / 2, grid.row_title, rotation=90)
        return _saved(page.figure, ("pdf", "png"), dpi)


def _lay_strip(page: _Page, grid: Grid, sizes: _Sizes, top: float) -> None:
    """Lay what all pictures share at the left: side by side beside a single line, else below each other."""
    across, high = sizes.cell
    if len(grid.lines) == 1:
        down = sizes.height - high
        for place, (name, cell) in enumerate(grid.strip):
            _write_head(page, name, sizes.left + place * (across + GAP), down - sizes.heads, sizes)
            page.lay(cell, sizes.left + place * (across + GAP), down, across, high)
        return
    room = sizes.height - top - sizes.heads + LINE
    step = min(high + LINE + GAP, room / max(1, len(grid.strip)))
    start = sizes.height - room if len(grid.strip) > 1 else sizes.height - (room + step) / 2
    for place, (name, cell) in enumerate(grid.strip):
        page.write(sizes.left + across / 2, start + place * step + LINE / 2, name)
        page.lay(cell, sizes.left, start + place * step + LINE, across, step - LINE - GAP)


def _write_head(page: _Page, text: str, x: float, y: float, sizes: _Sizes) -> None:
    middle, bottom = x + sizes.cell[0] / 2, y + sizes.heads - 0.03
    if sizes.turned:
        page.write(middle, bottom, _fitted(text, sizes.heads - 0.05, 1), rotation=90, va="bottom")
    else:
        page.write(middle, bottom, _fitted(text, sizes.cell[0], 2), va="bottom")


def _shape(paths: Sequence[Path]) -> float:
    """Return height / width of the picture in the middle of all, by that; 1 if none can be read."""
    sizes = [decoding.upright_size(path) for path in dict.fromkeys(paths)]
    shapes = sorted(size[1] / size[0] for size in sizes if size)
    return min(max(shapes[len(shapes) // 2], 0.2), 4.0) if shapes else 1.0


# Charts


def draw_chart(chart: Chart, width: float, dpi: int) -> dict[str, bytes]:
    """Draw a chart; returns PDF and SVG by their suffix."""
    from matplotlib.figure import Figure

    across = max(1, min(chart.across, len(chart.panels), MOST_ACROSS, int(width / PANEL_WIDTH)))
    apart = chart.apart or len(chart.panels)
    lines = -(-apart // across)  # of those that stay together
    if lines * len(chart.panels) // apart * 1.2 > TALLEST:
        across, lines = apart, 1
    down = lines * -(-len(chart.panels) // apart)
    beside = len(chart.panels) == 1 and width > 2 * PANEL_WIDTH and sum(map(len, chart.legends)) <= MOST_BESIDE
    with _style():
        legend, rows = _legend(chart, 1 if beside else max(1, int(width / 0.9)))
        panel = 0.62 * width if beside else width / across
        height = min(down * min(max(0.85 * panel, 1.5), 2.6) + (0 if beside else LINE * rows), TALLEST)
        figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
        engine: Any = figure.get_layout_engine()
        engine.set(w_pad=0.03, h_pad=0.03, wspace=0.03, hspace=0.03)
        grid = figure.subplots(down, across, squeeze=False)
        for place, axes in enumerate(grid.flat):
            group, number = divmod(place, lines * across)
            if number < apart and group * apart + number < len(chart.panels):
                _draw_panel(axes, chart, chart.panels[group * apart + number], panel)
            else:
                axes.set_visible(False)
        where = "outside right upper" if beside else "outside lower center"
        if legend["handles"]:
            legend |= {"loc": where, "handlelength": 2.4, "columnspacing": 1.2, "borderpad": 0.1}
            figure.legend(**legend)
        return _saved(figure, ("pdf", "svg"), dpi)


def _draw_panel(axes: Axes, chart: Chart, panel: Panel, width: float) -> None:
    for curve in panel.curves:
        look = _look(chart, curve.looks)
        if not chart.points:
            start = 0.2 * (curve.looks[0] + 0.5) / len(chart.legends[0])  # not all at the same steps
            axes.plot(curve.x, curve.y, markevery=(start, 0.2) if len(curve.x) > FEW_POINTS else None, **look)
            if curve.y_spread:
                low, high = (np.add(curve.y, np.multiply(sign, curve.y_spread)) for sign in (-1, 1))
                if panel.logs[1]:  # a band that reaches 0 goes down to the bottom
                    low = np.maximum(low, 1e-3 * np.array(curve.y))
                axes.fill_between(curve.x, low, high, color=look["color"], alpha=0.2, linewidth=0)
        else:
            axes.errorbar(
                curve.x, curve.y, curve.y_spread, curve.x_spread, capsize=1.5, elinewidth=0.6, capthick=0.6, **look
            )
    axes.set_title(_plain(_fitted(panel.title, width - 0.4, 2)))
    axes.set_xlabel(_plain(panel.labels[0]))
    axes.set_ylabel(_plain(panel.labels[1]))
    for is_log, name in zip(panel.logs, "xy", strict=True):
        if is_log:
            _make_log(axes, name)
        elif name == "x":
            axes.locator_params(axis="x", nbins=4)  # so that long numbers have room
    if panel.ticks:
        long = max(_width(text) for _, text in panel.ticks) * len(panel.ticks) > PANEL_WIDTH * 0.8
        names = [_plain(_fitted(text, 1.0, 1)) for _, text in panel.ticks]
        axes.set_xticks([x for x, _ in panel.ticks], names, rotation=90 if long else 0)
        axes.set_xticks([], minor=True)
    axes.margins(0.06)
    if panel.front:  # up and to the right as far as there is room, so that a single point has a line as well
        (_, right), (_, top) = axes.set_xlim(axes.get_xlim()), axes.set_ylim(axes.get_ylim())
        x, y = zip((panel.front[0][0], top), *panel.front, (right, panel.front[-1][1]), strict=True)
        axes.step(x, y, where="post", color="0.4", linewidth=0.7, linestyle=LINES[2], zorder=1)


def _make_log(axes: Axes, name: str) -> None:
    """Make an axis logarithmic, with ticks at 1, 2, 5 where it has hardly a power of ten in it."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    getattr(axes, f"set_{name}scale")("log")
    axis = getattr(axes, f"{name}axis")
    low, high = sorted(axis.get_data_interval())
    if high < 100 * low:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _look(chart: Chart, looks: tuple[int, int]) -> dict[str, Any]:
    """Return how a curve is drawn: colours go from dark to light, so that grey tells them apart as well."""
    from matplotlib import colormaps

    count = len(chart.legends[0])
    shade = 0.78 * looks[0] / (count - 1) if count > 1 else 0.0
    shapes = chart.shapes and len(chart.legends[1]) > 1
    return {
        "color": colormaps["plasma"](shade),
        "marker": MARKERS[looks[shapes] % len(MARKERS)],
        "linestyle": LINES[looks[1] % len(LINES)] if chart.joined else "",
        "markerfacecolor": "white" if looks[1] % 2 else None,
    }


def _legend(chart: Chart, across: int) -> tuple[dict[str, Any], int]:
    """Return the handles, labels and columns of both legends as one, and how many lines it takes."""
    from matplotlib.lines import Line2D

    handles: list[Any] = []
    labels: list[str] = []
    for which, texts in enumerate(chart.legends):
        every = -(-len(texts) // MOST_IN_LEGEND)
        wide = max(1.8, across * 0.9 - 0.55)
        fitted = [_fitted(text, 1.8, 1) for text in texts[::every]]
        if len({*fitted}) < len(fitted) <= MOST_LONG:
            fitted = [_fitted(text, wide, 3) for text in texts[::every]]
        for number, text in enumerate(fitted):
            if len(texts) > 1:
                place = number * every
                alone: dict[str, Any] = {"color": "0.2"} | ({} if chart.shapes else {"marker": ""}) if which else {}
                alone |= {"linestyle": ""} if which == 0 and len(chart.legends[1]) > 1 else {}
                look = _look(chart, (0, place) if which else (place, 0))
                handles.append(Line2D([], [], **(look | alone)))
                labels.append(_plain(text))
    widest = max((_width(line) for label in labels for line in label.split("\n")), default=0.5) + 0.55
    columns = 1 if across == 1 else max(1, min(len(labels), int(across * 0.9 / widest)))
    lines = max((label.count("\n") + 1 for label in labels), default=1)
    return {"handles": handles, "labels": labels, "ncols": columns}, -(-len(labels) // columns) * lines
