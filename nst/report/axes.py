"""What differs between runs: the axes of a sweep, and the parameters that a table needs a column for."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nst.report.runs import Collection, Run, number
from nst.runs.folders import in_order

# Knobs that say how a run is kept and shown, not what it is. A sweep over them is shown all the same.
NO_SCIENCE = re.compile(
    r"(resume|report|title|question|zip|on_failure|log_every|save_every|device|threads|evaluator|checkpoint_\w+|keep_state"
    r"|tracking|hydra)(\..*)?"
    r"|(.*\.)?(_partial_|_convert_|_recursive_)"
)
KEYWORDS: dict[str, Any] = {"true": True, "false": False, "null": None}
MISSING = object()


@dataclass(frozen=True)
class Axis:
    """One thing that differs."""

    key: str  # of the configuration, or the name of a group
    values: tuple[str, ...]  # what it takes, in order, written in one way so that they compare
    texts: tuple[str, ...]  # the same for people: a path by its last part
    numbers: tuple[float, ...] | None  # the same as numbers, if they all are
    log: bool  # a logarithmic scale suits them

    def place(self, run: Run) -> int | None:
        """Return where a run stands on this axis."""
        value = value_of(run, self.key)
        text = None if value is MISSING else canonical(value)
        return self.values.index(text) if text in self.values else None


def find_axes(collection: Collection) -> list[Axis]:
    """Return what a sweep varies, in the order typed, and then whatever else differs between its runs.

    Runs may have been added to a sweep with values that its plan does not list, or with another key; they have their
    place as well. What only follows from the swept keys, and was typed alike for all runs, makes no axis of its own.
    """
    runs = collection.runs
    listed = {key.lstrip("+~"): values for key, values in collection.sweep.get("swept", {}).items()}
    told = []
    for group in collection.sweep.get("zip", []):  # one axis, called by the first key that says the others
        lead = next((key for key in group if all(_is_function(runs, other, [key]) for other in group)), None)
        told += [key for key in group if lead not in (None, key)]
    listed = {key: values for key, values in listed.items() if key not in told}
    others = [k for k in differing(runs) if k not in (*listed, *told) and not _follows(runs, k, list(listed))]
    axes = []
    for key in [*listed, *others]:
        if key.startswith(("hydra.", "hydra/")):
            continue
        typed = {canonical(parse(value)): value.strip() for value in listed.get(key, [])}
        axis = _axis(key, _added(runs, key, typed) if typed else {value: value for value in values_of(runs, key)})
        if len(axis.values) > 1:
            axes.append(axis)
    return axes


def find_parameters(runs: Sequence[Run], axes: Sequence[Axis]) -> list[str]:
    """Return the keys that a table needs a column for: the axes first, then whatever else differs."""
    return list(dict.fromkeys([*(axis.key for axis in axes), *differing(runs)]))


def differing(runs: Sequence[Run]) -> list[str]:
    """Return the keys whose values differ, groups first, each thing once.

    What only follows from the choice of a group or a pair, and was not typed, is left out: with
    ``optimizer=adam,lbfgs`` the arguments of the two optimisers, and the clamp that comes with each, tell nothing more.
    """
    groups = dict.fromkeys(group for run in runs for group in run.choices)
    leaves = dict.fromkeys(key for run in runs for key in run.config)
    only_typed = dict.fromkeys(key for run in runs for key in run.typed)
    keys = [key for key in dict.fromkeys([*groups, *leaves, *only_typed]) if not NO_SCIENCE.fullmatch(key)]
    keys = [key for key in keys if "/" not in key and len(values_of(runs, key)) > 1]
    typed = {key for run in runs for key in run.typed}
    chosen = [key for key in keys if key in typed and (key in groups or key == "pair")]

    return [key for key in keys if key in typed or not _is_function(runs, key, chosen)]


def value_of(run: Run, key: str) -> Any:
    """Return a run's value of a key: the option of a group, a value of the configuration, or what was typed."""
    if key in run.choices:
        return run.choices[key]
    if key in run.config:
        return run.config[key]
    return parse(run.typed[key]) if run.typed.get(key) else MISSING


def parse(text: str) -> Any:
    """Return what a value on the command line stands for, as far as it matters here."""
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    if text.lower() in KEYWORDS:
        return KEYWORDS[text.lower()]
    if re.fullmatch(r"[+-]?\d+", text):
        return int(text)
    return text if (value := number(text)) is None else value


