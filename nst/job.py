"""One job under Hydra: claimed, run or carried on with, and its status on disk whatever happens."""

import contextlib
import functools
import gc
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from nst import runtime
from nst.batching import together
from nst.cli import describe
from nst.configuration import recipes
from nst.errors import UserError
from nst.files import claim, remove_leftovers
from nst.networks.backbones import Backbone
from nst.runs import checkpoint, launchers, logs, progress, resume, sweep
from nst.runs.record import Job, write_status
from nst.runs.session import Session, run_session
from nst.runtime import memory, torchrun
from nst.setup.fitting import MemoryPlan
from nst.setup.inputs import Inputs
from nst.stylization.stylize import stylize

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
    job = this_job(config)
    if "TORCHELASTIC_RUN_ID" in os.environ and _helps(job):  # begun by torchrun
        return None
    if job.sweep is not None:
        run_in_sweep([job])
    else:
        with contextlib.ExitStack() as claims:
            if _is_to_run(job, config.resume is not None, claims) and _run([job]):
                raise SystemExit(1)
    return objectives(resume.past(job.folder))


def this_job(config: DictConfig) -> Job:
    """Return the job that Hydra is at."""
    hydra = HydraConfig.get()
    choices = recipes.recorded(hydra.runtime.choices)
    typed: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)  # an escaped ${ stays escaped
    overrides = resume.without_resume([str(line) for line in typed])
    folder = Path(hydra.sweep.dir) if hydra.mode != RunMode.RUN else None
    return Job(config, Path(hydra.runtime.output_dir), choices, overrides, folder)


def _helps(job: Job) -> bool:
    """Do the part of a process that helps another to train a network; return False in that other one."""
    from nst.training import train  # here, since a run that optimises needs none of it

    if job.config.task != "train" and torchrun.world_size() > 1:
        raise UserError(f"torchrun is for task=train; task={job.config.task} runs in one process: python run.py ...")
    if torchrun.rank() == 0:
        return False
    with runtime.PoliteStop() as stop, runtime.seeded(job.config.seed):
        train.train(Session(job, stop))
    return True


def objectives(past: resume.Past | None) -> tuple[float, ...] | None:
    """Return the content and style distance of a finished run, or None."""
    scores = (past.record.get("scores") if past and past.is_done else None) or {}
    values = [scores.get("content_distance"), scores.get("style_distance")]
    return tuple(float(value) for value in values if value is not None) if None not in values else None


def run_in_sweep(jobs: Sequence[Job]) -> None:
    """Run jobs of a sweep as one batch, or a single one, so that no other job suffers if one fails.

    Jobs that turn out to be no batch, or too much for the memory, run in smaller batches or one by one.
    """
    left: list[Job] = []
    size, folder = 1, jobs[0].sweep
    assert folder is not None
    with contextlib.ExitStack() as claims:
        ready = [job for job in jobs if _is_wanted(job) and _is_to_run_in_sweep(job, claims)]
        if ready:
            with logs.logging_for(folder):  # of a batch no single one's
                log.info("%s", progress.tell(folder, {job.folder.name: job.overrides for job in ready}))
        try:
            failed = _run(ready) if ready else []
        except _BatchFailed as apart:
            left, size, failed = apart.jobs, apart.size, apart.failed
        except runtime.Interrupted:
            if not launchers.in_worker():
                raise  # the sweep stops with its job, which ran in the same process
            return  # the signal was for this worker, and its launcher could make nothing of the exception
        for job in failed:
            if job.config.on_failure == "stop" and job.sweep is not None:
                sweep.stop(job.sweep, job.folder.name)
    if ready:
        progress.tell(folder)
    if left:  # what the batch held, its traceback still refers to
        gc.collect()
        torch.cuda.empty_cache()
    for begin in range(0, len(left), size):
        run_in_sweep(left[begin : begin + size])


def _is_wanted(job: Job) -> bool:
    """Tell whether the sweep goes on; if it was stopped, write that the job is skipped."""
    assert job.sweep is not None
    if (failed := sweep.stopped_after(job.sweep)) is None:
        return True
    past = resume.past(job.folder)
    if past is None or not past.is_done:
        write_status(job.folder, "skipped", reason=f"the sweep was stopped after {failed} failed")
    return False


def _is_to_run_in_sweep(job: Job, claims: contextlib.ExitStack) -> bool:
    with logs.logging_for(job.folder):
        try:
            return _is_to_run(job, True, claims)  # whatever is there is of this sweep: a cluster may begin a job twice
        except UserError as error:  # the folder cannot be used; what is in it stays as it is
            log.error("%s", describe(error))
            return False


