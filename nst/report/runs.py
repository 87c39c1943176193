"""The runs of a report: whatever their folders hold, complete, half-written or not even begun."""

import csv
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from nst import trust
from nst.configuration import recipes
from nst.errors import UserError
from nst.files import is_claimed
from nst.runs import folders
from nst.runs.folders import SWEEP_FILE
from nst.runs.notes import Notes, notes_in

STATUSES = ("done", "running", "interrupted", "failed", "out_of_memory", "skipped", "not started", "unknown")
PICTURES = ("result", "interrupted", "best")  # the one to show, by preference
SUFFIXES = (".png", ".jpg")
Metrics = dict[str, list[float | None]]  # column name to one value a row; None where it is no finite number


@dataclass
class Run:
    """One run as its folder tells of it."""

    folder: Path  # where it is, or would be: a job that was planned but never started has none
    name: str  # the folder relative to that of the whole collection, with forward slashes
    # one of ``STATUSES``: those of ``status.json``, ``not started`` for a job that was only planned, and ``unknown``
    # where the files do not tell
    status: str = "not started"
    # why it is not done, in words; empty for a finished run
    reason: str = "The job was planned, and has not been started."
    # ``run.json``; what is known without it (configuration, choices) if it cannot be read
    record: dict[str, Any] = field(default_factory=dict)
    times: dict[str, Any] = field(default_factory=dict)  # ``status.json``
    overrides: list[str] = field(default_factory=list)  # what was typed for this run, as ``key=value``
    notes: list[str] = field(default_factory=list)  # files that could not be read, one sentence each
    own: Notes = field(default_factory=Notes)  # what somebody says of it

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved configuration, flat: dotted key to value; lists are values."""
        return dict(_flat(self.record.get("config", {})))

    @cached_property
    def choices(self) -> dict[str, str]:
        """The option chosen of each group."""
        chosen = self.record.get("choices", {})
        return {str(k): "none" if v in (None, "None", "null") else str(v) for k, v in chosen.items()}

    @cached_property
    def typed(self) -> dict[str, str]:
        """The overrides as key to text; a key that was taken away (``~key``) has an empty text."""
        pairs = (line.partition("=") for line in self.overrides)
        return {key.lstrip("+~").partition("@")[0]: text for key, _, text in pairs}

    @property
    def config_folders(self) -> list[str]:
        """The folders of own options that were given with ``--config-dir``."""
        return list(self.record.get("config_folders", []))

    @cached_property
    def metrics(self) -> Metrics:
        """``metrics.csv`` by column; empty if there is none. What is damaged in it is noted."""
        return _read_metrics(self.folder / "metrics.csv", self.notes)

    @cached_property
    def picture(self) -> Path | None:
        """The picture to show at full size: the result, or what an unfinished run left; None if there is none."""
        names = [self.fact("result", "file"), *(name + suffix for name in PICTURES for suffix in SUFFIXES)]
        paths = [self.folder / name for name in names if name]
        return next((path for path in paths if trust.is_inside(self.folder, path)), None)

    @cached_property
    def previews(self) -> dict[int, Path]:
        """Step to small picture, in order."""
        try:
            listed = [path for path in (self.folder / "previews").glob("*.jpg") if path.stem.isdecimal()]
            return dict(sorted((int(path.stem), path) for path in listed if trust.is_inside(self.folder, path)))
        except OSError:
            return {}

    def fact(self, *keys: str) -> Any:
        """Return what the record holds under nested keys, or None."""
        return nested(self.record, *keys)


@dataclass
class Collection:
    """The runs of a report."""

    base: Path  # the folder that run names are relative to
    runs: list[Run]  # by name, numbers in it counted as numbers
    sweep: dict[str, Any] = field(default_factory=dict)  # ``sweep.json`` if the runs are those of one sweep, else empty
    sweep_folder: Path | None = None  # of that sweep
    notes: list[str] = field(default_factory=list)  # what could not be read, beside what the runs tell

    @property
    def launch(self) -> dict[str, Any]:
        """What is recorded of the command: of the sweep, or of the only run; empty for runs picked by hand."""
        return self.sweep or (self.runs[0].record if len(self.runs) == 1 else {})


def collect(paths: Sequence[Path]) -> Collection:
    """Read every run in folders, of sweeps, runs or what holds any of them, and the jobs that their sweeps planned.

    Raises UserError if a path is no folder, or there is no run in any of them.
    """
    tops = [_existing_folder(path) for path in paths]
    places: dict[Path, list[str]] = {}  # folder of a run or planned job to what was planned for it
    sweeps: dict[Path, dict[str, Any]] = {}
    notes: list[str] = []
    for begun, planned in map(folders.find, tops):
        for folder in planned:
            content, wrong = trust.record(folder / SWEEP_FILE)
            notes += [wrong] if wrong else []
            sweeps[folder] = trust.seen(content)
            places |= {folder / job["folder"]: job["overrides"] for job in sweeps[folder].get("jobs", [])}
        places = {folder: [] for folder in begun} | places
    if not places:
        raise UserError(
            f"There is no run in {', '.join(map(str, paths))}. A run's folder holds status.json, run.json or "
            "metrics.csv; give the folder of a sweep or of runs, such as outputs/multirun/DATE/TIME."
        )
    base = _base(tops, list(places))
    runs = [read_run(folder, _name(folder, base), lines) for folder, lines in places.items()]
    runs.sort(key=lambda run: folders.in_order(run.name))
    collection = Collection(base, runs, notes=notes)
    if len(sweeps) == 1:
        ((folder, facts),) = sweeps.items()
        if all(run.folder.is_relative_to(folder) for run in runs):
            collection.sweep, collection.sweep_folder = facts, folder
    return collection


def read_run(folder: Path, name: str, planned: Iterable[str] = ()) -> Run:
    """Read what a run's folder, which need not exist, holds; ``planned`` are the overrides of its sweep's plan."""
    run = Run(folder, name, overrides=list(planned))
    if not _has_begun(folder):
        return run
    found = folders.read(folder)
    # control characters, which nobody would see, are written out
    run.times, run.record, run.notes = trust.seen(found.status), trust.seen(found.record), found.notes
    if "config" not in run.record:
        run.record = _hydra_record(folder) | run.record
    run.overrides = run.record.get("overrides") or run.overrides
    run.own = notes_in(folder)
    run.status, run.reason = _status(run)
    return run


def number(value: Any) -> float | None:
    """Return a finite number, given as one or as text, or None; truth values are none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def nested(value: Any, *keys: str) -> Any:
    """Return what stands under nested keys, or None."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _existing_folder(path: Path) -> Path:
    if path.is_dir():
        return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links, and names are for people
    if path.exists():
        raise UserError(f"{path} is a file; give the folder of a sweep or of a run.")
    raise UserError(f"There is no folder {path} (looked in {Path.cwd()}).")


def _base(tops: Sequence[Path], runs: list[Path]) -> Path:
    """Return the folder that run names are relative to: the one given, or the nearest that holds all runs."""
    if len(tops) == 1:
        return tops[0].parent if tops[0] in runs else tops[0]
    try:
        return Path(os.path.commonpath([run.parent for run in runs]))
    except ValueError:  # on several drives
        return runs[0].parent


def _name(folder: Path, base: Path) -> str:
    """Return a run's name; one on another drive is called by its whole path."""
    inside = folder.relative_to(base) if folder.is_relative_to(base) else Path(*folder.parts[1:])
    return inside.as_posix()


