"""The view: everything that the report shows of a collection of runs, as one mapping that JSON can hold.

It depends on the files alone: no time of making, no order of a directory, no absolute path where a relative one does.
"""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from nst import trust
from nst.report.axes import Axis, canonical, find_axes, find_parameters, short_texts, values_of
from nst.report.citations import bibtex, networks
from nst.report.columns import columns_of, evaluator_of, value_in
from nst.report.inputs import KINDS, Input, find_inputs, inputs_of
from nst.report.pairs import pair_of, trade_offs
from nst.report.pictures import Pictures, draw
from nst.report.runs import STATUSES, Collection, Metrics, Run, nested
from nst.runs import resume
from nst.runs.notes import Notes, notes_in

CURVES = ("loss/total", "loss/content", "loss/style", "unweighted/content", "unweighted/style")
MOST_POINTS = 200  # of one curve
MOST_POINTS_IN_ALL = 60_000  # steps of all runs together, so that thousands of runs still make a page
# What a repetition must leave out: the folder is in use.
NOT_AGAIN = re.compile(r"\+{0,2}(hydra\.(run|sweep)\.dir|resume)=")
NOT_THE_RUN = re.compile(r"\+{0,2}(resume|report|title|question)=")  # typed, but about the sweep as a whole


@dataclass(frozen=True)
class Place:
    """Where the report lies, for links and commands."""

    folder: Path | None  # of the report; None for one that lies in a bundle, beside its runs

    def link(self, run: Run, path: Path) -> str:
        """Return a URL of a run's file, relative to the report."""
        if self.folder is None:
            return quote(f"{run.name}/{path.name}")
        try:
            return quote(Path(os.path.relpath(path, self.folder)).as_posix())
        except ValueError:  # on another drive
            return path.absolute().as_uri()

    def folder_text(self, folder: Path, name: str, cwd: str | None) -> str:
        """Return a folder as it is typed where its runs were started, or by its whole path if it lies elsewhere."""
        if self.folder is None:
            return name
        top = Path(cwd) if cwd else Path.cwd()
        return folder.relative_to(top).as_posix() if folder.is_relative_to(top) else str(folder)


def draw_pictures(collection: Collection, budget: int) -> Pictures:
    """Draw the pictures of the runs and of their input images; see ``nst.report.pictures.draw``."""
    runs = collection.runs
    inputs = [image.find(collection.base) for image in find_inputs(runs).values()]
    return draw([run.picture for run in runs], [run.previews for run in runs], inputs, budget)


@dataclass
class _Shared:
    """What the views of all runs are made with; ``texts`` has what to show for each value of a parameter."""

    collection: Collection
    pictures: Pictures
    place: Place
    axes: list[Axis]
    inputs: dict[str, Input]
    columns: list[dict[str, Any]]
    texts: dict[str, dict[str, str]]
    pairs: list[tuple[str, ...]]  # of images, as ids


def make_view(
    collection: Collection, pictures: Pictures, place: Place, title: str | None = None, question: str | None = None
) -> dict[str, Any]:
    """Return the view, which the page, the tables and the bundle are made of.

    The pictures are from ``draw_pictures``; a title or question takes the place of the sweep's own.
    """
    runs, sweep = collection.runs, collection.sweep
    axes, inputs = find_axes(collection), find_inputs(runs)
    parameters = find_parameters(runs, axes)
    columns, texts = columns_of(runs, parameters), {key: short_texts(values_of(runs, key)) for key in parameters}
    pairs = list(dict.fromkeys(pair for run in runs if (pair := pair_of(run, inputs))))
    shared = _Shared(collection, pictures, place, axes, inputs=inputs, columns=columns, texts=texts, pairs=pairs)
    of_runs = [_run_view(number, run, shared) for number, run in enumerate(runs)]
    counts = {status: sum(run.status == status for run in runs) for status in STATUSES}
    thumbs = zip(inputs.items(), pictures.thumbs, strict=True)
    return {
        "title": _text(title) or _common(collection, "title") or _default_title(collection, axes),
        "question": _text(question) or _common(collection, "question"),
        "command": _commands(collection.launch),
        "again": _again(collection),
        "resume": _resume(collection, place),
        "started": sweep.get("started") or min((t for run in runs if (t := run.times.get("started"))), default=None),
        "counts": {status: count for status, count in counts.items() if count},
        "total": len(runs),
        "axes": [_axis_view(axis) for axis in axes],
        "inputs": [image.view(number, thumb) for (number, image), thumb in thumbs],
        "columns": columns,
        "pairs": [" and ".join(inputs[name].short for name in pair) for pair in pairs],
        "pareto": trade_offs(columns, of_runs),
        "runs": of_runs,
        "licences": [image.licence() for image in dict.fromkeys(inputs.values())],
        "networks": networks(runs),
        "bibtex": bibtex(runs),
        "notes": _notes(collection, pictures),
    }