def _is_to_run(job: Job, resumable: bool, claims: contextlib.ExitStack) -> bool:
    """Claim a job's folder; return False if the job is done already. After a UserError nothing in it was changed."""
    claims.callback(claim(job.folder).release)
    remove_leftovers(job.folder)
    past = resume.past(job.folder)
    if past is None:
        return True
    if not resumable:
        sweep.refuse_used(job.folder, "a run", "hydra.run.dir")
    resume.refuse_changes(job.folder, job.config)
    if resume.asks_for_more(job.folder, job.config):
        past = _with_more_steps(job, past)
    if past.is_done and resume.result_is_there(job.folder, past.record):
        log.info("%s is finished already", job.folder)
        checkpoint.remove(job.folder)
        return False
    return True


def _with_more_steps(job: Job, past: resume.Past) -> resume.Past:
    """Let a run have more steps than it was begun with; after a UserError nothing was changed."""
    if resume.past_its_end(job.folder) and checkpoint.load_usable(job.folder, log.debug) is None:
        why = f"its {checkpoint.STATE}, or what that goes on with, is damaged"
        raise UserError(resume.cannot_go_on(job.folder, job.config, why))
    return resume.extended(job.folder, job.config, job.overrides) or past


class _BatchFailed(Exception):
    """These jobs did not run as one batch and are to run in batches of a size; others failed on their own account."""

    def __init__(self, jobs: list[Job], size: int, failed: list[Job]) -> None:
        super().__init__()
        self.jobs, self.size, self.failed = jobs, size, failed


def _run(jobs: Sequence[Job]) -> list[Job]:
    """Run jobs with their status on disk from beginning to end; return those that failed. May raise _BatchFailed."""
    with runtime.PoliteStop() as stop:
        if len(jobs) > 1:
            failed = _batch(jobs, stop)
        else:
            failed = [job for job in jobs if not run_session(Session(job, stop), task_of(job))]
        stop.poll()  # a signal that came while a result was being saved still ends the sweep
    return failed


def _batch(jobs: Sequence[Job], stop: runtime.PoliteStop) -> list[Job]:
    """Optimise the pictures of several jobs as one batch; each leaves what it would leave alone."""
    with runtime.own_device(jobs[0].config.device) as device:
        sessions = [Session(job, stop, device, batch_size=len(jobs), shows_progress=job is jobs[0]) for job in jobs]
        runs = [functools.partial(run_session, session, _stylize_in_batch) for session in sessions]
        ended = together.run_together(runs)
    for signal in (end for end in ended if isinstance(end, KeyboardInterrupt)):
        raise signal
    failed = [job for job, end in zip(jobs, ended, strict=True) if end is False]
    if left := [job for job, end in zip(jobs, ended, strict=True) if isinstance(end, Exception)]:
        error = next(end for end in ended if isinstance(end, Exception))
        size = max(len(left) // 2, 1) if memory.is_out_of_memory(error) else 1
        log.warning("%s", _advice(error, size), exc_info=error)
        raise _BatchFailed(left, size, failed)
    return failed


def _stylize_in_batch(session: Session) -> None:
    """Optimise a picture of a batch."""
    stylize(session, functools.partial(_take_targets_in_batch, session))


def _take_targets_in_batch(
    session: Session, config: DictConfig, network: Backbone, images: Inputs
) -> tuple[together.BatchedLoss, MemoryPlan]:
    """Take the targets of a picture of a batch, and note in its run's record with whom it is computed."""
    loss, plan = together.take_targets(config, network, images, session.folder.name)
    session.shows_progress = loss.place == 0
    if session.latest is None:  # not yet on its way: some that began may have failed
        names = loss.batch.names
        session.record.note(batch={"images": len(names), "index": loss.place, "jobs": names})
    return loss, plan


def task_of(job: Job) -> Callable[[Session], object]:
    """Return what does what a job is for: optimise a picture, train a network, or apply one."""
    if job.config.task == "train":
        from nst.training.train import train  # here, since a run that optimises needs none of it

        return train
    if job.config.task == "apply":
        from nst.applying.apply import apply  # likewise

        return apply
    return stylize


def _advice(error: Exception, size: int) -> str:
    how = f"in batches of {size}" if size > 1 else "in turn"
    return f"The batch failed as a whole, so its jobs run {how}: {describe(error).removeprefix('Error: ')}"
