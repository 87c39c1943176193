"""A recipe is one file, ``conf/experiment/NAME.yaml``: which of its lines go when an option that it chose is replaced.

A recipe chooses an option of a group in its defaults, ``override /optimizer: adam``, and states in its ``optimizer:``
what differs from that option. Merged as they stand, these arguments would stay when another optimiser is typed beside
the recipe. So Hydra is shown the recipe in parts: an option of the recipe's own name in each group that it sets,
``optimizer=NAME``, which is the chosen one with the recipe's arguments, and the rest of the file, which chooses it.

* With an optimiser go the knobs that come with an optimiser, and the recipe's ``lr_schedule``.
* What the recipe says of ``backbone`` and ``layers`` holds for networks of one family, such as VGG-16 and VGG-19, whose
  layers have the same names; beside another network it goes.
* What it sets in a group without choosing an option holds for whatever option is chosen.

Hydra is shown one thing more that is no file: the sum of several options of a group of losses, ``gram+histogram``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from nst.errors import UserError

# Knobs that come with an option of a group; conf/config.yaml has no value for them.
COMPANIONS = {"optimizer": ("clamp", "clamp_range", "clamp_until", "clip_gradient", "jitter", "optimizer_units")}
ADDED = ("content_loss", "style_loss")  # groups whose options can be added up; in what is shown, they stand alone
NETWORK = "recipe"  # the group, for Hydra alone, by which a recipe's arguments of the backbone come
_ON_NETWORK = re.compile(r"(?P<recipe>.+) for (?P<own>.+) on (?P<backbone>.+)")  # a recipe's for its own network


class Files(Protocol):
    """The files of options, by their path without suffix: ``optimizer/adam``."""

    def has(self, path: str) -> bool:
        """Tell whether there is such a file."""

    def load(self, path: str) -> dict[str, Any]:
        """Return what it holds."""


@dataclass(frozen=True)
class Recipe:
    """A recipe as its file states it."""

    name: str  # of the file
    defaults: list[Any]  # its defaults list
    values: dict[str, Any]  # all else
    bases: list[Recipe]  # those that its defaults list names, on which it is based
    files: Files  # where options are looked for

    @cached_property
    def own_choices(self) -> dict[str, str]:
        """The option that the file itself chooses of a group."""
        entries = [entry for entry in self.defaults if isinstance(entry, dict)]
        chosen = [(key, option) for entry in entries for key, option in entry.items() if isinstance(option, str)]
        return {k.removeprefix("override /"): o for k, o in chosen if k.startswith("override /") and "${" not in o}

    @cached_property
    def choices(self) -> dict[str, str]:
        """The option that the file or one that it is based on chooses of a group."""
        inherited: dict[str, str] = {}
        for base in self.bases:
            inherited |= base.choices
        return inherited | self.own_choices

    def lines(self, group: str) -> dict[str, Any]:
        """Return what the file sets for the option that is chosen of a group."""
        if group not in self.choices or self.files.has(f"{group}/{self.name}"):
            return {}
        node = {group: self.values[group]} if isinstance(self.values.get(group), dict) else {}
        return node | {knob: self.values[knob] for knob in COMPANIONS.get(group, ()) if knob in self.values}

    @cached_property
    def brings_rates(self) -> bool:
        """Whether the recipe's ``lr_schedule`` goes with its optimiser; with a task of its own it goes with that."""
        sets_rates = "lr_schedule" in self.own_choices or bool(self.lines("lr_schedule"))
        return {"optimizer", "lr_schedule"} <= self.choices.keys() and "task" not in self.choices and sets_rates

    @cached_property
    def parts(self) -> list[str]:
        """The groups of which there is an option of the recipe's name."""
        return [group for group in self.choices if self.lines(group) or (group == "optimizer" and self.brings_rates)]

    def rest(self) -> dict[str, Any]:
        """Return the recipe without what its parts hold, but with their choice."""
        apart = [*self.parts, *(["lr_schedule"] if self.brings_rates else [])]
        replaced = [f"override /{group}" for group in apart if group != "backbone"]
        defaults = [e for e in self.defaults if not (isinstance(e, dict) and e.keys() & set(replaced))]
        for group in self.parts:
            own = self.choices[group]
            if group == "backbone" or (group == "layers" and self.files.has(f"backbone/{own}")):
                chosen = NETWORK if group == "backbone" else group
                defaults.append({f"override /{chosen}": f"{self.name} for {own} on ${{backbone}}"})
            elif group != "lr_schedule" or not self.brings_rates:
                defaults.append({f"override /{group}": self.name})
        apart_lines = {name for group in self.parts for name in self.lines(group)}
        return {"defaults": defaults, **{k: v for k, v in self.values.items() if k not in apart_lines}}

    def part(self, group: str) -> dict[str, Any]:
        """Return the recipe's own option of a group: the one that it chooses, with what it sets."""
        brings = group == "optimizer" and self.brings_rates
        rates = [{"override /lr_schedule": self._option("lr_schedule")}] if brings else []
        based_on = self.own_choices.get(group) or self._inherited(group)
        if group in ADDED:
            return {"defaults": [based_on, "_self_"], **self.lines(group)[group]}
        return {"defaults": [f"/{group}/{based_on}", "_self_", *rates], **self.lines(group)}

    def on_network(self, group: str, own: str, backbone: str) -> dict[str, Any]:
        """Return what a recipe for one network has to say of another: its layers or, of ``NETWORK``, its arguments."""
        is_known = group == NETWORK or self.files.has(f"layers/{backbone}")
        if family(own) != family(backbone) and is_known:
            return {} if group == NETWORK else {"defaults": [f"/layers/{backbone}"]}
        kind = "backbone" if group == NETWORK else "layers"
        base = None if kind in self.own_choices else next((b for b in reversed(self.bases) if kind in b.parts), None)
        defaults = [f"/layers/{backbone if is_known else own}"] if kind == "layers" else []
        if base:
            defaults = [f"/{group}/{base.name} for {own} on {backbone}"]
        return {"defaults": defaults, **self.lines(kind)}

    def _option(self, group: str) -> str:
        return self.name if self.lines(group) else self.own_choices.get(group) or self._inherited(group)

    def _inherited(self, group: str) -> str:
        base = next(base for base in reversed(self.bases) if group in base.choices)
        return base.name if group in base.parts else base._option(group)


