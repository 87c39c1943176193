"""Write the report of a sweep, or of runs picked by hand: ``report.html``, ``summary.csv`` and ``report.md``.

python scripts/report.py outputs/multirun/2026-11-22/10-00-00              # a sweep, finished or not
python scripts/report.py outputs/2026-11-22 --title "All of today"          # every run below a folder
python scripts/report.py RUN1 RUN2 RUN3 --out outputs/chosen                # runs picked by hand
python scripts/report.py outputs/multirun/2026-11-22/10-00-00 --bundle      # and bundle.zip, to hand in
python scripts/report.py outputs/multirun/2026-11-22/10-00-00 --figures     # and figures/ for a paper, and captions
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nst.errors import UserError, ending_a_script
from nst.report.figures import DPI, DPIS, Options, inches
from nst.report.pictures import BUDGET
from nst.report.write import write_report

MOST_NOTES = 10


def main() -> None:
    """Read the command line, write the report, and tell where it is."""
    arguments = _parse()
    bundle, paths = arguments.bundle, list(arguments.folders)
    if isinstance(bundle, Path) and bundle.suffix.lower() != ".zip":  # --bundle FOLDER
        bundle, paths = True, [bundle, *paths]
    if not paths:
        sys.exit("Error: Give the folder of a sweep or of a run. See python scripts/report.py --help.")
    budget = 0 if arguments.no_pictures else round(arguments.budget * 1e6)
    figures = _figures(arguments)
    written = write_report(paths, arguments.out, arguments.title, arguments.question, budget, bundle, figures)
    for note in written.notes[:MOST_NOTES]:
        print(f"Note: {note}", file=sys.stderr)
    if len(written.notes) > MOST_NOTES:
        print(f"Note: {len(written.notes) - MOST_NOTES} more notes are in report.md.", file=sys.stderr)
    for path in written.files:
        print(path)


def _parse() -> argparse.Namespace:
    first, _, examples = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=first.replace("``", ""),
        epilog=examples.strip("\n"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="of a sweep, of a run, or of several")
    parser.add_argument("--title", help="in place of the sweep's own")
    parser.add_argument("--question", help="what the runs are to answer, shown below the title")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to write (default: the folder given)")
    parser.add_argument(
        "--budget",
        type=_positive,
        default=BUDGET / 1e6,
        metavar="MB",
        help="most megabytes of pictures in the page (default: %(default)g); the full pictures are linked",
    )
    parser.add_argument("--no-pictures", action="store_true", help="leave the pictures out of the page")
    parser.add_argument(
        "--bundle",
        nargs="?",
        type=Path,
        const=True,
        default=False,
        metavar="FILE.zip",
        help="also write a file to hand in, with full pictures and input images (default: bundle.zip beside the page)",
    )
    figures = parser.add_argument_group("figures for a paper", "PDF, PNG and SVG, with blocks for LaTeX in report.md")
    add = figures.add_argument
    add("--figures", action="store_true", help="draw them into figures/: pictures, losses, scores, trade-off")
    add(
        "--width",
        metavar="WIDTH",
        help="of each: 5.5in (default), 14cm, 140mm, 397pt; \\the\\linewidth in LaTeX tells it",
    )
    add("--dpi", type=int, metavar="N", help=f"pixels an inch of pictures (default: {DPI})")
    add("--rows", metavar="KNOB", help="of the grid of pictures (default: the one typed first)")
    add("--columns", metavar="KNOB", help="of the grid of pictures; also what scores are drawn against")
    add(
        "--runs",
        action="append",
        metavar="WHICH",
        help="a name, numbers (0,3-5) or a filter ('beta>0.01 and style==wave'); may be given several times",
    )
    add("--step", type=int, metavar="N", help="the pictures of this step, or of the nearest that was kept")
    return parser.parse_args()


def _figures(arguments: argparse.Namespace) -> Options | None:
    """Return what is asked of the figures, if they are; raise UserError if that makes no sense."""
    names = ("width", "dpi", "rows", "columns", "runs", "step")
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    if given and not arguments.figures:
        raise UserError(f"--{next(iter(given))} is of the figures: add --figures.")
    if not DPIS[0] <= given.get("dpi", DPI) <= DPIS[1]:
        raise UserError("--dpi is a number from {} to {}.".format(*DPIS))
    if "width" in given:
        given["width"] = inches(given["width"])
    return Options(**given) if arguments.figures else None


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError("a number of megabytes above 0 is needed")
    return value


if __name__ == "__main__":
    with ending_a_script():
        main()
