"""The view: everything that the report shows of a collection of runs, as one mapping that JSON can hold.

It depends on the files alone: no time of making, no order of a directory, no absolute path where a relative one does.
"""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from nst import trust
from nst.files import sha256
from nst.report.axes import MISSING, Axis, canonical, find_axes, find_parameters, short_texts, value_of
from nst.report.citations import bibtex, networks, sample_file, sample_of
from nst.report.pictures import Pictures, draw
from nst.report.runs import STATUSES, Collection, Metrics, Run, look, mapping, number
from nst.runs import resume
from nst.samples import samples

CURVES = ("loss/total", "loss/content", "loss/style", "unweighted/content", "unweighted/style")
MOST_POINTS = 200  # of one curve
MOST_POINTS_IN_ALL = 60_000  # steps of all runs together, so that thousands of runs still make a page
# What a repetition must leave out: the folder is in use.
NOT_AGAIN = re.compile(r"\+{0,2}(hydra\.(run|sweep)\.dir|resume)=")
NOT_THE_RUN = re.compile(r"\+{0,2}(resume|report|title|question)=")  # typed, but about the sweep as a whole
INPUTS = ("content", "style", "init")
OF_NETWORKS = ("training_seconds", "seconds_per_picture", "break_even")  # columns that want a network to compare with
SCORES = {
    "content_distance": (
        "content distance",
        "lower",
        "Feature maps against the content image's: 0 is the content itself, 1 as far as the style image laid over it.",
    ),
    "style_distance": (
        "style distance",
        "lower",
        "Gram matrices against the style image's: 0 is the style itself, 1 as far as the untouched content image.",
    ),
    "ssim": ("SSIM", "higher", "Structural similarity of the luminance with the content image; 1 is the same."),
    "edge_correlation": (
        "edge correlation",
        "higher",
        "Correlation of edge strengths with the content image; 1 is the same.",
    ),
    "color_histogram_distance": (
        "colour distance",
        "lower",
        "Hellinger distance of the colour histogram from the style image's: 0 to 1, 0 is the same.",
    ),
    "total_variation": ("total variation", None, "Mean difference of neighbouring pixels; there is no best value."),
    "lpips": ("LPIPS", "lower", "Learned perceptual distance from the content image; 0 is the same."),
}
LOSSES = {
    "unweighted/content": ("content loss", "lower", "The run's own content loss at the end, without its weight."),
    "unweighted/style": ("style loss", "lower", "The run's own style loss at the end, without its weight."),
    "loss/total": (
        "total loss",
        None,
        "What was minimised; it compares only between runs with equal losses and weights.",
    ),
}


@dataclass(frozen=True)
class Input:
    """An input image as runs recorded it.

    Attributes:
        kind: ``content``, ``style``, ``init`` or ``mask``.
        name: as configured.
        file: its path when the run was made, if known.
        digest: its SHA-256, if known.
    """

    kind: str
    name: str
    file: str | None
    digest: str | None

    @property
    def sample(self) -> str | None:
        """The bundled sample that it is, or None."""
        return sample_of(self.name, self.file, self.digest)

    def find(self, folder: Path) -> Path | None:
        """Return where the image is now, with the bytes that were used, or None.

        Args:
            folder: of the runs; a bundle has the images beside them.
        """
        places = [Path(self.file)] if self.file else []
        if self.digest:
            places += sorted(folder.glob(f"inputs/{self.digest}.*"))
        for path in places:
            try:
                if self.digest and path.is_file() and sha256(path) == self.digest:
                    return path
            except (OSError, ValueError):
                continue
        return sample_file(self.sample, self.digest) if self.sample else None


@dataclass(frozen=True)
class Place:
    """Where the report lies, for links and commands.

    Attributes:
        folder: of the report; None for one that lies in a bundle, beside its runs.
    """

    folder: Path | None

    def link(self, run: Run, path: Path) -> str:
        """Return a URL of a run's file, relative to the report."""
        if self.folder is None:
            return quote(f"{run.name}/{path.name}")
        try:
            return quote(Path(os.path.relpath(path, self.folder)).as_posix())
        except ValueError:  # on another drive
            return path.absolute().as_uri()

    def folder_text(self, folder: Path, name: str, cwd: Any) -> str:
        """Return a folder as it is typed where its runs were started, or by its whole path if it lies elsewhere."""
        if self.folder is None:
            return name
        top = Path(cwd) if isinstance(cwd, str) and cwd else Path.cwd()
        return folder.relative_to(top).as_posix() if folder.is_relative_to(top) else str(folder)


