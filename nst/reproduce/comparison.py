"""The comparison of a run with its reproduction: the pictures, the losses, and the recorded facts."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nst.files import sha256
from nst.images import decoding
from nst.pretrained import same_numbers
from nst.reproduce.inputs import file_name
from nst.reproduce.runs import Run
from nst.runs import folders

# Recorded facts that may explain a difference.
GROUPS = ("versions", "machine", "computation", "determinism", "git", "own_code")


WHITE = (255, 255, 255)  # behind transparent pixels


@dataclass
class Difference:
    """How far two pictures are apart, in levels of 0 to 255."""

    largest: int  # of all differences
    mean: float  # of the absolute differences
    psnr: float  # peak signal-to-noise ratio in dB, infinite for equal pixels
    share: float  # of the pixels that differ in any channel


@dataclass
class Reproduction:
    """How a run came out the second time."""

    run: str  # the folder of the first run
    folder: str  # of the second
    verdict: str  # ``identical`` (the same bytes), ``same pixels`` (encoded in other bytes) or ``different``
    result: dict[str, Any]  # name and SHA-256 of both pictures' files
    difference: Difference | None  # of the pictures; None if the first one is not there, or of another size
    losses: float | None  # the largest relative difference of a final loss; None if none was recorded
    facts: dict[str, list[Any]]  # ``{fact: [recorded, now]}`` for every one that differs
    commit: str | None  # of the source that the first run was made with, if it was recorded
    notes: list[str]  # what else is to be known, one sentence each

    @property
    def is_identical(self) -> bool:
        """Whether the picture is the same, pixel for pixel."""
        return self.verdict in ("identical", "same pixels")

    def summary(self) -> str:
        """Return the verdict in a few words."""
        if self.is_identical:
            return "identical" if self.verdict == "identical" else "identical pixels, in a file of other bytes"
        if (off := self.difference) is None:
            return "not identical"
        return (
            f"not identical: at most {off.largest} of 255 levels off, {off.mean:.3g} on average, "
            f"PSNR {off.psnr:.1f} dB, {off.share:.1%} of the pixels differ"
        )


def compare(run: Run, folder: Path, notes: list[str]) -> Reproduction:
    """Compare a run with its reproduction in ``folder``."""
    now = folders.read(folder).record
    wanted, found = run.record["result"]["sha256"], now["result"]["sha256"]
    unrecorded = [group for group in GROUPS if now.get(group) and not run.record.get(group)]
    notes = [*notes, *([f"Not recorded, so not compared: {', '.join(unrecorded)}."] if unrecorded else [])]
    verdict, difference = "identical" if wanted == found else "different", None
    picture = run.folder / run.record["result"]["file"]
    if not picture.is_file():
        if verdict != "identical":
            notes.append(f"How far off the picture is cannot be told: {picture} is not there.")
    elif sha256(picture) != wanted:
        notes.append(f"{picture} is not the picture that was recorded; it has been changed since.")
    elif verdict != "identical":
        difference = pixel_difference(picture, folder / now["result"]["file"])
        if difference is None:
            notes.append("The pictures have different sizes.")
        elif difference.largest == 0:
            verdict = "same pixels"
    return Reproduction(
        run=run.origin,
        folder=str(folder),
        verdict=verdict,
        result={"file": now["result"]["file"], "recorded": wanted, "now": found},
        difference=difference,
        losses=loss_difference(run.record.get("final", {}), now.get("final", {})),
        facts=differing_facts(run.record, now),
        commit=(run.record.get("git") or {}).get("commit"),
        notes=notes,
    )


def pixel_difference(one: Path, other: Path) -> Difference | None:
    """Return how far two pictures are apart, or None if their sizes differ.

    PSNR is 10 log10(255^2 / MSE), over all pixels and channels.
    """
    first, second = (np.asarray(decoding.read(path, WHITE), dtype=np.float64) for path in (one, other))
    if first.shape != second.shape:
        return None
    off = np.abs(first - second)
    mse = float(np.mean(off**2))
    psnr = 10 * math.log10(255**2 / mse) if mse else math.inf
    return Difference(int(off.max()), float(off.mean()), psnr, float((off.max(axis=2) > 0).mean()))


def loss_difference(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> float | None:
    """Return the largest difference of a loss relative to the recorded value; None if there are none to compare."""
    pairs = [(recorded[tag], now[tag]) for tag in recorded if tag in now]
    numbers = [(a, b) for a, b in pairs if isinstance(a, int | float) and isinstance(b, int | float)]
    return max((abs(b - a) / abs(a) if a else float(b != a) for a, b in numbers), default=None)


def differing_facts(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return ``{fact: [recorded, now]}`` for every recorded fact that is another one now.

    Paths are no facts: own code counts by file name, weights by their hash. The inputs' hashes were compared before.
    """
    then, here = _facts(recorded), _facts(now)
    if "variables" in recorded.get("determinism", {}):  # of which those that were not set are not recorded
        then |= {name: None for name in here if ".variables." in name and name not in then}
    return {name: [value, here.get(name)] for name, value in then.items() if here.get(name) != value}


def _facts(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recorded facts under dotted names."""
    found: dict[str, Any] = {}
    for group in GROUPS:
        for name, value in (record.get(group) or {}).items():
            if group == "own_code":
                found[f"own_code.{file_name(name)}"] = value
            elif isinstance(value, Mapping):
                found |= {f"{group}.{name}.{key}": item for key, item in value.items()}
            elif (group, name) != ("git", "diff"):
                found[f"{group}.{name}"] = value
    weights = record.get("weights") or {}
    return found | ({"weights.sha256": same_numbers(weights["sha256"])} if "sha256" in weights else {})
