"""The report of runs, written: one page, two tables, and if wanted the bundle."""

import contextlib
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nst.errors import UserError
from nst.files import write_atomic
from nst.report.bundle import write_bundle
from nst.report.figures import FOLDER, OWN, Figures, Options, make_figures, options_in
from nst.report.page import render
from nst.report.pictures import BUDGET
from nst.report.runs import Collection, collect
from nst.report.tables import report_markdown, summary_csv
from nst.report.view import Place, draw_pictures, make_view

PAGE = "report.html"
BUNDLE = "bundle.zip"


@dataclass
class Written:
    """What was written: the files, the page first, and what could not be read or is missing, one sentence each."""

    files: list[Path]
    notes: list[str]
    beside: list[str] = field(default_factory=list)  # of these notes those on what lay beside the report


def write_report(
    paths: Sequence[Path],
    out: Path | None = None,
    title: str | None = None,
    question: str | None = None,
    budget: int = BUDGET,
    bundle: bool | Path = False,
    figures: Options | None = None,
) -> Written:
    """Write ``report.html``, ``summary.csv`` and ``report.md``; the runs themselves are only read.

    Args:
        paths: folders of sweeps or of runs, or folders that hold any.
        out: where to write, made if need be; by default the folder given, if it is one.
        title: in place of the sweep's own.
        question: likewise.
        budget: bytes of the pictures in the page; 0 leaves them out.
        bundle: write the zip file as well: there, or as ``bundle.zip`` beside the page. One that lies beside the page
            is written again in any case, so that it never is older than its report.
        figures: draw figures for a paper as well, into ``figures/`` beside the page and in the zip file. Those that lie
            beside the page are drawn again in any case, as they were asked for then, if matplotlib is installed.

    Raises:
        UserError: a folder is not there or holds no run, nothing can be written, or see ``make_figures``.
    """
    if out is None and len(paths) != 1:
        raise UserError("Several folders are given: say where the report shall lie with --out FOLDER.")
    collection = collect(paths)
    # Not resolved, so that links fit the folder as it was named.
    folder = (out if out is not None else paths[0]).absolute()
    beside: list[str] = []
    drawn = make_figures(collection, figures) if figures else _drawn_again(collection, folder, beside)
    pictures = draw_pictures(collection, budget)
    view = make_view(collection, pictures, Place(folder), title, question)
    written = Written([], [*view["notes"], *drawn.notes], beside)
    renewed = not bundle and (folder / BUNDLE).is_file()
    for name, data in (_texts(view, drawn) | drawn.files).items():
        with _writing(folder / name):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomic(folder / name, operator.methodcaller("write", data))
        written.files.append(folder / name)
    for path in (folder / FOLDER).iterdir() if drawn.files else ():
        if OWN.fullmatch(path.name) and f"{FOLDER}/{path.name}" not in drawn.files:  # of an earlier drawing
            with _writing(path):
                path.unlink()
    if bundle or renewed:
        path = bundle.absolute() if isinstance(bundle, Path) else folder / BUNDLE
        inside = make_view(collection, pictures, Place(None), title, question)
        with _writing(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        made = _texts(inside, drawn) | drawn.files
        with _writing(path):
            write_atomic(path, lambda file: written.notes.extend(write_bundle(file, collection, made, view["title"])))
        written.files.append(path)
        if renewed:
            beside.append(f"{path.name} lay beside the report and has been written again with it.")
    written.notes += beside
    return written


def _drawn_again(collection: Collection, folder: Path, told: list[str]) -> Figures:
    """Draw the figures that lie beside a report again; if that cannot be, none, and it is told that they are older."""
    options = options_in(folder / FOLDER)
    if options is None:
        return Figures()
    try:
        drawn = make_figures(collection, options)
    except UserError as error:
        told.append(
            f"{folder / FOLDER} is older than this report, which is without it, and could not be drawn: {error}"
        )
        return Figures()
    told.append(f"{FOLDER}/ lay beside the report and has been drawn again as it was asked for then.")
    return drawn


def _texts(view: dict[str, Any], drawn: Figures) -> dict[str, bytes]:
    """Return the files of a report by name."""
    texts = {PAGE: render(view), "summary.csv": summary_csv(view), "report.md": report_markdown(view, drawn.markdown)}
    # a file name may hold what is no text
    return {name: text.encode("utf-8", "replace") for name, text in texts.items()}


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Say that a path cannot be written in the words of a report, not of a run, which has other knobs."""
    try:
        yield
    except (OSError, UserError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__ or error
        reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else cause
        way_out = "Free some space or choose another folder with --out FOLDER."
        raise UserError(f"Cannot write {path}: {reason}. {way_out}") from error
