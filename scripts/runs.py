"""List runs and sweeps, find, tag, compare and delete them.

python scripts/runs.py                                    # all below outputs/
python scripts/runs.py outputs/2026-11-22 --jobs          # of a day, with the jobs of its sweeps
python scripts/runs.py 'beta>0.01 and style==wave'        # those of which that is true, jobs of sweeps too
python scripts/runs.py 'status!=done' --csv > left.csv    # for a spreadsheet or pandas; --json has the same
python scripts/runs.py RUN --tag paper --note "the best"  # kept in notes.json; also --untag paper, --note ""
python scripts/runs.py tag==paper                         # what has that tag
python scripts/runs.py --diff RUN1 RUN2                   # what differs: configuration, source, versions, scores
python scripts/runs.py status==failed --delete --dry-run  # what would be deleted; without --dry-run it asks
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from nst.errors import UserError, ending_a_script
from nst.report import catalogue, filters
from nst.runs import notes


def main() -> None:
    """Read the command line, and list or do what it says."""
    arguments = _parse()
    if arguments.diff:
        found = catalogue.differences(*arguments.diff)
        print(json.dumps(found, indent=2) if arguments.json else catalogue.difference_table(found))
        return
    tops, expressions = _sorted(arguments.words)
    changes = arguments.tag or arguments.untag or arguments.note is not None
    if (changes or arguments.delete) and not arguments.words:
        raise UserError("Say which runs: name their folders, or give a filter such as 'status==failed'.")
    entries = catalogue.listed(tops, expressions, arguments.jobs)
    if arguments.delete:
        sys.exit(_delete(entries, arguments.dry_run, arguments.yes))
    for entry in entries if changes else ():
        _note(entry, arguments)
    _show(entries, f"in {', '.join(map(str, tops))}{' is so' if expressions else ''}", arguments)


def _sorted(words: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Tell folders from expressions."""
    expressions = [word for word in words if not Path(word).exists() and filters.LOOKS_LIKE_ONE.search(word)]
    tops = [Path(word) for word in words if word not in expressions]
    return tops or [Path("outputs")], expressions


def _show(entries: Sequence[catalogue.Entry], where: str, arguments: argparse.Namespace) -> None:
    if arguments.json:
        print(json.dumps([entry.row() for entry in entries], indent=2, ensure_ascii=False))
    elif arguments.csv:
        print(catalogue.as_csv(entries), end="")
    elif entries:
        print(catalogue.table(entries, shutil.get_terminal_size().columns if sys.stdout.isatty() else None))
    else:
        print(f"No run {where}.")


def _note(entry: catalogue.Entry, arguments: argparse.Namespace) -> None:
    """Change the tags and the note of an entry."""
    if absent := [tag for tag in arguments.untag if tag not in entry.own.tags]:
        raise UserError(f"{entry.folder} has no tag {absent[0]}. Its tags: {', '.join(entry.own.tags) or 'none'}.")
    tags = [tag for tag in dict.fromkeys([*entry.own.tags, *arguments.tag]) if tag not in arguments.untag]
    note = entry.own.note if arguments.note is None else arguments.note
    entry.own = notes.Notes(tags, note)
    notes.write(entry.folder, entry.own)


def _delete(entries: Sequence[catalogue.Entry], dry_run: bool, is_sure: bool) -> int:
    """Delete entries but for those that must stay, if that is wanted; return the exit code."""
    chosen = catalogue.outermost(entries)
    kept = {entry.folder: why for entry in chosen if (why := catalogue.why_kept(entry))}
    doomed = [entry for entry in chosen if entry.folder not in kept]
    for folder, why in kept.items():
        print(f"Kept: {folder}: {why}.", file=sys.stderr)
    if not doomed:
        print("Nothing to delete.")
        return 1 if kept else 0
    print(catalogue.table(doomed))
    what = f"{len(doomed)} {'folder' if len(doomed) == 1 else 'folders'}, {sum(e.size for e in doomed) / 1e6:.1f} MB"
    if dry_run:
        print(f"Would delete {what}.")
        return 0
    if not is_sure:
        if not sys.stdin.isatty():
            raise UserError("Nothing is deleted, since nobody can be asked here: add --yes.")
        if input(f"Delete {what}, for good? [y/N] ").strip().lower() not in ("y", "yes"):
            print("Nothing is deleted.")
            return 1
    for entry in doomed:
        catalogue.delete(entry)
    print(f"Deleted {what}.")
    return 1 if kept else 0


def _tag(text: str) -> str:
    if not text or any(character.isspace() or character in ",#" for character in text):
        raise argparse.ArgumentTypeError("a tag is one word, without comma or #; --note takes a sentence")
    return text


def _parse() -> argparse.Namespace:
    first, _, examples = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=first, epilog=examples.strip("\n"), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", metavar="FOLDER|FILTER", help="where (default: outputs), and which")
    parser.add_argument("--jobs", action="store_true", help="list the jobs of sweeps, too")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="everything, as JSON")
    form.add_argument("--csv", action="store_true", help="everything, as a table for a spreadsheet")
    parser.add_argument("--tag", action="append", default=[], type=_tag, help="give a tag")
    parser.add_argument("--untag", action="append", default=[], metavar="TAG", help="take a tag away")
    parser.add_argument("--note", metavar="TEXT", help='write a note; "" takes it away')
    parser.add_argument("--diff", nargs=2, type=Path, metavar="RUN", help="show what differs between two runs")
    parser.add_argument("--delete", action="store_true", help="delete the folders, after a question")
    parser.add_argument("--dry-run", action="store_true", help="with --delete: only show what would be deleted")
    parser.add_argument("--yes", action="store_true", help="with --delete: do not ask")
    arguments = parser.parse_args()
    if (arguments.dry_run or arguments.yes) and not arguments.delete:
        parser.error("--dry-run and --yes go with --delete")
    others = arguments.words or arguments.tag or arguments.untag or arguments.note is not None or arguments.delete
    if arguments.diff and others:
        parser.error("--diff goes alone, with the folders of two runs")
    if arguments.delete and (arguments.tag or arguments.untag or arguments.note is not None):
        parser.error("--delete goes alone")
    return arguments


if __name__ == "__main__":
    with ending_a_script():
        main()
