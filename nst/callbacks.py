"""What happens around the jobs of a command: all are checked and planned before the first, and a table ends a sweep.

It stands above the tasks, whose checks it calls, and needs no torch until there is something to check.
"""

import contextlib
import os
import shlex
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from nst import cli
from nst.configuration import tasks
from nst.errors import ConfigError, UserError
from nst.files import is_claimed, write_json
from nst.runs import launchers, pairs, progress, resume, sweep

MANY = 30  # jobs whose check may take a while
LONGEST_REASON = 160
BAD = ("failed", "out_of_memory", "interrupted", "skipped", "not started", "running")


@dataclass
class Launched:
    """The sweep that this process launched."""

    folder: Path
    since: float  # seconds of the epoch
    report: bool  # one is to be written at its end
    lock: FileLock  # keeps other processes out
    ended: dict[str, str]  # when each job that was done already had ended, as its status says


_launched: Launched | None = None
_claimed: FileLock | None = None  # of the folder of a single run


def command_lines(typed: list[str]) -> list[list[str]]:
    """Return the arguments of each call of Hydra: as typed, completed if a run is resumed or if torchrun began it.

    Raises:
        UserError: there is nothing to resume, or torchrun would begin a sweep.
    """
    calls = resume.command_lines(typed)
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return calls
    from nst.runtime.torchrun import arguments_of_rank  # here, since its package needs torch

    return [arguments_of_rank(arguments) for arguments in calls]


