"""Write the report of a sweep, or of runs picked by hand: ``report.html``, ``summary.csv`` and ``report.md``.

python scripts/report.py outputs/multirun/2026-11-22/10-00-00              # a sweep, finished or not
python scripts/report.py outputs/2026-11-22 --title "All of today"          # every run below a folder
python scripts/report.py RUN1 RUN2 RUN3 --out outputs/chosen                # runs picked by hand
python scripts/report.py outputs/multirun/2026-11-22/10-00-00 --bundle      # and bundle.zip, to hand in
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nst.errors import UserError
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
    try:
        written = write_report(paths, arguments.out, arguments.title, arguments.question, budget, bundle)
    except UserError as error:
        sys.exit(f"Error: {error}")
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
    return parser.parse_args()


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError("a number of megabytes above 0 is needed")
    return value


if __name__ == "__main__":
    main()
