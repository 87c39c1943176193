"""How far a sweep is: in its ``sweep.json``, and in a line for jobs that begin."""

import contextlib
import textwrap
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from nst.errors import UserError
from nst.files import write_json
from nst.runs import resume, sweep

LONGEST = 160  # characters that say what jobs differ in


def begin(folder: Path, config: DictConfig, jobs: sweep.Jobs) -> None:
    """Note in the plan of a sweep, before its first job, since when it runs and what is left to do.

    Args:
        folder: of the sweep, with its plan.
        config: of the sweep, with Hydra's part.
        jobs: overrides and configuration of each; none if a sampler chooses.
    """
    plan = resume.read(folder / sweep.PLAN)
    names = {tuple(job["overrides"]): str(job["folder"]) for job in plan.get("jobs", [])}
    todo = {}
    for overrides, job in jobs:
        past = resume.past(folder / (name := names[tuple(sweep.science(overrides))]))
        if not (past and past.is_done) or resume.asks_for_more(past.path, job):
            todo[name] = _work(job)
    total = len(names) or config.hydra.sweeper.get("n_trials")
    write_json(folder / sweep.PLAN, plan | {"progress": {"launched": _now(), "total": total, "work": todo}})


def tell(folder: Path, begun: Mapping[str, Sequence[str]] | None = None) -> str:
    """Write into ``sweep.json`` how far a sweep is: ``done`` of ``total``, ``current``, ``seconds_left``, ``updated``.

    The time left is what went by since the launch, for as much work as is left: jobs side by side are counted so.

    Args:
        folder: of the sweep.
        begun: the overrides of the jobs that begin now, by the names of their folders.

    Returns:
        A line about these jobs.
    """
    plan, begun = resume.read(folder / sweep.PLAN), begun or {}
    about = {"launched": _now(), "work": {}, **(plan.get("progress") or {})}
    names, launched, todo = sweep.job_folders(folder), str(about["launched"]), about["work"]
    names += [name for name in begun if name not in names]
    statuses = {name: resume.read(folder / name / "status.json") for name in names}
    of_now = {name for name, status in statuses.items() if str(status.get("started", "")) >= launched}
    current = [*begun, *(n for n in names if n in of_now and statuses[n].get("status") == "running" and n not in begun)]
    left = [name for name in names if name in current or (name in todo and name not in of_now)]
    ended = [name for name in names if name not in left and statuses[name]]
    total = max(about.get("total") or 0, len(names))
    done = sum(todo.get(name, 1) for name in ended if name in of_now and statuses[name].get("status") == "done")
    work = sum(todo.get(name, 1) for name in left) if todo else total - len(ended)
    took = (datetime.now(UTC) - datetime.fromisoformat(launched)).total_seconds()
    seconds = round(took / done * work) if done else None
    finished = sum(statuses[name].get("status") == "done" for name in ended)
    about |= {"done": finished, "total": total, "current": current, "seconds_left": seconds, "updated": _now()}
    if plan:
        with contextlib.suppress(UserError):  # a full disk is told by the job
            write_json(folder / sweep.PLAN, plan | {"progress": about})
    places = sorted(names.index(name) + 1 for name in begun)
    in_row = len(places) > 1 and places[-1] - places[0] == len(places) - 1
    which = f"{places[0]}-{places[-1]}" if in_row else ",".join(map(str, places))
    swept = plan.get("swept") or {}
    what = "; ".join(" ".join(one for one in of if resume.key_of(one) in swept) for of in begun.values())
    time_left = "" if seconds is None else f" ... about {_rounded(seconds)} left"
    return f"[{which}/{total}] {textwrap.shorten(what, LONGEST, placeholder=' ...')}{time_left}".rstrip()


def _work(config: DictConfig) -> float:
    """Return how much a job has to do, to compare it with others: pixels times steps."""
    from nst.optimization import schedule  # here, since it needs torch

    if config.task == "train":
        side = OmegaConf.select(config, "training.crop", default=config.size)
        return float(config.steps * OmegaConf.select(config, "training.batch", default=1) * side**2)
    if config.task == "apply":
        return 1.0
    return float(sum(scale.size**2 * scale.steps for scale in schedule.scales(config)))


def _rounded(seconds: float) -> str:
    """Return a time as one says it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
