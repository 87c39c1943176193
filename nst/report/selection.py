"""What figures show: which runs, along which axes they lie, which of them repeat each other, and which share images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from nst.errors import UserError, unknown
from nst.report.axes import Axis, find_axes
from nst.report.filters import LOOKS_LIKE_ONE, facts_of, matching
from nst.report.inputs import Input, inputs_of
from nst.report.runs import Collection, Run

SEED = "seed"  # runs that differ in it alone repeat each other
OF_A_PAIR = ("content", "style", "pair")  # axes along which scores do not compare
MOST_PAIRS = 6  # of images in a chart that has panels for each
NAMED = 8  # runs in a message
MOST_COLUMNS = 8  # which a page has room for; more of them make rows, unless that is asked for


@dataclass(frozen=True)
class Selection:
    """Runs to show, and how they lie."""

    collection: Collection  # of these runs alone
    seeds: Axis | None  # along which runs repeat each other
    rows: Axis | None  # of the grid
    columns: Axis | None
    others: list[Axis]  # a grid for each value of these
    knobs: list[Axis]  # along which scores compare
    along: Axis | None  # the one of these that is x of a chart

    @property
    def runs(self) -> list[Run]:
        """All of them."""
        return self.collection.runs

    @property
    def finished(self) -> list[Run]:
        """Those that are done; all of them if none is."""
        return [run for run in self.runs if run.status == "done"] or self.runs

    def pairs(self) -> dict[str, list[Run]]:
        """Return the finished runs by their pair of images, whose name has what differs between pairs."""
        of: dict[tuple[Input, ...], list[Run]] = {}
        for run in self.finished:
            images = tuple(image for image in inputs_of(run) if image.kind in OF_A_PAIR)
            known = next(
                (one for one in of if len(one) == len(images) and all(map(Input.is_same, one, images))), images
            )
            of.setdefault(known, []).append(run)
        shown = [kind for kind in OF_A_PAIR if len({tuple(i for i in one if i.kind == kind) for one in of}) > 1]
        names: dict[str, list[Run]] = {}
        for one, runs in of.items():
            name = ", ".join(image.short for image in one if image.kind in shown)
            names[name if name not in names else f"{name} ({len(names) + 1})"] = runs
        return names


@dataclass(frozen=True)
class Looks:
    """How curves are told apart: by colour and by kind of line; ``of`` has the places of both by a run's name."""

    texts: tuple[list[str], list[str]]
    of: dict[str, tuple[int, int]]

    def grouped(self, runs: Sequence[Run]) -> dict[tuple[int, int], list[Run]]:
        """Return runs that look alike together, in the order of the legends."""
        groups: dict[tuple[int, int], list[Run]] = {}
        for run in sorted(runs, key=lambda run: self.of[run.name]):
            groups.setdefault(self.of[run.name], []).append(run)
        return groups


def looks(chosen: Selection, colours: Sequence[Axis], by_pair: bool = False) -> Looks:
    """Tell runs apart by colours along some axes, and pairs of images if wanted, and by lines along the other knobs.

    The knob that makes the x axis of a chart is none of these, unless it is among ``colours``.
    """
    lines = [axis for axis in chosen.knobs if axis not in colours and axis is not chosen.along]
    pairs = list(chosen.pairs().items())
    pair_of = {run.name: number for number, (_, runs) in enumerate(pairs) for run in runs} if by_pair else {}
    keys = {
        run.name: (
            (pair_of.get(run.name, 0), *(place(axis, run) for axis in colours)),
            tuple(place(axis, run) for axis in lines),
        )
        for run in chosen.finished
    }
    firsts, seconds = sorted({key for key, _ in keys.values()}), sorted({key for _, key in keys.values()})
    named = [[pairs[key[0]][0]] if by_pair and len(pairs) > 1 else [] for key in firsts]
    texts = [", ".join([*name, *_described(colours, key[1:])]) for name, key in zip(named, firsts, strict=True)]
    of = {name: (firsts.index(first), seconds.index(second)) for name, (first, second) in keys.items()}
    return Looks((texts, [", ".join(_described(lines, key)) for key in seconds]), of)


def _described(axes: Sequence[Axis], places: Sequence[int]) -> list[str]:
    return [f"{axis.key} = {text_at(axis, where)}" for axis, where in zip(axes, places, strict=True)]


