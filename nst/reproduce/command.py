"""The command line of ``scripts/reproduce.py``: one run reported in full, several with a line each."""

import argparse
import re
import signal
import sys
from collections import Counter
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from nst import trust
from nst.errors import UserError
from nst.files import write_json, writing
from nst.reproduce.comparison import Reproduction, compare
from nst.reproduce.inputs import Options, find_config_folders, find_inputs, find_weights
from nst.reproduce.rerun import ErrorShown, Plan, recorded_config, start, without_downloads
from nst.reproduce.runs import Run, finished_runs, named, nothing_to_do, opened
from nst.runs.provenance import DIFF_FILE

FILE = "reproduction.json"
IDENTICAL, FAILED, DIFFERENT = 0, 1, 2  # what the program exits with


def main(arguments: list[str] | None = None) -> int:
    """Reproduce what the command line names; return 0 if every picture came out identical, 2 if not, 1 after errors."""
    words = sys.argv[1:] if arguments is None else arguments
    given = _parser().parse_args(words)
    if arguments is None:
        signal.signal(signal.SIGTERM, _terminated)
    options = Options(given.inputs, given.config_dir, given.threads, given.trust, words)
    try:
        with opened(given.path) as source:
            runs, unfinished = finished_runs(source, given.path)
            if given.run is not None:
                runs, unfinished = [named(runs, unfinished, given.run)], {}
            if not runs:
                raise UserError(nothing_to_do(given.path, unfinished))
            out = _new_folder(given.out, source)
            if len(runs) == 1 and not unfinished:
                result = reproduce(runs[0], out, options)
                print(report(result))
                return IDENTICAL if result.is_identical else DIFFERENT
            return _reproduce_all(runs, unfinished, out, options)
    except ErrorShown:
        return FAILED
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Run a finished run, or every run of a sweep, again from its record; tell how far off it is."
    )
    parser.add_argument("path", type=Path, help="folder of a run or a sweep, or a bundle (.zip) of one")
    parser.add_argument("--run", metavar="NAME", help="the only run of a sweep or bundle to be reproduced")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to write; default: outputs/reproduced/...")
    parser.add_argument(
        "--inputs", type=Path, nargs="+", default=[], metavar="FOLDER", help="where images and weights may have moved"
    )
    parser.add_argument(
        "--config-dir", type=Path, nargs="+", default=[], metavar="FOLDER", help="where your own components lie now"
    )
    parser.add_argument("--trust", action="store_true", help="run code of its own that a bundle brings")
    parser.add_argument("--threads", type=_count, default=0, help="instead of as many as were recorded")
    return parser


def _count(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 1024:
        raise argparse.ArgumentTypeError(f"{text} is no number of threads from 0 to 1024")
    return number


def _terminated(number: int, frame: Any) -> NoReturn:
    raise SystemExit(128 + number)


def _reproduce_all(runs: list[Run], unfinished: dict[str, str], out: Path, options: Options) -> int:
    """Reproduce several runs, with a line on each; return the exit code."""
    width = max(len(run.name) for run in runs)
    outcomes: list[int] = []
    facts: Counter[str] = Counter()
    for run in runs:
        try:
            result = reproduce(run, out / run.name, options, quiet=True)
        except UserError as error:
            print(f"{run.name:<{width}}  failed: {error}", flush=True)
            outcomes.append(FAILED)
            continue
        print(f"{run.name:<{width}}  {result.summary()}", flush=True)
        facts.update(_difference(*item) for item in result.facts.items())
        outcomes.append(IDENTICAL if result.is_identical else DIFFERENT)
    counts = {"identical": IDENTICAL, "not identical": DIFFERENT, "failed": FAILED}
    summary = ", ".join(f"{outcomes.count(code)} {word}" for word, code in counts.items() if code in outcomes)
    print(f"\n{len(runs)} runs: {summary}. They are in {out}")
    for fact, count in facts.items():
        print(f"Differs{'' if count == len(runs) else f' in {count} of them'}: {fact}")
    for left, why in unfinished.items():
        print(f"Left out: {left} ({why})")
    return FAILED if FAILED in outcomes else max(outcomes)


def report(result: Reproduction) -> str:
    """Return what to tell of a reproduction, in lines."""
    name, digest = result.result["file"], result.result["now"]
    is_same = result.verdict == "identical"
    same = f" {name} has the same bytes as recorded (SHA-256 {digest[:16]}...)." if is_same else ""
    lines = ["", f"{result.summary()[0].upper()}{result.summary()[1:]}.{same}"]
    if result.losses is not None and not result.is_identical:
        lines.append(f"A final loss differs by {result.losses:.2g} of its value at most.")
    lines.append("Facts that differ:" if result.facts else "Facts that differ: none")
    lines += [f"  {_difference(*item)}" for item in result.facts.items()]
    lines += result.notes
    if not result.is_identical and any(fact.startswith("git.") for fact in result.facts):
        diff = f", then git apply {result.run}/{DIFF_FILE}" if result.facts.get("git.diff_sha256", [None])[0] else ""
        lines.append(f"For the source as it was: git checkout {result.commit}{diff}")
    return "\n".join([*lines, f"The new run is in {result.folder}"])


def _difference(name: str, values: list[Any]) -> str:
    recorded, now = (
        "not set" if value is None else re.sub(r"^([0-9a-f]{12})[0-9a-f]{28,}$", r"\1...", str(value))
        for value in values
    )
    return f"{name}: {recorded} then, {now} now"


def _new_folder(out: Path | None, source: Path) -> Path:
    """Return where the new runs go; raise UserError if there is something already, or it is part of the old ones."""
    if out is None:
        stem = Path("outputs") / "reproduced" / datetime.now().strftime("%Y-%m-%d/%H-%M-%S")
        choices = (stem, *(stem.with_name(f"{stem.name}-{number}") for number in range(2, 1000)))
        return next(path for path in choices if not path.exists())
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not empty. Choose another folder with --out FOLDER.")
    if out.resolve().is_relative_to(source.resolve()):
        raise UserError(f"{out} lies in {source}, which is to be reproduced. Choose another folder with --out FOLDER.")
    return out


def reproduce(run: Run, folder: Path, options: Options, quiet: bool = False) -> Reproduction:
    """Run again in a process of its own, compare, and leave ``reproduction.json`` in the new folder.

    ``quiet`` shows nothing of the new run on the console. Raises UserError if an input or weights file is not what it
    was, or the new run fails.
    """
    config, notes = recorded_config(run.record)
    config_folders, brought = find_config_folders(run, options)
    trust.refuse_foreign_code(config, run.origin, brought, options.config_folders, options.trust)
    notes += [f"Your own components are taken from {found}." for found in brought]
    notes += find_inputs(run, config, options) + find_weights(run, config, options) + without_downloads(config)
    config |= {"threads": options.threads} if options.threads else {}
    machine = run.record.get("machine", {})
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    plan = Plan(
        config=config,
        folder=str(folder),
        choices=run.record.get("choices", {}),
        overrides=run.record.get("overrides", []),
        config_folders=config_folders,
        threads=options.threads or int(machine.get("threads", 0)),
        device=str(machine.get("device", "cpu")),
        words=options.words,
    )
    variables, refused = trust.safe_variables(run.record.get("determinism", {}).get("variables"))
    start(plan, variables, quiet)
    result = compare(run, folder, [*notes, *refused])
    write_json(folder / FILE, asdict(result))
    return result
