"""Figures for a paper: their files, the numbers in them, what is laid where, and LaTeX that takes them in."""

import csv
import itertools
import json
import os
import random
import re
import runpy
import shutil
import statistics
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import ROOT, environment
from PIL import Image
from synthetic_runs import EVALUATOR, make_run, make_sweep

from nst.errors import UserError
from nst.report import captions, figures, plots
from nst.report.figures import Options, arrange, front, inches, losses, make_figures, picture_at, scores, trade_off
from nst.report.runs import collect
from nst.report.selection import choose, select
from nst.report.write import write_report
from nst.samples import samples

pytest.importorskip("matplotlib")
TINY: dict[str, Any] = {"size": (48, 32), "previews": 4, "rows": 5, "quick": True}
WIDTH, DPI = "8.4cm", 200


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 betas, 2 styles, 2 seeds."""
    axes = {"style": ["swirls", "wave"], "beta": ["0.001", "0.01", "0.1"], "seed": [0, 1]}
    return make_sweep(tmp_path_factory.mktemp("figures") / "sweep", axes, failed=[5], **TINY)


@pytest.fixture(scope="module")
def out(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    written = write_report([sweep], folder, bundle=True, figures=Options(inches(WIDTH), DPI))
    assert [path for path in written.files if not path.is_file()] == []
    return folder


def script(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["report.py", *map(str, arguments)])
    runpy.run_path(str(ROOT / "scripts" / "report.py"), run_name="__main__")


def streams(pdf: bytes) -> str:
    found = [zlib.decompress(data) for data in re.findall(rb"stream\r?\n(\x78.*?)\r?\nendstream", pdf, re.DOTALL)]
    return b"\n".join(found).decode("latin-1")


# Files


def test_every_figure_has_its_files_and_is_in_the_bundle_with_the_same_bytes(out: Path) -> None:
    names = {"grid.pdf", "grid.png"} | {f"{n}.{k}" for n in ("losses", "scores", "tradeoff") for k in ("pdf", "svg")}
    names |= {"options.json"}
    assert {path.name for path in (out / "figures").iterdir()} == names
    with zipfile.ZipFile(out / "bundle.zip") as archive:
        for name in names:
            assert archive.read(f"figures/{name}") == (out / "figures" / name).read_bytes(), name
        assert b"figures/grid.pdf" in archive.read("report.md")


def test_figures_beside_a_report_are_drawn_again_with_it_as_they_were_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_sweep(tmp_path / "sweep", {"beta": ["0.1"], "pooling": ["avg", "max"]}, **TINY)
    (folder / "figures").mkdir()
    (folder / "figures" / "mine.pdf").write_text("not ours")
    assert len(write_report([folder]).files) == 3  # nobody asked for figures
    write_report([folder], bundle=True, figures=Options(3.0, 60, rows="pooling"))
    before = {path.name: path.read_bytes() for path in (folder / "figures").iterdir()}
    (folder / "figures" / "grid_9.png").write_text("of an earlier drawing")
    make_run(folder / "2_added", {"beta": 0.9, "pooling": "avg"}, **TINY)
    written = write_report([folder])
    after = {path.name: path.read_bytes() for path in (folder / "figures").iterdir()}
    assert after.keys() == before.keys()
    assert {name for name in before if before[name] == after[name]} == {"mine.pdf", "options.json"}
    with zipfile.ZipFile(folder / "bundle.zip") as archive:
        assert archive.read("figures/grid.pdf") == after["grid.pdf"]
        assert archive.read("report.md").count(b"\\includegraphics") == 4
    assert [note.split()[0] for note in written.beside] == ["figures/", "bundle.zip"]

    for damaged in ("{", '{"width": 1e9}', '{"runs": [3]}', '{"else": 1}', "[]"):
        (folder / "figures" / "options.json").write_text(damaged)
        assert figures.options_in(folder / "figures") == Options(), damaged
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    (note, _) = write_report([folder]).beside
    assert "figures is older than this report" in note
    assert (folder / "figures" / "grid.pdf").read_bytes() == after["grid.pdf"]


def test_every_figure_is_as_wide_as_asked_for(out: Path) -> None:
    for path in (out / "figures").glob("*.pdf"):
        box = re.search(rb"/MediaBox \[ ?([\d. ]+)\]", path.read_bytes())
        assert box
        left, bottom, right, top = map(float, box[1].split())
        assert (left, bottom) == (0, 0)
        assert right == pytest.approx(8.4 / 2.54 * 72, abs=1e-3)
        assert top < 9 * 72
    for path in (out / "figures").glob("*.svg"):
        assert float(re.search(r'width="([\d.]+)pt"', path.read_text())[1]) == pytest.approx(8.4 / 2.54 * 72, abs=1e-3)  # type: ignore[index]


def test_the_pixels_of_the_png_are_those_of_its_width_and_resolution(out: Path) -> None:
    data = (out / "figures" / "grid.png").read_bytes()
    width, _ = struct.unpack(">II", data[16:24])
    assert width == int(8.4 / 2.54 * DPI)
    across, down, unit = struct.unpack(">IIB", data[data.index(b"pHYs") + 4 :][:9])
    assert (across, down, unit) == (round(DPI / 0.0254), round(DPI / 0.0254), 1)  # pixels a metre


def test_fonts_are_embedded_and_text_is_readable(out: Path) -> None:
    for path in (out / "figures").glob("*.pdf"):
        data = path.read_bytes()
        fonts, files = len(re.findall(rb"/Type /FontDescriptor", data)), len(re.findall(rb"/FontFile2 ", data))
        assert fonts == files > 0, path.name
        assert b"/Type3" not in data
        sizes = {float(size) for size in re.findall(r"([\d.]+) Tf", streams(data))}
        assert 8 in sizes
        assert min(sizes) >= 5  # exponents
    for path in (out / "figures").glob("*.svg"):
        assert "<text" not in path.read_text()  # outlines: they need no font


def test_the_same_runs_give_the_same_bytes_whatever_the_user_s_settings(sweep: Path, out: Path, tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("font.size: 20\npdf.fonttype: 3\nsavefig.bbox: tight\n")
    words = [
        ROOT / "scripts" / "report.py",
        sweep,
        "--figures",
        "--width",
        WIDTH,
        "--dpi",
        DPI,
        "--out",
        tmp_path / "a",
    ]
    settings = {"PYTHONHASHSEED": "7", "MATPLOTLIBRC": str(tmp_path / "matplotlibrc"), "SOURCE_DATE_EPOCH": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, words)], env=environment() | settings, capture_output=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    for path in (out / "figures").iterdir():
        assert path.read_bytes() == (tmp_path / "a" / "figures" / path.name).read_bytes(), path.name
    assert (out / "report.md").read_bytes().count(b"\\includegraphics") == 4


def test_a_picture_has_no_more_pixels_than_its_box(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "0", **TINY)
    Image.effect_noise((1500, 1000), 80).convert("RGB").save(folder / "result.png")
    made = make_figures(collect([folder]), Options(2.0, 100))
    data = made.files["figures/grid.pdf"]
    widths = [int(width) for width in re.findall(rb"/Width (\d+)", data)]
    assert len(widths) >= 3
    assert max(widths) <= 200 / 3


def test_colours_go_from_dark_to_light() -> None:
    for count in range(2, 21):
        chart = plots.Chart([], ([""] * count, [""]), 1, points=False)
        looks = [plots._look(chart, (place, 0)) for place in range(count)]
        grey = [np.dot(look["color"][:3], (0.299, 0.587, 0.114)) for look in looks]
        assert all(b - a > 0.2 / count for a, b in itertools.pairwise(grey))
        assert grey[-1] < 0.8
        assert all(a["marker"] != b["marker"] for a, b in itertools.pairwise(looks))


# The numbers


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def record_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "run.json").read_text()))


def test_the_curves_are_those_of_metrics_csv(sweep: Path) -> None:
    chart = losses(choose(collect([sweep])), [])
    assert chart is not None
    assert chart.legends == (["beta = 0.001", "beta = 0.01", "beta = 0.1"], [""])
    assert [panel.title for panel in chart.panels] == [
        f"{kind} loss, {style}" for style in ("swirls", "wave") for kind in ("total", "content", "style")
    ]
    for panel in chart.panels:
        kind, _, style = panel.title.replace(" loss", "").partition(", ")
        key = "loss/total" if kind == "total" else f"unweighted/{kind}"
        assert len(panel.curves) == 3
        for curve in panel.curves:
            beta = ("0.001", "0.01", "0.1")[curve.looks[0]]
            folders = [f for f in sweep.glob(f"*_style={style},beta={beta},seed=*") if not f.name.startswith("5_")]
            tables = [rows_of(folder) for folder in folders]
            assert len(tables) == (1 if (style, beta) == ("swirls", "0.1") else 2)  # job 5 has failed
            assert curve.x == [float(row["step"]) for row in tables[0]]
            values = np.array([[float(row[key]) for row in table] for table in tables])
            np.testing.assert_allclose(curve.y, values.mean(0), rtol=1e-12)
            if len(tables) > 1:
                np.testing.assert_allclose(curve.y_spread, values.std(0, ddof=1), rtol=1e-9, atol=1e-15)
            else:
                assert curve.y_spread is None


def test_scores_and_trade_off_are_those_of_run_json(sweep: Path) -> None:
    chosen = choose(collect([sweep]))
    by_score, traded = scores(chosen, []), trade_off(chosen, [])
    assert by_score is not None
    assert traded is not None
    assert [panel.labels for panel in by_score.panels] == [
        ("beta", name) for name in ("content distance", "style distance", "SSIM")
    ]
    assert by_score.legends[0] == ["swirls", "wave"]
    assert [panel.title for panel in traded.panels] == ["swirls", "wave"]
    for style_place, style in enumerate(("swirls", "wave")):
        for place, beta in enumerate(("0.001", "0.01", "0.1")):
            folders = [f for f in sweep.glob(f"*_style={style},beta={beta},seed=*") if not f.name.startswith("5_")]
            content, of_style, ssim = (
                [record_of(folder)["scores"][name] for folder in folders]
                for name in ("content_distance", "style_distance", "ssim")
            )
            for panel, values in zip(by_score.panels, (content, of_style, ssim), strict=True):
                assert panel.logs == (True, False)
                curve = next(curve for curve in panel.curves if curve.looks[0] == style_place)
                assert curve.x[place] == float(beta)
                assert curve.y[place] == pytest.approx(statistics.fmean(values))
                assert (curve.y_spread or [])[place] == pytest.approx(np.std(values, ddof=1) if len(values) > 1 else 0)
            (point,) = (c for c in traded.panels[style_place].curves if c.looks[0] == place)
            assert (point.x[0], point.y[0]) == pytest.approx((statistics.fmean(content), statistics.fmean(of_style)))


def test_scores_by_another_evaluator_are_kept_out(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path / "sweep", {"beta": ["0.001", "0.01"]}, **TINY)
    for path in folder.glob("*/run.json"):
        record = json.loads(path.read_text())
        record["further_scores"] = {"a_other": {name: 9.0 for name in record["scores"]}}
        path.write_text(json.dumps(record))
    notes: list[str] = []
    chart = scores(choose(collect([folder])), notes)
    assert chart is not None
    assert max(y for panel in chart.panels for curve in panel.curves for y in curve.y) < 2 or "a_other" in notes[0]
    assert len(notes) == 1


def test_the_front_is_what_no_other_point_beats() -> None:
    chance = random.Random(3)
    for _ in range(50):
        points = [(chance.randrange(6) / 5, chance.randrange(6) / 5) for _ in range(8)]
        beaten = [p for p in points if any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)]
        assert front(points) == sorted({p for p in points if p not in beaten})


@pytest.mark.parametrize(("styles", "width", "shape"), [(2, 5.5, (2, 3)), (2, 3.25, (4, 2)), (5, 3.25, (5, 3))])
def test_the_losses_of_two_pairs_share_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, styles: int, width: float, shape: tuple[int, int]
) -> None:
    names = [name for name in samples() if name != "coffee"][:styles]
    chart = losses(choose(collect([make_sweep(tmp_path, {"style": names, "beta": ["0.01", "0.1"]}, **TINY)])), [])
    assert chart is not None
    assert len(chart.panels) == 3 * styles
    drawn: list[Any] = []
    monkeypatch.setattr(plots, "_saved", lambda figure, *_: drawn.append(figure))
    monkeypatch.setattr(plots, "_fitted", lambda text, *_: text)
    plots.draw_chart(chart, width, 100)
    lines: dict[int, set[str]] = {}
    for axes in drawn[0].axes:
        place = axes.get_subplotspec()
        assert place.get_gridspec().get_geometry() == shape
        if axes.get_visible():
            lines.setdefault(place.rowspan.start, set()).add(axes.get_title().rpartition(", ")[2])
    assert all(len(pairs) == 1 for pairs in lines.values()), lines
    assert sum(axes.get_visible() for axes in drawn[0].axes) == 3 * styles
    assert drawn[0].get_figheight() <= plots.TALLEST


@pytest.mark.parametrize(
    "points",
    [[(0.2, 0.9), (0.3, 0.5), (0.9, 0.2)], [(0.2, 0.2), (0.3, 0.5), (0.9, 0.1)], [(0.1, 0.1), (0.3, 0.5), (0.9, 0.2)]],
)
def test_only_the_front_is_joined_and_always_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, points: list[tuple[float, float]]
) -> None:
    folder = make_sweep(tmp_path / "sweep", {"beta": ["0.001", "0.01", "0.1"]}, **TINY)
    for path, (x, y) in zip(sorted(folder.glob("*/run.json")), points, strict=True):
        record = json.loads(path.read_text())
        record["scores"] |= {"content_distance": x, "style_distance": y}
        path.write_text(json.dumps(record))
    chosen = choose(collect([folder]))
    chart = trade_off(chosen, [])
    assert chart is not None
    assert "The dotted line joins the front" in captions.trade_off(chart, chosen)
    drawn: list[Any] = []
    monkeypatch.setattr(plots, "_saved", lambda figure, *_: drawn.append(figure))
    plots.draw_chart(chart, 5.5, 100)
    lines = [line for line in drawn[0].axes[0].lines if len(line.get_xdata()) > 1]
    (line,) = lines  # nothing else looks like one
    best = [p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)]
    assert list(zip(line.get_xdata(), line.get_ydata(), strict=True))[1:-1] == best
    markers = [line.get_marker() for line in drawn[0].axes[0].lines if len(line.get_xdata()) == 1]
    assert {"o", "s", "D"} <= set(markers)


def test_a_pair_with_one_run_has_a_panel_beside_others(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path, {"style": ["swirls", "wave"], "beta": ["0.001", "0.01"]}, **TINY)
    chart = trade_off(choose(collect([folder]), ["0,1,2"]), [])
    assert chart is not None
    assert {panel.title: len(panel.curves) for panel in chart.panels} == {"swirls": 2, "wave": 1}


def test_a_caption_names_the_values_that_its_grid_shows(tmp_path: Path) -> None:
    axes = {"pooling": ["avg", "max"], "beta": ["0.001", "0.01"], "style": ["swirls", "wave"]}
    chosen = choose(collect([make_sweep(tmp_path, axes, **TINY)]))
    shown: list[Any] = [(run, None) for run in chosen.runs if run.config["pooling"] == "avg"]
    caption = captions.grid(chosen, [], shown)
    assert "(rows)" not in caption
    assert "pooling avg" in caption[caption.index("Fixed:") :]
    assert r"$\beta$ = 0.001, 0.01 (columns)" in caption


def test_who_reads_the_paths_of_a_report_may_leave(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path, {"beta": ["0.001", "0.01"]}, **TINY)
    command = f"{sys.executable} {ROOT / 'scripts' / 'report.py'} {folder} | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120, check=False)
    assert done.stderr == ""


def test_entries_of_a_legend_that_differ_at_their_ends_are_told_apart() -> None:
    long = ", ".join(f"knob_{i} = some_value" for i in range(4))
    lines = [f"{long}, beta = {beta}" for beta in ("0.001", "0.01")]
    legend, rows = plots._legend(plots.Chart([], (["one"], lines), 3, points=True), int(5.5 / 0.9))
    labels = legend["labels"]
    assert len({*labels}) == 2
    assert labels[0].replace("\n", "").replace(" ", "") == lines[0].replace(" ", "")
    assert rows >= max(label.count("\n") + 1 for label in labels)


def test_markers_tell_a_second_knob_in_the_trade_off(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path, {"beta": ["0.001", "0.01"], "pooling": ["avg", "max"]}, **TINY)
    chart = trade_off(choose(collect([folder])), [])
    assert chart is not None
    looks = [plots._look(chart, curve.looks) for curve in chart.panels[0].curves]
    assert len({(tuple(look["color"]), look["marker"]) for look in looks}) == 4
    assert len({look["marker"] for look in looks}) == 2
    assert {look["linestyle"] for look in looks} == {""}


def test_a_category_is_not_joined_and_a_number_is_x_before_it(tmp_path: Path) -> None:
    chosen = choose(
        collect([make_sweep(tmp_path / "a", {"beta": ["0.1", "0.01"], "optimizer": ["adam", "sgd"]}, **TINY)])
    )
    chart = scores(chosen, [])
    assert chart is not None
    assert chart.panels[0].labels[0] == "beta"
    assert chart.panels[0].curves[0].x == [0.01, 0.1]  # by size, however typed
    assert chart.joined
    chart = scores(choose(chosen.collection, columns="optimizer"), [])
    assert chart is not None
    assert [text for _, text in chart.panels[0].ticks] == ["adam", "sgd"]
    assert not chart.joined
    assert chart.legends[0] == ["beta = 0.1", "beta = 0.01"]


# Which runs, which axes, which step


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        ((), range(12)),
        (("0",), [0]),
        (("0,3-5",), [0, 3, 4, 5]),
        (("11", "2"), [2, 11]),
        (("3_style=swirls,beta=0.01,seed=1",), [3]),
        (("beta>0.005 and style==wave",), [8, 9, 10, 11]),
        (("beta<=1e-3",), [0, 1, 6, 7]),
        (("status!=done",), [5]),
        (("optimizer=adam and seed=0 and beta==1e-1",), [4, 10]),
    ],
)
def test_runs_are_chosen_by_name_number_and_filter(sweep: Path, words: tuple[str, ...], kept: Any) -> None:
    found = select(collect([sweep]).runs, words)
    assert [int(run.name.partition("_")[0]) for run in found] == list(kept)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"words": ["12"]}, "--runs 12: there is no such run. Runs: 0_style"),
        ({"words": ["beat>1"]}, "No run has a 'beat' to filter by. Did you mean 'beta'?"),
        ({"words": ["beta>1"]}, "--runs beta>1: no run fits"),
        ({"rows": "optimizer"}, "--rows optimizer: There is no axis 'optimizer'.*Known: style, beta, seed"),
        ({"rows": "beta", "columns": "beta"}, "both beta"),
        ({"words": ["0"], "columns": "beta"}, "differ in nothing"),
    ],
)
def test_a_wrong_choice_is_one_sentence(sweep: Path, options: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        choose(collect([sweep]), **options)


def grid_of(folder: Path, options: Options = Options()) -> plots.Grid:  # noqa: B008
    chosen = choose(collect([folder]), options.runs, options.rows, options.columns)
    return arrange(chosen, chosen.runs, options)[0]


def names(cells: list[plots.Cell]) -> list[str]:
    return [cell.path.parent.name if cell.path and cell.path.stem == "result" else cell.words for cell in cells]


def test_the_images_stand_where_they_belong(sweep: Path) -> None:
    grid = grid_of(sweep)
    assert (grid.row_title, grid.beside, grid.column_title) == ("", ["style"], "beta")
    assert [(name, cell.path.stem) for name, cell in grid.strip if cell.path] == [("content", "coffee")]
    assert [[cell.path.stem for cell in line.beside if cell.path] for line in grid.lines] == [["swirls"], ["wave"]]
    assert [line.label for line in grid.lines] == ["swirls", "wave"]
    assert grid.lines[0].heads == ["0.001", "0.01", "0.1"]
    assert names(grid.lines[1].cells) == [
        f"{n}_style=wave,beta={b},seed=0" for n, b in ((6, 0.001), (8, 0.01), (10, 0.1))
    ]

    turned = grid_of(sweep, Options(rows="beta", columns="style"))
    assert [[cell.path.stem for cell in line if cell.path] for line in turned.lines[0].above] == [["swirls", "wave"]]
    assert [line.label for line in turned.lines] == ["0.001", "0.01", "0.1"]
    assert (turned.row_title, turned.beside, turned.column_title) == ("beta", [], "style")
    assert grid_of(sweep, Options(rows="seed")).lines[1].label == "1"


def test_a_long_line_is_broken_and_a_wide_grid_turned(tmp_path: Path) -> None:
    betas = [f"{0.001 * (n + 1):g}" for n in range(20)]
    folder = make_sweep(tmp_path / "one", {"beta": betas}, never=range(1, 20), **TINY)
    grid = grid_of(folder)
    assert [len(line.cells) for line in grid.lines] == [5, 5, 5, 5]
    assert [head for line in grid.lines for head in line.heads] == betas
    assert names(grid.lines[0].cells)[1] == "not started"
    files = plots.draw_grid(grid, 5.5, 50)
    assert files["png"].startswith(b"\x89PNG")
    folder = make_sweep(tmp_path / "two", {"seed": [0], "optimizer": ["adam", "sgd"], "beta": betas}, **TINY)
    assert len(grid_of(folder).lines) == 20
    assert len(grid_of(folder, Options(columns="beta")).lines) == 2


def test_a_run_without_a_picture_is_told(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path, {"beta": ["1", "2", "3", "4"]}, failed=[0], out_of_memory=[1], never=[2], **TINY)
    assert names(grid_of(folder).lines[0].cells)[:3] == ["failed", "out of memory", "not started"]
    made = make_figures(collect([folder]), Options(4, 50))
    assert [one.name for one in made.figures] == ["grid", "losses", "scores"]
    assert "3 runs were not finished, and are left out." in made.figures[1].caption


def test_runs_of_which_none_is_done_have_figures_all_the_same(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path, {"beta": ["1", "2"]}, failed=[0], never=[1], **TINY)
    assert [one.name for one in make_figures(collect([folder]), Options(4, 50)).figures] == ["grid", "losses"]


def test_the_nearest_picture_stands_for_a_step(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "0", {"steps": 100}, **TINY)  # previews at 0, 1, 10, 100
    (folder / "frames").mkdir()
    Image.new("RGB", (48, 32)).save(folder / "frames" / "000040.png")
    (run,) = collect([folder]).runs
    found = {step: picture_at(run, step) for step in (0, 5, 6, 30, 69, 71, 500)}
    assert [at for _, at in found.values()] == [0, 1, 10, 40, 40, 100, 100]
    assert [path.parent.name for path, _ in found.values() if path] == [*["previews"] * 3, *["frames"] * 2, *["0"] * 2]
    made = make_figures(collect([folder]), Options(4, 50, step=30))
    assert made.notes == [
        "Of step 30 no picture was kept: the nearest, of step 40, stands for it in 1 run. save_every=N keeps more."
    ]
    assert "at step 40" in made.figures[0].caption


# Words


def test_captions_tell_what_varies_and_what_is_fixed(out: Path) -> None:
    captions = re.findall(r"\\caption\{(.*)\}\\label\{fig:(\w+)\}", (out / "report.md").read_text())
    of = {name: text for text, name in captions}
    assert list(of) == ["grid", "losses", "scores", "tradeoff"]
    for text in of.values():
        assert "style = swirls, wave" in text
        assert "$\\beta$ = 0.001, 0.01, 0.1" in text
        assert "content coffee, backbone squeezenet, $\\alpha$ = 1" in text
        assert "$48 \\times 32$ pixels, 300 steps" in text
        assert "$\\beta$ = 0.01," not in text
    assert "Of 2 seeds, 0 is shown." in of["grid"]
    for name in ("losses", "scores", "tradeoff"):
        assert "Means over seed = 0, 1." in of[name]
        assert "1 run was not finished, and is left out." in of[name]
    assert EVALUATOR in of["scores"]
    assert EVALUATOR in of["tradeoff"]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs LaTeX")
@pytest.mark.parametrize("columns", [1, 2])
def test_a_document_with_the_blocks_compiles(tmp_path: Path, columns: int) -> None:
    odd = tmp_path / "a_b$c$ 100%_{x}^~&#.png"
    Image.new("RGB", (40, 30), "red").save(odd)
    sweep = make_sweep(tmp_path / "sweep", {"style": [str(odd), "wave"], "beta": ["0.001", "0.1"]}, failed=[1], **TINY)
    width = "3.3in" if columns == 2 else "4.7in"
    write_report([sweep], tmp_path, figures=Options(inches(width), 100))
    blocks = re.findall(r"```latex\n(\\begin\{figure\}.*?)\n```", (tmp_path / "report.md").read_text(), re.DOTALL)
    assert len(blocks) == 4
    kind = "[twocolumn]" if columns == 2 else ""
    body = "\n".join(blocks)
    head = f"\\documentclass{kind}{{article}}\n\\usepackage{{graphicx}}\n"
    (tmp_path / "a.tex").write_text(f"{head}\\begin{{document}}\nText.\n{body}\n\\end{{document}}\n")
    words = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull \\hbox" not in done.stdout
    assert all(
        f"figures/{name}.pdf" in done.stdout.replace("\n", "") for name in ("grid", "losses", "scores", "tradeoff")
    )


# The command


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--dpi", "300"], "--dpi is of the figures: add --figures."),
        (["--step", "3"], "--step is of the figures"),
        (["--figures", "--width", "5.5"], "'5.5' is no width of a figure: 5.5in, 14cm"),
        (["--figures", "--width", "99in"], "from 1.5 to 20 inches"),
        (["--figures", "--width", "..in"], "no width"),
        (["--figures", "--dpi", "3"], "--dpi is a number from 50 to 1200."),
        (["--figures", "--runs", "99"], "--runs 99: there is no such run."),
    ],
)
def test_a_mistake_is_one_message_and_writes_nothing(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], told: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        script(monkeypatch, sweep, "--out", tmp_path / "out", *words)
    assert str(stopped.value).startswith("Error: ")
    assert told in str(stopped.value)
    assert not (tmp_path / "out").exists()


def test_without_matplotlib_it_says_how_to_install_it(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(
        SystemExit, match=re.escape("Error: Figures are drawn with matplotlib: pip install -e '.[figures]'.")
    ):
        script(monkeypatch, sweep, "--out", tmp_path / "out", "--figures")
    script(monkeypatch, sweep, "--out", tmp_path / "out", "--no-pictures")  # which needs none
    assert "## Figures" not in (tmp_path / "out" / "report.md").read_text()


def test_letters_without_a_font_are_told(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path, {"content": ["coffee", "/gone/日本, x.png"]}, **TINY)
    made = make_figures(collect([folder]), Options(4, 50))
    assert [note for note in made.notes if "boxes" in note]
    assert "content = coffee; 日本, x.png" in made.figures[0].caption


def test_widths_are_those_of_their_units() -> None:
    assert [inches(text) for text in ("5.5in", "13.97cm", "139.7 mm", "397.485pt")] == pytest.approx([5.5] * 4)
    assert inches("5.5in") == figures.WIDTH


def test_nothing_waits_for_matplotlib_unless_figures_are_asked_for() -> None:
    code = "import sys, nst.report.write; sys.exit('matplotlib' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, env=dict(os.environ)).returncode == 0