def read(name: str, files: Files) -> Recipe:
    """Return the recipe of a name, and those that it is based on.

    Raises:
        UserError: it lists losses where it should add them.
    """
    values = files.load(f"experiment/{name}")
    defaults = values.pop("defaults", None) or []
    named = [entry.removeprefix("/experiment/") for entry in defaults if isinstance(entry, str) and entry != "_self_"]
    bases = [read(base, files) for base in named if base != name and files.has(f"experiment/{base}")]
    for entry in defaults:
        for key, option in entry.items() if isinstance(entry, dict) else ():
            if key.rpartition("/")[2] in ADDED and isinstance(option, list):  # Hydra would merge their arguments
                raise UserError(f"experiment={name}: losses are added with a +, not listed: {key}: {'+'.join(option)}")
    return Recipe(name, defaults, values, bases, files)


def compose(path: str, files: Files) -> dict[str, Any] | None:
    """Return what Hydra is shown under a path, or None: a recipe without its parts, one of them, or a sum of losses.

    Raises:
        UserError: a sum names one of its losses twice.
    """
    group, _, option = path.partition("/")
    if group == "experiment":
        return read(option, files).rest() if files.has(path) else None
    if group in ADDED and "+" in option:
        return added(group, option, files)
    if group == "layers" and not files.has(path) and files.has(backbone := f"backbone/{option}"):
        return {} if "layers" in files.load(backbone) else None  # a network's file that says its layers itself
    found = _ON_NETWORK.fullmatch(option)
    name = found["recipe"] if found else option
    if not name or files.has(path) or not files.has(f"experiment/{name}"):
        return None
    recipe = read(name, files)
    if found:
        return recipe.on_network(group, found["own"], found["backbone"])
    return recipe.part(group) if group in recipe.parts else None


def added(group: str, option: str, files: Files) -> dict[str, Any] | None:
    """Return the sum of several losses, such as ``gram+histogram``, or None if one of them is no file."""
    names = option.split("+")
    if not all(files.has(f"{group}/{name}") or compose(f"{group}/{name}", files) for name in names):
        return None
    if twice := [name for name in names if names.count(name) > 1]:
        weight = f"{group}.weights.{twice[0]}=2"
        raise UserError(f"{group}={option} names {twice[0]} twice. Name it once: of a sum, {weight} counts it double.")
    weights = {"weights": dict.fromkeys(names, 1.0), "scale": 1.0}
    return {"defaults": [*(f"{n}@losses.{n}" for n in names), "_self_"], "_target_": "nst.losses.SumLoss", **weights}


def family(backbone: str) -> str:
    """Return what networks with the same names of layers have in common in theirs: ``vgg`` of ``vgg16``."""
    return re.sub(r"\d", "", backbone)


def recorded(choices: Mapping[Any, Any]) -> dict[str, str]:
    """Return the option chosen of each group of ours, of what Hydra has noted down."""
    names = {str(group): str(option) for group, option in choices.items() if not str(group).startswith("hydra")}
    names.pop(NETWORK, None)
    if found := _ON_NETWORK.fullmatch(names.get("layers", "")):
        is_own = family(found["own"]) == family(found["backbone"])
        names["layers"] = found["recipe" if is_own else "backbone"]
    return names
