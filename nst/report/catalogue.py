"""All runs and sweeps below some folders, in a list: what each is, found by filters, compared two by two, deleted."""

import contextlib
import csv
import io
import os
import platform
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from nst import trust
from nst.errors import UserError
from nst.files import claim, is_claimed, writing
from nst.report import filters
from nst.report.runs import Run, nested, read_run
from nst.runs import folders, notes, resume
from nst.runs.folders import SWEEP_FILE

PLAIN = ("optimize", "None", "none")  # tasks and recipes that go without saying
TOLD = ("content", "style", "pair", "experiment", "method", "task", "study", "model", *resume.HOUSEKEEPING)
SHORTEST_REST, LONGEST_REST = 8, 10_000  # characters beside a folder and its tags
SCORES = ("content_distance", "style_distance")  # shown in the list; the files have all


@dataclass
class Entry:
    """A run or a sweep in the list."""

    folder: Path
    runs: list[Run]  # the run, or those of the sweep
    sweep: dict[str, Any] | None = None  # the plan, of a sweep
    own: notes.Notes = field(default_factory=notes.Notes)

    @property
    def kind(self) -> str:
        """``run`` or ``sweep``."""
        return "run" if self.sweep is None else "sweep"

    @property
    def started(self) -> str:
        """When it was begun, as its record has it; empty where that is not known."""
        found = self.runs[0].times.get("started") if self.sweep is None else self.sweep.get("started")
        return str(found or "")

    @property
    def when(self) -> str:
        """The same in this machine's time, to the minute."""
        return datetime.fromisoformat(self.started).astimezone().strftime("%Y-%m-%d %H:%M") if self.started else ""

    @property
    def status(self) -> str:
        """How the run ended; of a sweep the same if all jobs are alike, else how many are done."""
        counts = Counter(run.status for run in self.runs)
        if len(counts) < 2:
            return next(iter(counts), "no jobs")
        return f"{counts['done']}/{counts.total()} done"

    @property
    def words(self) -> list[tuple[str, list[str]]]:
        """What it is, in parts, each with the words by which a folder's name says the same."""
        if self.sweep is not None:
            axes = list(self.sweep.get("swept", {}))
            name = self.sweep.get("title")
            about = [(str(name), [str(name)])] if name else []
            return [*about, (f"{len(self.runs)} runs over {', '.join(axes) or 'nothing'}", [f"{len(self.runs)} runs"])]
        return _words(self.runs[0])

    @cached_property
    def scores(self) -> dict[str, Any]:
        """The scores of a run by its own evaluator, by name."""
        return {} if self.sweep is not None else dict(self.runs[0].fact("scores") or {})

    @cached_property
    def size(self) -> int:
        """Bytes of all files in the folder, over no link."""
        return sum(entry.stat(follow_symlinks=False).st_size for entry in _files(self.folder))

    @property
    def facts(self) -> dict[str, Any]:
        """What a filter may ask for, by name."""
        own = {"kind": self.kind, "folder": self.folder.as_posix(), "when": self.when, "mb": self.size / 1e6}
        own |= {"tag": self.own.tags, "tags": self.own.tags, "note": self.own.note, "status": self.status}
        if self.sweep is not None:
            return {"title": self.sweep.get("title"), "swept": list(self.sweep.get("swept", {})), **own}
        return {**filters.facts_of(self.runs[0]), **self.scores, **own}

    def row(self) -> dict[str, Any]:
        """Return what ``--json`` and ``--csv`` say of it."""
        reasons = list(dict.fromkeys(run.reason for run in self.runs if run.reason))
        about: dict[str, Any] = {"folder": self.folder.as_posix(), "kind": self.kind, "when": self.started}
        about |= {"what": ", ".join(text for text, _ in self.words), "status": self.status}
        about |= {"reason": " ".join(reasons), "runs": len(self.runs), "bytes": self.size}
        return {**about, **vars(self.own), "scores": self.scores}


def _words(run: Run) -> list[tuple[str, list[str]]]:
    """Return what a run is; see ``Entry.words``."""
    config, chosen = run.config, run.choices
    groups = [chosen.get("experiment"), chosen.get("method"), run.fact("config", "task")]
    found = [(str(name), [str(name)]) for name in groups if name is not None and name not in PLAIN]
    content, style = (_names(run.fact("config", kind)) for kind in ("content", "style"))
    if content and style:
        both = [*content, *style]
        found.append((f"{'+'.join(style)} on {content[0]}", both))
    told = {key: text for key, text in run.typed.items() if key not in TOLD and not key.startswith("hydra")}
    typed = [f"{key}={text}" if text else f"~{key}" for key, text in told.items()]
    return [*found, *((text, [text]) for text in typed)] if config else []