def place(axis: Axis | None, run: Run) -> int:
    """Return where a run stands on an axis; -1 if it has no value there, or there is no axis."""
    where = axis.place(run) if axis is not None else None
    return -1 if where is None else where


def text_at(axis: Axis, where: int) -> str:
    """Return a value of an axis for people."""
    return axis.texts[where] if where >= 0 else "none"


def choose(
    collection: Collection, words: Sequence[str] = (), rows: str | None = None, columns: str | None = None
) -> Selection:
    """Find the runs that words name, and the axes along which they lie; see ``select``.

    The axis typed first makes the rows, as on the page, and a single one the columns. Repetitions lie on no axis of the
    grid unless that is asked for, or nothing else differs.

    Raises:
        UserError: there is no such run or axis.
    """
    collection = replace(collection, runs=select(collection.runs, words))
    runs = collection.runs
    axes = [used for axis in find_axes(collection) if (used := used_by(axis, runs)) is not None]
    named = {axis.key: axis for axis in axes}
    for option, key in {"--rows": rows, "--columns": columns}.items():
        if key is not None and key not in named:
            what = (
                unknown("axis", key, named) if named else "The runs shown differ in nothing, so that there is no axis."
            )
            raise UserError(f"{option} {key}: {what}")
    if rows is not None and rows == columns:
        raise UserError(f"--rows and --columns are both {rows}: leave one out, or name another of {', '.join(named)}.")
    seeds = named.get(SEED)
    free = [axis for axis in axes if axis.key not in (rows, columns) and (axis is not seeds or len(axes) == 1)]
    down = named[rows] if rows else None
    across = named[columns] if columns else None
    if down is None and len(free) > (across is None):
        down = free.pop(0)
    if across is None and free:
        across = free.pop(0)
    if down and across and not rows and not columns and len(across.values) > max(MOST_COLUMNS, len(down.values)):
        down, across = across, down
    knobs = [axis for axis in axes if axis.key not in OF_A_PAIR and axis is not seeds]
    # what is asked for; else a number, which makes a better x than the optimiser
    by_use = sorted(knobs, key=lambda axis: (axis.key != columns, axis.numbers is None, axis is not across))
    return Selection(
        collection, seeds, rows=down, columns=across, others=free, knobs=knobs, along=by_use[0] if by_use else None
    )


def select(runs: Sequence[Run], words: Sequence[str]) -> list[Run]:
    """Return the runs that words name: a name, numbers (``0,3-5``) or a filter (``beta>0.01 and style==wave``).

    Raises:
        UserError: a word names none of them.
    """
    found: list[Run] = []
    for word in words:
        those = [run for run in runs if word in (run.name, _last(run))]
        if re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", word):
            spans = [(int(a), int(b or a)) for a, _, b in (part.partition("-") for part in word.split(","))]
            those += [run for run in runs if (n := _number(run)) is not None and any(a <= n <= b for a, b in spans)]
        elif not those and LOOKS_LIKE_ONE.search(word):
            is_meant = matching([facts_of(run) for run in runs], word)
            those = [run for run, meant in zip(runs, is_meant, strict=True) if meant]
        if not those:
            more = f" and {len(runs) - NAMED} more" if len(runs) > NAMED else ""
            names = ", ".join(run.name for run in runs[:NAMED])
            what = "no run fits" if LOOKS_LIKE_ONE.search(word) else "there is no such run"
            raise UserError(f"--runs {word}: {what}. Runs: {names}{more}.")
        found += those
    return [run for run in runs if any(run is one for one in found)] if words else list(runs)


def _last(run: Run) -> str:
    return run.name.rpartition("/")[2]


def _number(run: Run) -> int | None:
    """Return the number of a job of a sweep, with which its folder's name begins."""
    found = re.match(r"\d+(?=_|$)", _last(run))
    return int(found[0]) if found else None


def used_by(axis: Axis, runs: Sequence[Run]) -> Axis | None:
    """Return an axis with those of its values that runs have, or None if they all have the same."""
    places = sorted({found for run in runs if (found := axis.place(run)) is not None})
    if len(places) < 2:
        return None
    values, texts = (tuple(of[where] for where in places) for of in (axis.values, axis.texts))
    numbers = tuple(axis.numbers[where] for where in places) if axis.numbers else None
    return replace(axis, values=values, texts=texts, numbers=numbers)