def canonical(value: Any) -> str:
    """Return a value as text, the same however an equal one is written: 1e-3 and 0.0010, [a, b] and [a,b]."""
    if value is MISSING:
        return ""
    if value is None:
        return "null"
    if isinstance(value, bool | int):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, list | tuple):
        value = f"[{','.join(canonical(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{canonical(item)}' for key, item in value.items())}}}"
    text = str(value)
    if not re.fullmatch(r"\s*(\[.*\]|\{.*\})\s*", text, re.DOTALL):
        return text
    return re.sub(r"['\"]|\s+(?=[\]},:])|(?<=[\[{,:])\s+", "", text.strip())


def short_texts(texts: Sequence[str]) -> dict[str, str]:
    """Return each text as it is shown.

    A path by its last part, or by as many as tell it from the others; a list without its brackets, and by its ends
    where the lists grow.
    """
    paths = {text: re.split(r"[/\\]+", text.rstrip("/\\")) for text in texts if _is_path(text)}
    shown = {text: text for text in texts} | _short_lists(texts)
    for text, parts in paths.items():
        for count in range(1, len(parts) + 1):
            short = "/".join(parts[-count:])
            others = {
                name for other in texts if other != text for name in (other, "/".join(paths.get(other, [])[-count:]))
            }
            if short not in others:
                shown[text] = short
                break
    return shown


def _short_lists(texts: Sequence[str]) -> dict[str, str]:
    """Return the lists of plain items among texts as they are shown: ``a``, ``a, b``, and ``none`` without items.

    Where each list begins with the whole of the next shorter one, long ones are ``a … c``: up to what they go.
    """
    lists = {
        text: text[1:-1].split(",") if text != "[]" else [] for text in texts if re.fullmatch(r"\[[^][{}]*]", text)
    }
    names = {item: re.split(r"[/\\]+", item)[-1] for items in lists.values() for item in items if _is_path(item)}
    if len(set(names.values())) == len(names):  # files of different names go by these
        lists = {text: [names.get(item, item) for item in items] for text, items in lists.items()}
    by_length = sorted(lists.values(), key=len)
    grow = len(lists) > 1 and all(len(a) < len(b) and b[: len(a)] == a for a, b in itertools.pairwise(by_length))
    shown = {
        text: f"{items[0]} … {items[-1]}" if grow and len(items) > 2 else ", ".join(items) or "none"
        for text, items in lists.items()
    }
    taken = {text for text in texts if text not in lists}
    return shown if taken.isdisjoint(shown.values()) else {}


def _is_path(text: str) -> bool:
    return bool(re.search(r"[/\\]", text)) and not text.startswith(("[", "{"))


def values_of(runs: Sequence[Run], key: str) -> list[str]:
    """Return the values that runs have of a key: numbers by size, else by name."""
    texts = {canonical(value) for run in runs if (value := value_of(run, key)) is not MISSING}
    return sorted(texts, key=float if all(number(text) is not None for text in texts) else in_order)


def _follows(runs: Sequence[Run], key: str, listed: Sequence[str]) -> bool:
    """Tell whether a key says nothing that the swept ones do not say: typed alike for all, and a function of them."""
    return len({run.typed.get(key) for run in runs}) < 2 and _is_function(runs, key, listed)


def _is_function(runs: Sequence[Run], key: str, others: Sequence[str]) -> bool:
    """Tell whether runs with equal values of the other keys, of which there are some, have an equal one of this key."""
    seen: dict[tuple[str, ...], str] = {}
    for run in runs:
        if (value := value_of(run, key)) is not MISSING:
            given = tuple(canonical(value_of(run, other)) for other in others)
            if seen.setdefault(given, canonical(value)) != canonical(value):
                return False
    return bool(others)


def _added(runs: Sequence[Run], key: str, listed: dict[str, str]) -> dict[str, str]:
    """Return the listed values and, in the order of the runs, those that were added since; each as it was typed."""
    values = dict(listed)
    for run in runs:
        if (value := value_of(run, key)) is not MISSING and (text := canonical(value)) not in values:
            typed = run.typed.get(key, "").strip()
            values[text] = typed if canonical(parse(typed)) == text else text
    return values


def _axis(key: str, values: dict[str, str]) -> Axis:
    """Return an axis of canonical values, each with the text as typed, which numbers are shown as."""
    numbers = [found for value in values if (found := number(value)) is not None]
    shown = short_texts(list(values))
    texts = tuple(typed if number(value) is not None else shown[value] for value, typed in values.items())
    if len(numbers) < len(values):
        return Axis(key, tuple(values), texts, numbers=None, log=False)
    log = min(numbers) > 0 and max(numbers) >= 10 * min(numbers) and key != "seed"
    return Axis(key, tuple(values), texts, tuple(numbers), log)