def _has_begun(folder: Path) -> bool:
    try:
        return folder.is_dir() and any(folder.iterdir())
    except OSError:
        return True


def _read_metrics(path: Path, notes: list[str]) -> Metrics:
    """Read a ``metrics.csv``: whole lines, since the last number may be cut, that fit the header, each step once."""
    try:
        with trust.opened(path) as file:
            text = file.read().decode("utf-8", "replace")
    except OSError as error:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            notes.append(f"metrics.csv cannot be read: {error.strerror or error}.")
        return {}
    whole = text[: text.rfind("\n") + 1].replace("\0", "")
    rows: list[list[str]] = []
    skipped = bool(text[len(whole) :].strip()) + text.count("\0")
    try:
        rows.extend(csv.reader(io.StringIO(whole)))
    except csv.Error:
        skipped += 1
    if not rows or "step" not in rows[0]:
        notes.append("metrics.csv is damaged: it has no header.")
        return {}
    header, place = rows[0], rows[0].index("step")
    kept: list[list[str]] = []
    for row in rows[1:]:
        step = number(row[place]) if len(row) == len(header) else None
        if step is None:
            skipped += row != header and bool(row)
            continue
        while kept and float(kept[-1][place]) >= step:
            kept.pop()
        kept.append(row)
    if skipped:
        notes.append(f"metrics.csv is damaged: {skipped} line{'s' * (skipped > 1)} of it cannot be read.")
    return {name: [number(row[i]) for row in kept] for i, name in enumerate(header)}


def _hydra_record(folder: Path) -> dict[str, Any]:
    """Return what Hydra itself wrote down of a run that left no record: configuration, choices and overrides."""
    config, lines, own = (_read_yaml(folder / ".hydra" / f"{name}.yaml") for name in ("config", "overrides", "hydra"))
    choices = nested(own, "hydra", "runtime", "choices")
    record: dict[str, Any] = {"config": config} if isinstance(config, dict) else {}
    record |= {"overrides": [str(line) for line in lines]} if isinstance(lines, list) else {}
    return record | ({"choices": recipes.recorded(choices)} if isinstance(choices, dict) else {})


def _read_yaml(path: Path) -> Any:
    try:
        with trust.opened(path) as file:
            content = yaml.load(file.read().decode(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        return trust.seen(content)
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return None


def _status(run: Run) -> tuple[str, str]:
    """Return a begun run's status and the reason why it is not done."""
    status = run.times.get("status")
    if status == "done" or (status is None and "result" in run.record and run.picture is not None):
        return "done", ""
    reason = (run.times.get("reason") or run.times.get("error") or "").strip()
    if status == "running" and is_claimed(run.folder):
        return "running", "It was still running when the report was made."
    if status == "running":
        return "interrupted", "Its process was killed (by the system if memory ran out, or by hand)."
    if status is not None:
        return (status if status in STATUSES else "unknown"), reason or f"Its status is {status}."
    return "unknown", "There is no readable status.json: the job was stopped before it began, or a file is damaged."


def _flat(config: Mapping[Any, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in config.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, dict) and value:
            yield from _flat(value, name)
        else:
            yield name, value