def find_inputs(runs: Sequence[Run]) -> dict[str, Input]:
    """Return the input images of all runs, each once, as id to image: content0, content1, style0, ..."""
    found: dict[str, Input] = {}
    for kind in (*INPUTS, "mask"):
        ours: dict[str, Input] = {}
        for run in sorted(runs, key=lambda run: kind not in run.record):  # those with a SHA-256 first
            for image in [_input(run, kind), *_further_inputs(run, kind)]:
                if image and not any(_is_same(image, other) for other in ours.values()):
                    ours[f"{kind}{len(ours)}"] = image
        found |= ours
    return found


def draw_pictures(collection: Collection, budget: int) -> Pictures:
    """Draw the pictures of the runs and of their input images; see ``nst.report.pictures.draw``."""
    runs = collection.runs
    inputs = [image.find(collection.base) for image in find_inputs(runs).values()]
    return draw([run.picture for run in runs], [run.previews for run in runs], inputs, budget)


def make_view(
    collection: Collection,
    pictures: Pictures,
    place: Place,
    title: str | None = None,
    question: str | None = None,
) -> dict[str, Any]:
    """Return the view, which the page, the tables and the bundle are made of.

    Args:
        collection: the runs.
        pictures: theirs, from ``draw_pictures``.
        place: where the report will lie.
        title: in place of the sweep's own.
        question: likewise.
    """
    runs, sweep = collection.runs, collection.sweep
    axes = find_axes(collection)
    parameters = find_parameters(runs, axes)
    inputs = find_inputs(runs)
    columns = _columns(runs, parameters)
    shown = {key: _shown(runs, key) for key in parameters}
    counts = {status: sum(run.status == status for run in runs) for status in STATUSES}
    points = max(10, min(MOST_POINTS, MOST_POINTS_IN_ALL // max(1, len(runs))))
    view_runs = [
        _run_view(place_, run, collection, axes, inputs, columns, shown, pictures, place, points)
        for place_, run in enumerate(runs)
    ]
    started = sweep.get("started") or min((str(t) for run in runs if (t := run.times.get("started"))), default=None)
    return {
        "title": _text(title) or _told(collection, "title") or _default_title(collection, axes),
        "question": _text(question) or _told(collection, "question"),
        "command": _as_typed(sweep or (runs[0].record if len(runs) == 1 else {})),
        "again": _again(collection),
        "resume": _resume(collection, place),
        "started": _text(started),
        "counts": {status: count for status, count in counts.items() if count},
        "total": len(runs),
        "axes": [
            {
                "key": axis.key,
                "label": axis.key,
                "texts": list(axis.texts),
                "numbers": list(axis.numbers) if axis.numbers else None,
                "log": axis.log,
            }
            for axis in axes
        ],
        "inputs": [
            _input_view(name, image, thumb)
            for (name, image), thumb in zip(inputs.items(), pictures.thumbs, strict=True)
        ],
        "columns": columns,
        "pareto": _pareto(columns),
        "runs": view_runs,
        "licences": [_licence(image) for image in dict.fromkeys(inputs.values())],
        "networks": networks(runs),
        "bibtex": bibtex(runs),
        "notes": _notes(collection, pictures),
    }


def _run_view(
    number_: int,
    run: Run,
    collection: Collection,
    axes: Sequence[Axis],
    inputs: dict[str, Input],
    columns: Sequence[dict[str, Any]],
    shown: dict[str, dict[str, str]],
    pictures: Pictures,
    place: Place,
    points: int,
) -> dict[str, Any]:
    metrics = run.metrics
    places = [axis.place(run) for axis in axes]
    label = ", ".join(f"{a.key}={a.texts[p]}" for a, p in zip(axes, places, strict=True) if p is not None)
    sprite = pictures.sprites[number_]
    size = pictures.sizes[number_]
    full = run.picture if run.picture not in pictures.broken else None
    cwd = run.fact("cwd") or collection.sweep.get("cwd")
    where = place.folder_text(run.folder, run.name, cwd)
    return {
        "id": number_,
        "name": run.name,
        "label": label or run.name,
        "status": run.status,
        "reason": run.reason,
        "axis": places,
        "values": {column["key"]: _value(run, column, shown, metrics) for column in columns},
        **{kind: _input_id(run, kind, inputs) for kind in INPUTS},
        "sprite": {"src": sprite.src, "steps": sprite.steps, "width": sprite.width, "height": sprite.height}
        if sprite
        else None,
        "preview": pictures.finals[number_],
        "full": place.link(run, full) if full else None,
        "width": size[0] if size else sprite.width if sprite else None,
        "height": size[1] if size else sprite.height if sprite else None,
        "curves": _curves(metrics, points),
        "config": _yaml(run.record.get("config")),
        "overrides": [line for line in run.overrides if not NOT_THE_RUN.match(line)],
        "command": _command(run),
        "reproduce": shlex.join(["python", "scripts/reproduce.py", where]) if "result" in run.record else "",
        "provenance": _provenance(run, pictures),
    }


def _columns(runs: Sequence[Run], parameters: Sequence[str]) -> list[dict[str, Any]]:
    """Return the columns of the table, from left to right."""

    def column(key: str, label: str, kind: str, help_: str, better: str | None = None, **more: Any) -> dict[str, Any]:
        return {
            "key": key,
            "label": label,
            "kind": kind,
            "evaluator": None,
            "better": better,
            "unit": None,
            "help": help_,
        } | more

    columns = [column(key, key, "parameter", f"{key}, as configured.") for key in parameters]
    columns.append(column("status", "status", "status", "How the run ended."))
    evaluators = dict.fromkeys(evaluator for run in runs if (evaluator := _evaluator(run)))
    for evaluator in sorted(evaluators):
        names = {name for run in runs if _evaluator(run) == evaluator for name in mapping(run.record.get("scores"))}
        known = [name for name in SCORES if name in names]
        for name in [*known, *sorted(names - {*SCORES, "evaluator"})]:
            label, better, help_ = SCORES.get(name, (name.replace("_", " "), None, f"The score {name}."))
            columns.append(column(f"{evaluator}/{name}", label, "score", help_, better, evaluator=evaluator))
    for key, (label, better, help_) in LOSSES.items():
        if any(number(mapping(run.fact("final")).get(key)) is not None for run in runs):
            columns.append(column(key, label, "loss", help_, better))
    cost = {
        "seconds": ("time", "s", "Wall-clock time of the whole run."),
        "training_seconds": ("training", "s", "Time of training a network, and of painting what it learnt from."),
        "seconds_per_picture": (
            "time per picture",
            "s",
            "Time of the optimisation; of a network the median in which it paints, loading not counted.",
        ),
        "break_even": (
            "break-even",
            "pictures",
            "From how many pictures on training the network, and painting with it, is quicker than optimising each.",
        ),
        "seconds_per_step": ("time per step", "s", "Time of the optimisation divided by its steps."),
        "evaluations": ("evaluations", None, "Forward and backward passes."),
        "peak_memory_mb": ("peak memory", "MB", "Most memory the process used, in 10^6 bytes; on a GPU, the GPU's."),
    }
    for key, (label, unit, help_) in cost.items():
        is_needed = key not in OF_NETWORKS or any(number(run.fact("seconds_per_picture")) for run in runs)
        if is_needed and any(_cost(run, key) is not None for run in runs):
            columns.append(column(key, label, "cost", help_, "lower", unit=unit))
    return columns


def _value(run: Run, column: dict[str, Any], shown: dict[str, dict[str, str]], metrics: Metrics) -> float | str | None:
    """Return what stands in a run's row under a column."""
    key, kind = column["key"], column["kind"]
    if kind == "parameter":
        value = value_of(run, key)
        if value is MISSING:
            return None
        if isinstance(value, int | float) and not isinstance(value, bool):
            return value if math.isfinite(value) else str(value)
        return shown[key][canonical(value)]
    if kind == "status":
        return run.status
    if kind == "score":
        name = key.removeprefix(f"{column['evaluator']}/")
        return number(run.fact("scores", name)) if _evaluator(run) == column["evaluator"] else None
    if kind == "loss":
        value = number(mapping(run.fact("final")).get(key))
        if value is None and run.status == "done" and metrics.get(key):
            value = metrics[key][-1]
        return value
    return _cost(run, key)


def _cost(run: Run, key: str) -> float | None:
    if key == "seconds":
        return number(run.fact("seconds", "total"))
    if key == "seconds_per_picture" and (run.fact("config", "task") or "optimize") == "optimize":
        return number(run.fact("seconds", "optimisation"))
    if key == "seconds_per_step":
        seconds, steps = number(run.fact("seconds", "optimisation")), number(run.fact("steps"))
        return round(seconds / steps, 9) if seconds is not None and steps else None
    if key == "peak_memory_mb":
        peak = number(run.fact("peak_memory_bytes"))
        return round(peak / 1e6, 1) if peak is not None else None
    value = number(run.fact(key))
    return int(value) if value is not None and value.is_integer() else value


def _evaluator(run: Run) -> str | None:
    name = run.fact("scores", "evaluator")
    return name if isinstance(name, str) else None


def _pareto(columns: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Return the pair of columns to set against each other, for each evaluator that has both."""
    keys = {column["key"] for column in columns}
    pairs = []
    for evaluator in dict.fromkeys(column["evaluator"] for column in columns if column["evaluator"]):
        x, y = f"{evaluator}/content_distance", f"{evaluator}/style_distance"
        if x in keys and y in keys:
            pairs.append({"evaluator": evaluator, "x": x, "y": y})
    return pairs


def _shown(runs: Sequence[Run], key: str) -> dict[str, str]:
    """Return each value of a key, as canonical text, with the text to show for it."""
    values = (value_of(run, key) for run in runs)
    return short_texts(sorted({canonical(value) for value in values if value is not MISSING}))


def _curves(metrics: Metrics, points: int) -> dict[str, Any] | None:
    """Return a run's curves at no more than so many steps, in five significant digits."""
    count = len(metrics.get("step", []))
    if not count:
        return None
    kept = _thinned(count, points)

    def column(name: str) -> list[float | int | None]:
        return [_brief(metrics[name][row]) for row in kept] if name in metrics else [None] * len(kept)

    series = {name: column(name) for name in CURVES if name in metrics}
    return {**{name: column(name) for name in ("step", "evaluations", "seconds")}, "series": series}


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
    if value.is_integer() and abs(value) < 1e15:
        return int(value)
    return float(f"{value:.5g}")


def _command(run: Run) -> str:
    """Return the command that runs a job alone."""
    own = [part for folder in run.config_folders for part in ("--config-dir", folder)]
    lines = [line for line in run.overrides if not NOT_THE_RUN.match(line)]
    lines += ["hydra.mode=RUN"] if "study" in run.typed else []  # which would be a sweep else
    return shlex.join(["python", "run.py", *own, *lines])


def _again(collection: Collection) -> list[str]:
    """Return the commands that run everything anew, in a new folder: one for each time that points were added.

    A command is as it was typed, but for where it wrote.
    """
    grids = [grid for grid in _list(collection.sweep.get("grids")) if isinstance(grid, list) and grid]
    if len(grids) > 1:
        return list(dict.fromkeys(_anew(grid) for grid in grids))
    runs = collection.runs
    record = collection.sweep or (runs[0].record if len(runs) == 1 else {})
    command, arguments = _as_typed(record), _list(record.get("arguments"))
    if command is None:
        return []
    return [_anew(arguments)] if any(NOT_AGAIN.match(str(argument)) for argument in arguments) else [command]


def _as_typed(record: Mapping[str, Any]) -> str | None:
    """Return the recorded command; made anew of its words if a shell would do more than call the program."""
    command = _text(record.get("command"))
    if command is None or trust.is_one_command(command):
        return command
    return shlex.join(["python", "run.py", *map(str, _list(record.get("arguments")))])


def _anew(arguments: Sequence[Any]) -> str:
    return shlex.join(["python", "run.py", *(a for a in map(str, arguments) if not NOT_AGAIN.match(a))])


def _resume(collection: Collection, place: Place) -> str | None:
    """Return the command that carries on with a sweep, or with the only run, if something is left to do."""
    runs = collection.runs
    if place.folder is None or all(run.status == "done" for run in runs):
        return None
    folder = collection.sweep_folder or (runs[0].folder if len(runs) == 1 else None)
    if folder is None:
        return None
    cwd = collection.sweep.get("cwd") or runs[0].fact("cwd")
    return shlex.join(["python", "run.py", f"resume={place.folder_text(folder, folder.name, cwd)}"])


def _told(collection: Collection, key: str) -> str | None:
    """Return the title or question that the sweep was given, or all of the runs."""
    told = {_text(run.config.get(key)) for run in collection.runs if run.config}
    return _text(collection.sweep.get(key)) or (told.pop() if len(told) == 1 else None)


def _default_title(collection: Collection, axes: Sequence[Axis]) -> str:
    if len(collection.runs) == 1:
        return f"Run {collection.runs[0].name}"
    return f"Sweep over {_listed([axis.key for axis in axes])}" if axes else f"{len(collection.runs)} runs"


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _provenance(run: Run, pictures: Pictures) -> list[list[str]]:
    """Return what must be known to repeat a run, as label and text."""
    record, times = run.record, run.times
    git = mapping(record.get("git"))
    commit = git.get("commit")
    if commit and git.get("dirty"):
        kept = f" ({git['diff']})" if git.get("diff") else ""
        commit = f"{commit}, with changes that were not committed{kept}"
    result = mapping(record.get("result"))
    size = mapping(record.get("size"))
    lines: list[tuple[str, Any]] = [
        ("folder", run.name),
        ("started", times.get("started")),
        ("ended", times.get("ended")),
        ("resumed", _resumed(record.get("resumed"))),
        ("stopped because", record.get("stopped_because")),
        ("steps", record.get("steps")),
        ("evaluations", record.get("evaluations")),
        ("seed", run.config.get("seed")),
        ("size", f"{size['width']} x {size['height']} pixels" if {"width", "height"} <= size.keys() else None),
        ("result", _with_digest(result.get("file"), result.get("sha256"))),
        *((kind, _with_digest(look(record, kind, "name"), look(record, kind, "sha256"))) for kind in INPUTS),
        ("weights", _pairs(record.get("weights"))),
        ("network", _with_digest(look(record, "model", "file"), look(record, "model", "sha256"))),
        ("painted", _painted(mapping(record.get("applied")))),
        ("commit", commit),
        ("about the source", record.get("git_note")),
        ("own code", _pairs(record.get("own_code"))),
        ("versions", _pairs(record.get("versions"))),
        ("computed in", _pairs(record.get("computation"))),
        ("machine", _pairs(record.get("machine"))),
        ("determinism", _pairs(record.get("determinism"))),
        ("damaged", " ".join(_damage(run, pictures)) or None),
    ]
    return [[label, str(text)] for label, text in lines if text not in (None, "")]


def _painted(applied: Mapping[str, Any]) -> str | None:
    """Return how many pictures or frames a network has painted."""
    if "count" not in applied:
        return None
    kind, failed = applied.get("kind"), applied.get("failed")
    what = {"picture": "picture", "folder": "pictures of a folder"}.get(str(kind), f"frames of the {kind}")
    return f"{applied['count']} {what}" + (f", {failed} could not be read" if failed else "")


def _resumed(times: Any) -> str | None:
    """Return when a run was carried on with, and what was not as before."""
    texts = []
    for time in _list(times):
        changed = ", ".join(mapping(look(time, "changed")))
        but = f", with another {changed}" if changed else ""
        texts.append(f"at step {look(time, 'step')} ({look(time, 'time')}){but}")
    return "; ".join(texts) or None


def _with_digest(name: Any, digest: Any) -> str | None:
    if name is None:
        return None
    return f"{name} (SHA-256 {digest})" if digest else str(name)


def _pairs(value: Any) -> str | None:
    """Return a mapping on one line."""
    pairs = mapping(value)
    return ", ".join(f"{name} {canonical(item)}" for name, item in pairs.items() if item is not None) or None


def _input(run: Run, kind: str) -> Input | None:
    """Return an input image of a run: as recorded, or at least as configured."""
    about = mapping(run.record.get(kind))
    name = about.get("name") or (run.config.get("init.path") if kind == "init" else run.config.get(kind))
    return _recorded_input(kind, about, name)


def _further_inputs(run: Run, kind: str) -> list[Input | None]:
    """Return the second and further styles of a run, or its masks."""
    further = mapping(run.record.get("further_images")).items()
    return [
        _recorded_input(kind, mapping(about), mapping(about).get("name"))
        for knob, about in further
        if kind == ("style" if knob.startswith("style[") else "mask")
    ]


def _recorded_input(kind: str, about: Mapping[str, Any], name: Any) -> Input | None:
    if not isinstance(name, str) or not name:
        return None
    file, digest = about.get("file"), about.get("sha256")
    return Input(kind, name, file if isinstance(file, str) else None, digest if isinstance(digest, str) else None)


def _input_id(run: Run, kind: str, inputs: dict[str, Input]) -> str | None:
    image = _input(run, kind)
    return next((name for name, other in inputs.items() if image and _is_same(image, other)), None)


def _is_same(image: Input, other: Input) -> bool:
    """Tell whether two records are of one image: of the same bytes, or the same name where bytes are not known."""
    if image.kind != other.kind:
        return False
    both_known = image.digest is not None and other.digest is not None
    return image.digest == other.digest if both_known else image.name == other.name


def _input_view(name: str, image: Input, thumb: str | None) -> dict[str, Any]:
    about = samples()[image.sample] if image.sample else {}
    shown = image.sample or image.name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    facts = {key: about.get(key) for key in ("title", "author", "licence", "source")}
    return {"id": name, "kind": image.kind, "name": shown, **facts, "sha256": image.digest, "thumb": thumb}


def _licence(image: Input) -> str:
    """Return one line on an image: title, author, licence, source."""
    if not image.sample:
        name = image.name.replace("\\", "/").rpartition("/")[2]
        return f"{image.kind} {name}: not one of the bundled samples; name its author and licence yourself"
    about = samples()[image.sample]
    return f"{image.kind} {image.sample}: {about['title']}, {about['author']}, {about['licence']} ({about['source']})"


def _damage(run: Run, pictures: Pictures) -> list[str]:
    """Return what of a run cannot be read, one sentence each."""
    _ = run.metrics  # reading them may add a note
    notes = list(run.notes)
    files = [*([run.picture] if run.picture else []), *run.previews.values()]
    names = [path.relative_to(run.folder).as_posix() for path in files if path in pictures.broken]
    return [*notes, f"{', '.join(names)} cannot be read as a picture."] if names else notes


def _notes(collection: Collection, pictures: Pictures) -> list[str]:
    """Return what a reader should know: damaged files, and runs that do not come from the same place."""
    runs = collection.runs
    notes = [*collection.notes, *pictures.notes]
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
    if any(mapping(look(time, "changed")) for run in runs for time in _list(run.fact("resumed"))):
        notes.append("Some of the runs were carried on with in another environment than they were begun in.")
    if any(run.fact("git", "dirty") for run in runs):
        notes.append("Some of the code was not committed when the runs were made.")
    evaluators = sorted({name for run in runs if (name := _evaluator(run))})
    if len(evaluators) > 1:
        notes.append(f"Scores of different evaluators do not compare: {', '.join(evaluators)}.")
    return notes


def _yaml(config: Any) -> str:
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    if not isinstance(config, dict):
        return ""
    return str(yaml.dump(config, Dumper=dumper, sort_keys=False, allow_unicode=True))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str | None:
    return str(value).strip() or None if value is not None else None
