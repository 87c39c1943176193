"""What a run is told, and what it leaves about itself: ``run.json`` and ``status.json``."""

from __future__ import annotations

import logging
import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from nst import cli
from nst.configuration import further_images, images_named
from nst.errors import UserError
from nst.files import is_folder, sha256, write_json, writing
from nst.images import rgb
from nst.networks.weights import Source
from nst.optimization.loop import Outcome
from nst.pretrained import same_numbers
from nst.runs import checkpoint, provenance, resume, sweep

log = logging.getLogger(__name__)
DIFFERS = "%s was %s when the run began and is %s now: the bytes may differ"


@dataclass
class Job:
    """What a run is told: its configuration, its folder, and what was typed, for the record."""

    config: DictConfig  # composed
    folder: Path  # where results go; it exists
    choices: dict[str, str]  # the option of each group
    overrides: list[str]  # what was typed on the command line, or chosen by a sweep
    sweep: Path | None = None  # the folder of the sweep that the run belongs to, if any

    def picture(self, name: str) -> Path:
        """Return the path of a picture in the folder, with the suffix of the chosen format."""
        return self.folder / f"{name}{rgb.SUFFIXES[self.config.output_format]}"


@dataclass
class Record:
    """``run.json``, written whenever something becomes known."""

    job: Job
    facts: dict[str, Any]  # what is known, by its key in the file

    @classmethod
    def begin(cls, job: Job, device: torch.device) -> Record:
        """Begin the record of a run, and clear away what an earlier attempt left in its folder."""
        before = resume.read(job.folder / "run.json")
        kept = {key: before[key] for key in ("command", "arguments", "cwd", "earlier") if key in before}
        again = [*before.get("resumed", []), {"step": 0, "time": timestamp(), "command": cli.command()}]
        clear(job.folder)
        record = cls(job, known_before(job, device))
        record.note(**kept, **({"resumed": again} if kept else {}))
        return record

    @classmethod
    def carry_on(cls, job: Job, device: torch.device, step: int) -> Record:
        """Go on with the record of a run that is carried on from a step; warn if things have changed since it began."""
        record = cls(job, resume.read(job.folder / "run.json"))
        now = known_before(job, device)
        changed = {
            f"{group}.{name}": (value, (now[group] or {}).get(name))
            for group in ("git", "versions", "machine", "determinism")
            for name, value in (record.facts.get(group) or {}).items()
            if name != "diff" and value != (now[group] or {}).get(name)
        }
        for name, (then, here) in changed.items():
            log.warning(DIFFERS, name, then, here)
        again = {"step": step, "time": timestamp(), "command": now["command"], "changed": changed}
        record.note(resumed=[*record.facts.get("resumed", []), again])
        return record

    def note(self, **facts: Any) -> None:
        """Add facts and write the file."""
        self.facts |= facts
        write_json(self.job.folder / "run.json", self.facts)

    def note_weights(self, source: Source | None) -> None:
        """Add where the network's weights came from; a UserError if they are others than at its beginning."""
        weights, before = (vars(source) if source is not None else None), self.facts.get("weights")
        if weights and before and same_numbers(before.get("sha256")) != same_numbers(weights["sha256"]):
            raise UserError(
                f"{self.job.folder} was begun with other weights of the network (SHA-256 {before.get('sha256')}, now "
                f"{weights['sha256']}). Put the old ones back, or start a new run in another folder."
            )
        self.note(weights=weights)

    def note_computation(self, **chosen: str) -> None:
        """Add what was chosen for the computation; warn of what is chosen otherwise than when the run began."""
        before = self.facts.get("computation") or {}
        for name, here in chosen.items():
            if name in before and before[name] != here:
                log.warning(DIFFERS, name, before[name], here)
        self.note(computation=chosen)

    def note_result(
        self, outcome: Outcome, final: dict[str, float], seconds: dict[str, float], peak_memory: int | None
    ) -> None:
        """Add how the run ended."""
        result = self.job.picture("result")
        left = [path for path in (result, self.job.folder / "metrics.csv") if path.exists()]
        self.note(
            result=provenance.output_file(result),
            outputs={path.name: sha256(path) for path in left},
            stopped_because=outcome.reason,
            steps=outcome.last.index,
            evaluations=outcome.last.evaluations,
            final=final,
            seconds={name: round(value, 3) for name, value in seconds.items()},
            peak_memory_bytes=peak_memory,
        )


def known_before(job: Job, device: torch.device) -> dict[str, Any]:
    """Return what can be said of a run before anything is loaded."""
    config = job.config
    plan = resume.read(job.sweep / sweep.PLAN) if job.sweep else {}
    named = images_named(config)
    named |= {"style": named["style[0]"]} if "style[0]" in named else {}
    return {
        "config": resume.settings(config),
        "choices": job.choices,
        "overrides": job.overrides,
        **provenance.environment(device, job.folder),
        **{key: plan[key] for key in ("command", "arguments") if key in plan},  # a worker was begun with other words
        "seed": config.seed,
        "content": None if is_folder(config.content) else provenance.image_file(config.content),
        "style": provenance.image_file(named["style"]) if "style" in named else None,
        "init": provenance.image_file(named["init.path"]) if "init.path" in named else None,
        "further_images": {knob: provenance.image_file(name) for knob, name in further_images(config).items()},
    }


def clear(folder: Path) -> None:
    """Remove what an earlier attempt left, but for its log, so that a run can begin anew; UserError if that fails."""
    left = [
        "metrics.csv",
        "run.json",
        checkpoint.FILE,
        checkpoint.STATE,
        resume.NETWORK_FILE,
        "result.png",
        "result.jpg",
    ]
    left += [f"{name}{suffix}" for name in ("interrupted", "best") for suffix in rgb.SUFFIXES.values()]
    patterns = (*left, "uncommitted*.diff", "events.out.tfevents.*", "frames/*.png", "previews/*.jpg")
    for path in (path for pattern in patterns for path in folder.glob(pattern)):
        with writing(path):
            path.unlink()


def write_status(folder: Path, status: str, started: str | None = None, reason: str | None = None) -> None:
    """Write where a run stands, when it began if not now, why it is not done, and which process says so.

    The status is ``running``, ``done``, ``failed``, ``out_of_memory``, ``interrupted`` or ``skipped``.
    """
    about: dict[str, Any] = {"status": status, "started": started or timestamp()}
    about |= {} if status == "running" else {"ended": timestamp()}
    about |= {"reason": reason.removeprefix("Error: ")} if reason else {}
    write_json(folder / "status.json", about | {"pid": os.getpid(), "host": platform.node()})


def timestamp() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