def _names(value: Any) -> list[str]:
    return [Path(str(one)).stem for one in (value if isinstance(value, list) else [value]) if one is not None]


def _files(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Yield the files in a folder and below it; links are none."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                yield entry


# The list


def listed(tops: Sequence[Path], expressions: Sequence[str] = (), jobs: bool = False) -> list[Entry]:
    """Return the runs and sweeps in folders, the oldest first, of which all expressions are true.

    A sweep stands for its jobs, which are runs of their own where expressions are given, or ``jobs`` is true.

    Raises:
        UserError: a folder is none, or an expression cannot be read.
    """
    found: dict[Path, Entry] = {}
    for top in tops:
        if not top.is_dir():
            raise UserError(f"{top} is {'a file' if top.exists() else 'no folder here'}. Name a folder with runs.")
        begun, sweeps = folders.find(top)
        inside: dict[Path, list[Path]] = {sweep: [] for sweep in sweeps}
        for folder in begun:
            home = next((parent for parent in folder.parents if parent in inside), None)
            if home is not None:
                inside[home].append(folder)
            if home is None or jobs or expressions:
                found[folder] = Entry(folder, [read_run(folder, folder.name)], own=notes.notes_in(folder))
        found |= {folder: _sweep(folder, own, found) for folder, own in inside.items()}
    entries = sorted(found.values(), key=lambda one: (one.started, folders.in_order(one.folder)))
    facts = [one.facts for one in entries] if expressions else []
    for expression in expressions:
        kept = filters.matching(facts, expression)
        entries = [one for one, is_kept in zip(entries, kept, strict=True) if is_kept]
        facts = [one for one, is_kept in zip(facts, kept, strict=True) if is_kept]
    return entries


def _sweep(folder: Path, begun: Sequence[Path], read: Mapping[Path, Entry]) -> Entry:
    """Read a sweep, with the jobs that were planned but not begun."""
    plan = trust.seen(trust.record(folder / SWEEP_FILE)[0])
    runs = [read[one].runs[0] if one in read else read_run(one, one.name) for one in begun]
    planned = [folder / job["folder"] for job in plan.get("jobs", [])]
    runs += [Run(one, one.name) for one in planned if one not in begun]
    return Entry(folder, runs, plan, notes.notes_in(folder))


def table(entries: Sequence[Entry], width: int | None = None) -> str:
    """Return the list as text, a line for each: folder and tags whole, and what they do not say cut to a width."""
    lines = [f"{'status':<12}  content   style      MB  folder, tags, and what the folder's name leaves out"]
    for entry in entries:
        scores = [entry.scores.get(key) for key in SCORES]
        shown = [f"{value:#.3g}" if isinstance(value, int | float) else "" for value in scores]
        name = _typed(entry.folder)
        start = f"{entry.status:<12}  {shown[0]:>7}  {shown[1]:>6}  {entry.size / 1e6:6.1f}  "
        start += "  ".join([name, *(f"#{tag}" for tag in entry.own.tags)])
        rest = "  ".join(filter(None, [", ".join(_unsaid(name, entry)), entry.own.note]))
        room = LONGEST_REST if width is None else width - len(start) - 2
        short = rest if len(rest) <= room else f"{rest[: room - 1]}…" if room >= SHORTEST_REST else ""
        lines.append(f"{start}  {short}".rstrip())
    return "\n".join(lines)


def _unsaid(name: str, entry: Entry) -> list[str]:
    """Return what an entry is, but for what its folder's name says."""
    when = [] if entry.when[:10] in name else [entry.when]
    return [*when, *(text for text, words in entry.words if not all(word in name for word in words))]


def _typed(folder: Path) -> str:
    """Return a folder as it is typed here."""
    whole = folder.absolute()
    return str(whole.relative_to(Path.cwd()) if whole.is_relative_to(Path.cwd()) else folder)


def as_csv(entries: Sequence[Entry]) -> str:
    """Return a line for each entry, with a column for each score."""
    rows = [entry.row() for entry in entries]
    scores = list(dict.fromkeys(name for row in rows for name in row["scores"]))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    heads = [name for name in rows[0] if name != "scores"] if rows else []
    writer.writerow([*heads, *scores])
    for row in rows:
        values = [*(row[name] for name in heads), *(row["scores"].get(name, "") for name in scores)]
        values = [" ".join(value) if isinstance(value, list) else value for value in values]
        writer.writerow([trust.cell(value) if isinstance(value, str) else value for value in values])
    return text.getvalue()


# Two runs


def differences(one: Path, other: Path) -> dict[str, dict[str, tuple[str, str]]]:
    """Return what differs between two runs, by kind and name: options, knobs, images, source, versions, outcome.

    Raises:
        UserError: one of them is no run.
    """
    pair = [_run_in(folder).record for folder in (one, other)]
    for record in pair:
        digests = {kind: nested(record, kind, "sha256") for kind in ("content", "style", "init", "result")}
        record["images"] = {kind: str(digest)[:12] for kind, digest in digests.items()}
        ended = {"result": record["images"].pop("result"), "steps": record.get("steps")}
        ended["seconds"] = nested(record, "seconds", "total")
        record["outcome"] = {**(record.get("scores") or {}), **ended}
        record["config"] = resume.completed(record["config"])
    told = {
        "options": ("choices",),
        "configuration": ("config",),
        "bytes of images": ("images",),
        "source": ("git", "git_note", "own_code"),
        "versions": ("versions",),
        "machine": ("machine", "determinism", "computation"),
        "outcome": ("outcome",),
    }
    found = {what: resume.differences(*(_below(record, keys) for record in pair)) for what, keys in told.items()}
    return {what: changed for what, changed in found.items() if changed}


def _below(record: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """Return what stands under some keys, which name it only where there are several."""
    return {key: record.get(key) for key in keys} if len(keys) > 1 else record.get(keys[0]) or {}


def _run_in(folder: Path) -> Run:
    run = read_run(folder, folder.name)
    if "config" not in run.record:
        hint = " It is a sweep's; name two of the runs in it." if (folder / SWEEP_FILE).exists() else ""
        raise UserError(f"There is no record of a run in {folder}.{hint}")
    return run


def difference_table(found: Mapping[str, Mapping[str, tuple[str, str]]]) -> str:
    """Return differences as text, a line for each value."""
    if not found:
        return "No difference."
    lines = []
    for what, changed in found.items():
        lines.append(what)
        wide = max(map(len, changed))
        lines += [f"  {name:<{wide}}  {old}  ->  {new}" for name, (old, new) in changed.items()]
    return "\n".join(lines)


# Deleting


def outermost(entries: Sequence[Entry]) -> list[Entry]:
    """Leave out what lies within another entry."""
    given = {entry.folder.resolve() for entry in entries}
    return [entry for entry in entries if given.isdisjoint(entry.folder.resolve().parents)]


def why_kept(entry: Entry) -> str | None:
    """Return why an entry must not be deleted, or None: it is at work, or its folder holds what is not its own."""
    folder, here = entry.folder, platform.node()
    if folder.is_symlink():
        return "it is a link"
    if not _is_ours(entry):
        return "it has no record that a run leaves, run.json or status.json, so that it may be something else"
    if Path.cwd().is_relative_to(folder.resolve()):
        return "the current folder lies in it"
    for run in entry.runs:
        if run.times.get("status") == "running" and run.times.get("host", here) != here:
            return f"{run.name} is said to be running on {run.times['host']}, where this machine cannot look"
    homes = [parent for parent in folder.parents if (parent / SWEEP_FILE).is_file()]
    if any(is_claimed(path) for path in (folder, *homes, *(run.folder for run in entry.runs))):
        return "a process works in it"
    own = {run.folder for run in entry.runs if entry.sweep is not None} | {folder}
    planned = {folder / job["folder"] for job in (entry.sweep or {}).get("jobs", [])}
    for name, _, files in os.walk(folder):
        path = Path(name)
        is_job = path in planned or (path.parent == folder and path.name[:1].isdecimal())
        if {"run.json", "status.json", SWEEP_FILE} & {*files} and path != folder and not (path in own and is_job):
            return f"it holds another run or sweep, {path}"
    return None


def _is_ours(entry: Entry) -> bool:
    if entry.sweep is not None:
        return "jobs" in entry.sweep or "started" in entry.sweep
    run = entry.runs[0]
    return "status" in run.times or "config" in run.record


def delete(entry: Entry) -> None:
    """Delete the folder of a run or sweep, which no process may take meanwhile.

    Raises:
        UserError: it must not be deleted, or cannot be.
    """
    if why := why_kept(entry):
        raise UserError(f"{entry.folder} is not deleted: {why}.")
    with contextlib.ExitStack() as claims:
        for path in {entry.folder, *(run.folder for run in entry.runs)}:
            if path.is_dir():
                claims.callback(claim(path).release)
        shutil.rmtree(entry.folder, ignore_errors=True)
    with writing(entry.folder):
        if entry.folder.exists():  # its lock, which some systems keep while it is held; or there is an error to tell
            shutil.rmtree(entry.folder)