def _axis_view(axis: Axis) -> dict[str, Any]:
    numbers = list(axis.numbers) if axis.numbers else None
    return {"key": axis.key, "label": axis.key, "texts": list(axis.texts), "numbers": numbers, "log": axis.log}


def _run_view(number: int, run: Run, shared: _Shared) -> dict[str, Any]:
    collection, pictures, place = shared.collection, shared.pictures, shared.place
    places = [axis.place(run) for axis in shared.axes]
    label = ", ".join(f"{a.key}={a.texts[p]}" for a, p in zip(shared.axes, places, strict=True) if p is not None)
    sprite = pictures.sprites[number]
    width, height = pictures.sizes[number] or ((sprite.width, sprite.height) if sprite else (None, None))
    full = run.picture if run.picture not in pictures.broken else None
    where = place.folder_text(run.folder, run.name, run.fact("cwd") or collection.sweep.get("cwd"))
    images = pair_of(run, shared.inputs)
    points = max(10, min(MOST_POINTS, MOST_POINTS_IN_ALL // len(collection.runs)))
    return {
        "id": number,
        "name": run.name,
        "label": label or run.name,
        "status": run.status,
        "reason": run.reason,
        "axis": places,
        "values": {column["key"]: value_in(column, run, shared.texts) for column in shared.columns},
        **{kind: _input_id(run, kind, shared.inputs) for kind in KINDS},
        "pair": shared.pairs.index(images) if images else None,
        "sprite": asdict(sprite) if sprite else None,
        "preview": pictures.finals[number],
        "full": place.link(run, full) if full else None,
        "width": width,
        "height": height,
        "curves": _curves(run.metrics, points),
        "config": _yaml(run.record.get("config")),
        "overrides": [line for line in run.overrides if not NOT_THE_RUN.match(line)],
        "command": _command(run),
        "reproduce": shlex.join(["python", "scripts/reproduce.py", where]) if "result" in run.record else "",
        "provenance": _provenance(run, pictures),
    }


def _input_id(run: Run, kind: str, inputs: dict[str, Input]) -> str | None:
    image = next((image for image in inputs_of(run) if image.kind == kind), None)
    return next((name for name, other in inputs.items() if image and image.is_same(other)), None)


def _curves(metrics: Metrics, points: int) -> dict[str, Any] | None:
    """Return a run's curves at no more than so many steps, in five significant digits; None where there are none."""
    if not (count := len(metrics.get("step", []))):
        return None
    kept = _thinned(count, points)
    columns = {name: [_brief(values[row]) for row in kept] for name, values in metrics.items()}
    series = {name: columns[name] for name in CURVES if name in columns}
    return {name: columns.get(name, [None] * len(kept)) for name in ("step", "evaluations", "seconds")} | {
        "series": series
    }


def _thinned(count: int, most: int) -> list[int]:
    """Return at most so many rows: most of them evenly spread, some towards the start, where curves bend."""
    if count <= most:
        return list(range(count))
    early = most // 4
    spread = {round(i * (count - 1) / (most - early - 1)) for i in range(most - early)}
    return sorted(spread | {round(count ** (i / early)) - 1 for i in range(early)})


def _brief(value: float | None) -> float | int | None:
    if value is None:
        return None
    return int(value) if value.is_integer() and abs(value) < 1e15 else float(f"{value:.5g}")


def _command(run: Run) -> str:
    """Return the command that runs a job alone."""
    own = [part for folder in run.config_folders for part in ("--config-dir", folder)]
    lines = [line for line in run.overrides if not NOT_THE_RUN.match(line)]
    lines += ["hydra.mode=RUN"] if "study" in run.typed else []  # which would be a sweep else
    return shlex.join(["python", "run.py", *own, *lines])


def _again(collection: Collection) -> list[str]:
    """Return the commands that run everything anew, as it is today, in a new folder: one for each grid of a sweep.

    The grids have the steps that were added since; what was typed at first has not.
    """
    grids, launch = [grid for grid in collection.sweep.get("grids", []) if grid], collection.launch
    if len(grids) > 1 or (grids and launch.get("resumed")):
        return list(dict.fromkeys(map(_in_new_folder, grids)))
    if launch.get("resumed") and not collection.sweep:
        return [_command(collection.runs[0])]
    command, arguments = _as_typed(launch), launch.get("arguments", [])
    if command is None:
        return []
    return [_in_new_folder(arguments)] if any(map(NOT_AGAIN.match, arguments)) else [command]


def _commands(launch: Mapping[str, Any]) -> str | None:
    """Return the command that was begun with, and below it those that carried on, each once."""
    later = [_text(time.get("command")) for time in launch.get("resumed", [])]
    lines = [_as_typed(launch), *(line for line in later if line and trust.is_one_command(line))]
    return "\n".join(dict.fromkeys(filter(None, lines))) or None


def _as_typed(launch: Mapping[str, Any]) -> str | None:
    """Return the recorded command; made anew of its words if a shell would do more than call the program."""
    command = _text(launch.get("command"))
    if command is None or trust.is_one_command(command):
        return command
    return shlex.join(["python", "run.py", *launch.get("arguments", [])])


def _in_new_folder(arguments: Sequence[str]) -> str:
    return shlex.join(["python", "run.py", *(word for word in arguments if not NOT_AGAIN.match(word))])


def _resume(collection: Collection, place: Place) -> str | None:
    """Return the command that carries on with a sweep, or with the only run, if something is left to do."""
    runs = collection.runs
    folder = collection.sweep_folder or (runs[0].folder if len(runs) == 1 else None)
    if place.folder is None or folder is None or all(run.status == "done" for run in runs):
        return None
    cwd = collection.sweep.get("cwd") or runs[0].fact("cwd")
    return shlex.join(["python", "run.py", f"resume={place.folder_text(folder, folder.name, cwd)}"])


def _common(collection: Collection, key: str) -> str | None:
    """Return the title or question that the sweep was given, or all of the runs."""
    found = {_text(run.config.get(key)) for run in collection.runs if run.config}
    return _text(collection.sweep.get(key)) or (found.pop() if len(found) == 1 else None)


def _default_title(collection: Collection, axes: Sequence[Axis]) -> str:
    if len(collection.runs) == 1:
        return f"Run {collection.runs[0].name}"
    *others, last = [axis.key for axis in axes] or [""]
    swept = " and ".join(filter(None, [", ".join(others), last]))
    if collection.sweep and axes:
        return f"Sweep over {swept}"
    return f"{len(collection.runs)} runs{': ' * bool(axes)}{swept}"  # picked by hand, or of several sweeps


def _provenance(run: Run, pictures: Pictures) -> list[list[str]]:
    """Return what must be known to repeat a run, as label and text."""
    record, size = run.record, run.record.get("size") or {}
    lines = {
        "folder": run.name,
        "started": run.times.get("started"),
        "ended": run.times.get("ended"),
        "resumed": _resumed(record.get("resumed", [])),
        "stopped because": record.get("stopped_because"),
        "steps": record.get("steps"),
        "evaluations": record.get("evaluations"),
        "seed": run.config.get("seed"),
        "size": f"{size['width']} x {size['height']} pixels" if {"width", "height"} <= size.keys() else None,
        "result": _with_digest(run, "result", "file"),
        **{kind: _with_digest(run, kind, "name") for kind in KINDS},
        "weights": _pairs(run, "weights"),
        "network": _with_digest(run, "model", "file"),
        "painted": _painted(run),
        "commit": _commit(run),
        "about the source": record.get("git_note"),
        "own code": _pairs(run, "own_code"),
        "versions": _pairs(run, "versions"),
        "computed in": _pairs(run, "computation"),
        "machine": _pairs(run, "machine"),
        "determinism": _pairs(run, "determinism"),
        "damaged": " ".join(_damage(run, pictures)),
    }
    return [[label, str(text)] for label, text in lines.items() if text not in (None, "")]


def _commit(run: Run) -> str | None:
    commit, diff = run.fact("git", "commit"), run.fact("git", "diff")
    if commit and run.fact("git", "dirty"):
        return f"{commit}, with changes that were not committed{f' ({diff})' if diff else ''}"
    return commit


def _painted(run: Run) -> str | None:
    """Return how many pictures or frames a network has painted."""
    count, kind, failed = (run.fact("applied", key) for key in ("count", "kind", "failed"))
    if count is None:
        return None
    what = {"picture": "picture", "folder": "pictures of a folder"}.get(str(kind), f"frames of the {kind}")
    return f"{count} {what}" + (f", {failed} could not be read" if failed else "")


def _resumed(times: Sequence[Mapping[str, Any]]) -> str:
    """Return when a run was carried on with, and what was not as before."""
    texts = []
    for time in times:
        changed = time.get("changed")
        but = f", with another {', '.join(changed)}" if changed and isinstance(changed, dict) else ""
        texts.append(f"at step {time.get('step')} ({time.get('time')}){but}")
    return "; ".join(texts)


def _with_digest(run: Run, kind: str, key: str) -> str | None:
    name, digest = run.fact(kind, key), run.fact(kind, "sha256")
    return f"{name} (SHA-256 {digest})" if name is not None and digest else name


def _pairs(run: Run, key: str) -> str:
    """Return a recorded mapping on one line."""
    pairs = (run.record.get(key) or {}).items()
    return ", ".join(f"{name} {canonical(item)}" for name, item in pairs if item is not None)


def _damage(run: Run, pictures: Pictures) -> list[str]:
    """Return what of a run cannot be read, one sentence each."""
    _ = run.metrics  # reading them may add a note
    files = [*([run.picture] if run.picture else []), *run.previews.values()]
    names = [path.relative_to(run.folder).as_posix() for path in files if path in pictures.broken]
    return [*run.notes, *([f"{', '.join(names)} cannot be read as a picture."] if names else [])]


def _notes(collection: Collection, pictures: Pictures) -> list[str]:
    """Return what a reader should know: damaged files, and runs that do not come from the same place."""
    runs = collection.runs
    own = notes_in(collection.sweep_folder) if collection.sweep_folder else Notes()
    notes = [f"Tags of the sweep: {', '.join(own.tags)}."] if own.tags else []
    notes += [*([own.note] if own.note else []), *collection.notes, *pictures.notes]
    notes += [f"{run.name}: {note}" for run in runs for note in _damage(run, pictures)]
    for what, keys in {
        "commits": ("git", "commit"),
        "versions of torch": ("versions", "torch"),
        "devices": ("machine", "device_name"),
        "precisions": ("computation", "precision"),
    }.items():
        found = sorted({str(value) for run in runs if (value := run.fact(*keys)) is not None})
        if len(found) > 1:
            notes.append(f"The runs were made with different {what}: {', '.join(found)}.")
    notes += [f"Mind: {note}" for note in resume.changed_inputs(run.record for run in runs)]
    if any(nested(time, "changed") for run in runs for time in run.record.get("resumed", [])):
        notes.append("Some of the runs were carried on with in another environment than they were begun in.")
    if any(run.fact("git", "dirty") for run in runs):
        notes.append("Some of the code was not committed when the runs were made.")
    evaluators = sorted({name for run in runs if (name := evaluator_of(run))})
    if len(evaluators) > 1:
        notes.append(f"Scores of different evaluators do not compare: {', '.join(evaluators)}.")
    return notes


def _yaml(config: dict[str, Any] | None) -> str:
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return str(yaml.dump(config, Dumper=dumper, sort_keys=False, allow_unicode=True)) if config is not None else ""


def _text(value: Any) -> str | None:
    return str(value).strip() or None if value is not None else None