class CheckFirst(Callback):
    """Hydra callback that refuses a run, or a whole sweep, before any folder is made, and plans a sweep.

    Hydra swallows exceptions of callbacks, so a refusal prints its message and exits.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the only job, and that its folder is not taken or holds the same job."""
        try:
            _begin_run(config)
        except Exception as error:
            cli.reject(error)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check and plan every job of a grid; a sampler that chooses as it goes has its jobs checked one by one."""
        try:
            _begin_sweep(config, kwargs.get("config_name"))
        except Exception as error:
            cli.reject(error)


def _begin_run(config: DictConfig) -> None:
    global _claimed
    folder = Path(config.hydra.run.dir)
    job = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    if job.pairs is not None:
        raise UserError("pairs is for a sweep over them: python run.py -m ... One pair is pair=[CONTENT,STYLE].")
    if "zip" in map(resume.key_of, sweep.overrides_of(config, "task")):
        raise UserError("zip is for sweeps, whose axes it lets go together: put -m in front.")
    if job.resume is None and sweep.is_named(config, "run"):
        sweep.refuse_used(folder, "a run", "hydra.run.dir")
    _check_all([job])
    if job.resume is not None:
        resume.refuse_changes(folder, job)
        if resume.asks_for_more(folder, job):
            sweep.refuse_member(folder)
    else:
        refuse_idle([job], map(resume.key_of, sweep.overrides_of(config, "task")))
    _, _claimed = sweep.make_folder(config, "run", sweep.about_run(config))  # before Hydra writes anything there


def _begin_sweep(config: DictConfig, name: str | None) -> None:
    global _launched
    launchers.prepare(config)
    pairs.make_axis(config)
    pairs.list_pictures(config)
    if config.resume is None and sweep.is_named(config, "sweep"):
        sweep.refuse_used(Path(config.hydra.sweep.dir), "a sweep", "hydra.sweep.dir")
    overrides = sweep.sweep_overrides(config)
    sweep.let_axes_go_together(config, overrides)
    swept = {
        sweep.key_of(o): list(map(str, o.sweep_string_iterator())) if o.is_discrete_sweep() else []  # to be drawn
        for o in overrides
        if o.is_sweep_override() and sweep.key_of(o) != "zip"
    }
    if empty := [o.input_line for o in overrides if o.is_discrete_sweep() and swept.get(sweep.key_of(o)) == []]:
        raise UserError(f"{empty[0]} gives no values, so there would be no run. Check the pattern or range.")
    if idle := [key for key in swept if resume.is_housekeeping(key)]:
        raise UserError(f"{', '.join(idle)} changes no picture, so a sweep cannot vary it. Give it one value.")
    if "study" in swept:
        raise UserError("A study is a sweep of its own: run one at a time, study=NAME.")
    jobs: list[tuple[list[str], DictConfig]] = []
    if str(config.hydra.sweeper.get("_target_")).endswith(("BasicSweeper", "ZipSweeper")):
        lines = sweep.grid(overrides, config.zip)
        if len(lines) > MANY:
            print(f"Checking {len(lines)} jobs ...", file=sys.stderr, flush=True)
        jobs = list(sweep.composed(name, lines))
        _check_all([job for _, job in jobs])
        if config.resume is None and jobs:
            refuse_idle([job for _, job in jobs], map(resume.key_of, jobs[0][0]))
    folder, lock = sweep.make_folder(config, "sweep", sweep.about_sweep(config, list(swept)))
    added = resume.read(folder / sweep.PLAN).get("swept", {}).keys() - swept.keys()
    swept |= {sweep.key_of(o): [o.get_value_element_as_str()] for o in overrides if sweep.key_of(o) in added}
    plan = sweep.make_plan(folder, config, swept, jobs)
    if _launched is None:  # a sweep that was given further points is carried on with in several calls
        statuses = {name: resume.read(folder / name / "status.json") for name in sweep.job_folders(folder)}
        ended = {name: str(one.get("ended")) for name, one in statuses.items() if one.get("status") == "done"}
        _launched = Launched(folder, time.time(), bool(config.report), lock, ended)
    for path in (*folder.glob(".*.tmp"), folder / sweep.STOPPED):  # left by a process that was killed, by a failure
        path.unlink(missing_ok=True)
    write_json(folder / sweep.PLAN, plan)
    progress.begin(folder, config, jobs)


def _check_all(jobs: Sequence[DictConfig]) -> None:
    """Check jobs; a ConfigError names each mistake once."""
    from nst.applying.apply import problems  # here, since they need torch, which --help need not wait for
    from nst.setup.check import check

    found: Counter[str] = Counter()
    for job in jobs:
        try:
            check(job, *([problems] if job.task == "apply" else []))
        except ConfigError as error:
            found.update(error.problems)
    if found:
        of = f" (in {{}} of {len(jobs)} jobs)" if len(jobs) > 1 else ""
        raise ConfigError(problem + of.format(count) for problem, count in found.items())


def refuse_idle(jobs: Sequence[DictConfig], typed: Iterable[str]) -> None:
    """Refuse typed knobs and groups that change nothing in any job; a run alone may say its seed all the same.

    Raises:
        UserError: the first such knob, and why.
    """
    typed, idle = list(typed), [tasks.idle(job) for job in jobs]
    if typed.count("tracking") > 1:  # Hydra would take the first and say nothing
        raise UserError("tracking is typed twice. Name all in one list: 'tracking=[...]', or to add '+tracking=[...]'.")
    if "style" in typed and jobs[0].task == "apply":
        from nst.applying import model  # here, since it needs torch, as the check before has done

        if hasattr(model.load(jobs[0]).network, "take_styles"):  # one that paints in any style
            typed.remove("style")
    for key in typed:
        reasons = [next((why for name, why in of.items() if f"{key}.".startswith(f"{name}.")), None) for of in idle]
        if all(reasons) and reasons and not (len(jobs) == 1 and key == "seed"):
            raise UserError(f"{key} changes nothing here: {reasons[0]}. Leave it out.")


def finish(interrupted: bool) -> bool:
    """Print how the sweep of this process ended, a line for each job; return False if any is not done.

    A report that is still missing is written, but not if interrupted: somebody wants this process to end then.
    """
    if _launched is None:
        return True
    folder = _launched.folder
    page = folder / "report.html"  # Hydra calls no callback after an exception, so that it may be missing
    if _launched.report and not interrupted and not (page.exists() and page.stat().st_mtime >= _launched.since - 1):
        from nst.report.callback import write_sweep_report  # here, since --help need not wait for it

        write_sweep_report(folder)
    names = sweep.job_folders(folder)
    rows = [(name, *outcome(folder / name, _launched.ended.get(name))) for name in names]
    progress.tell(folder)
    counts = Counter(status for _, status, _, _ in rows)
    width = max(map(len, names), default=0)
    print(f"\n{folder}: {', '.join(f'{count} {status}' for status, count in counts.items()) or 'no jobs'}")
    for name, status, seconds, reason in rows:
        took = f"{seconds:.0f} s" if seconds is not None else ""
        print(f"  {name:<{width}}  {status:<13} {took:>7}  {reason}".rstrip())
    for note in resume.changed_inputs(resume.read(folder / name / "run.json") for name in names):
        print(f"Mind: {note}")
    if not (all_done := counts.keys().isdisjoint(BAD)):
        when = "" if interrupted else ", when the cause is mended"
        print(f"Finish it{when}: python run.py resume={shlex.quote(str(folder))}")
    _launched.lock.release()
    return all_done


def let_go() -> Path | None:
    """Forget what this process has begun, so that it, or another, may go on with it; return its folder, if any."""
    global _launched, _claimed
    lock = _launched.lock if _launched else _claimed
    _launched = _claimed = None
    if lock is None:
        return None
    lock.release(force=True)
    return Path(lock.lock_file).parent


def outcome(folder: Path, ended_before: str | None) -> tuple[str, float | None, str]:
    """Return (status, seconds, reason) of a job as the table shows them; one that died without a word is noted.

    ``ended_before`` is when it had ended before this process began, as its status said; None if it had not.
    """
    status = resume.read(folder / "status.json")
    if not status:
        return "not started", None, ""
    began, ended = (datetime.fromisoformat(status[key]) if key in status else None for key in ("started", "ended"))
    seconds = (ended - began).total_seconds() if began and ended else None
    word, reason = str(status.get("status")), str(status.get("reason") or "")
    if word == "done":  # all attempts together
        seconds = (resume.read(folder / "run.json").get("seconds") or {}).get("total", seconds)
    if word == "done" and status.get("ended") == ended_before:
        return "done earlier", seconds, "finished before, not run again"
    if word == "running" and not is_claimed(folder):
        why = "it ended without a word: killed by hand or for want of memory, or the disk is full"
        with contextlib.suppress(UserError):
            write_json(folder / "status.json", status | {"status": "interrupted", "reason": why})
        return "interrupted", None, why
    return word, seconds, textwrap.shorten(reason, LONGEST_REASON, placeholder=" ... (see run.log)")
