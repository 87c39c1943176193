"""One job under Hydra: claimed, run or carried on with, and its status on disk whatever happens."""

from __future__ import annotations

import logging
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from nst import checkpoint, experiment, launchers, memory, resume, runtime, sweep
from nst.cli import describe
from nst.errors import UserError
from nst.files import claim, remove_leftovers
from nst.record import Job, timestamp, write_status

log = logging.getLogger(__name__)


def run_job(config: DictConfig) -> tuple[float, ...] | None:
    """Run one job under Hydra: in its output folder, with its status written whatever happens.

    Returns:
        What a sampler of sweeps is to make small: content and style distance; None if the job is not done.

    Raises:
        SystemExit: the only run failed, and has been reported. In a sweep the others go on, and nothing is raised.
        UserError: the folder of a single run cannot be used.
        Interrupted: Ctrl-C or a termination signal; the current picture has been saved then.
    """
    hydra = HydraConfig.get()
    choices = {str(k): str(v) for k, v in hydra.runtime.choices.items() if not str(k).startswith("hydra")}
    job = Job(config, Path(hydra.runtime.output_dir), choices, resume.without_resume(list(hydra.overrides.task)))
    if hydra.mode == RunMode.RUN:
        if not _attempt(job, resumable=config.resume is not None):
            raise SystemExit(1)
    else:
        job.sweep = Path(hydra.sweep.dir)
        _attempt_in_sweep(job)
    return objectives(resume.past(job.folder))


def objectives(past: resume.Past | None) -> tuple[float, ...] | None:
    """Return the content and style distance of a finished run, or None."""
    scores = (past.record.get("scores") if past and past.is_done else None) or {}
    values = [scores.get("content_distance"), scores.get("style_distance")]
    return tuple(float(value) for value in values if value is not None) if None not in values else None


def _attempt_in_sweep(job: Job) -> None:
    """Run a job so that the other jobs of its sweep do not suffer if it fails."""
    assert job.sweep is not None
    if (failed := sweep.stopped_after(job.sweep)) is not None:
        past = resume.past(job.folder)
        if past is None or not past.is_done:
            write_status(job.folder, "skipped", reason=f"the sweep was stopped after {failed} failed")
        return
    try:
        done = _attempt(job, resumable=True)  # whatever is there is of this sweep: a cluster may begin a job twice
    except UserError as error:  # the folder cannot be used; what is in it stays as it is
        log.error("%s", describe(error))
        return
    except runtime.Interrupted:
        if not launchers.in_worker():
            raise  # the sweep stops with its job, which ran in the same process
        return  # the signal was for this worker, and its launcher could make nothing of the exception
    if not done and job.config.on_failure == "stop":
        sweep.stop(job.sweep, job.folder.name)


def _attempt(job: Job, resumable: bool) -> bool:
    """Run a job, or carry on with it, or see that it is done; return False if it failed.

    Raises:
        UserError: the folder cannot be used; nothing in it was changed.
        Interrupted: a signal came.
    """
    lock = claim(job.folder)
    remove_leftovers(job.folder)
    try:
        past = resume.past(job.folder)
        if past is not None:
            if not resumable:
                sweep.refuse_used(job.folder, "a run", "hydra.run.dir")
            resume.refuse_changes(job.folder, job.config)
            if past.is_done and resume.result_is_there(job.folder, past.record):
                log.info("%s is finished already", job.folder)
                checkpoint.remove(job.folder)
                return True
        return _guarded(job)
    finally:
        lock.release()


def _guarded(job: Job) -> bool:
    """Run a job with its status on disk from beginning to end; return False if it failed."""
    started = timestamp()
    write_status(job.folder, "running", started)
    with runtime.PoliteStop() as stop, runtime.seeded(job.config.seed):
        try:
            experiment.run(job, stop)
        except KeyboardInterrupt as error:
            write_status(job.folder, "interrupted", started, str(error))
            raise
        except Exception as error:
            memory_ran_out = memory.is_out_of_memory(error)  # seen through what it was raised from
            message = describe(error)
            log.error("%s", message, exc_info=True)
            write_status(job.folder, "out_of_memory" if memory_ran_out else "failed", started, message)
            return False
        write_status(job.folder, "done", started)
        checkpoint.remove(job.folder)
        stop.poll()  # a signal that came while the result was being saved still ends the sweep
    return True
