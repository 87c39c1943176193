"""The life of a run, whatever its task: its folder, record, status, log, checkpoint and trackers, and how it ends."""

import contextlib
import logging
import math
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from nst import runtime
from nst.cli import describe
from nst.errors import UserError
from nst.files import CannotWrite
from nst.images import rgb
from nst.runs import checkpoint, logs, resume
from nst.runs.record import Job, Record, timestamp, write_status
from nst.runtime import memory

log = logging.getLogger(__name__)


class Retry(UserError):
    """The attempt does not count: the run is to be begun again in other circumstances, such as a smaller batch."""


class Session:
    """A run from its beginning to its end.

    Args:
        job: what is asked for.
        stop: answers signals between two steps.
        device: name of the device, if it is not for the run to choose.
        batch_size: how many runs go as one batch, this one included.
        shows_progress: it shows its progress on the console.
    """

    device: torch.device  # that is computed on
    record: Record

    def __init__(
        self,
        job: Job,
        stop: runtime.PoliteStop,
        device: str | None = None,
        batch_size: int = 1,
        shows_progress: bool = True,
    ) -> None:
        self.job, self.stop, self.batch_size, self.shows_progress = job, stop, batch_size, shows_progress
        self.device_name = device or str(job.config.device)
        self.saved: dict[str, Any] | None = None  # the checkpoint that is carried on from
        self.trackers: Any = None  # see nst.tracking.common
        self.latest: Any = None  # what they have seen last
        self.done = 0  # steps
        self.began = self.ready = time.perf_counter()
        every = job.config.checkpoint_steps, job.config.checkpoint_seconds
        self.checkpoints = checkpoint.Checkpoints(*every, share=checkpoint.LARGEST_SHARE / batch_size)

    @property
    def config(self) -> DictConfig:
        """The configuration."""
        return self.job.config

    @property
    def folder(self) -> Path:
        """Where results go."""
        return self.job.folder

    @property
    def elapsed(self) -> float:
        """Seconds since the run began, those before it was carried on included."""
        return (self.saved["elapsed"] if self.saved else 0.0) + time.perf_counter() - self.began

    @contextlib.contextmanager
    def computing(self, precision: str | None = None) -> Iterator[torch.device]:
        """Set the machine up as the configuration, or the record of a run that is carried on, says."""
        recorded = resume.read(self.folder / "run.json")["machine"]["threads"] if self.saved else 0
        threads = runtime.threads(self.config.threads or int(recorded))
        with runtime.own_device(self.device_name) as name, threads:
            self.device = runtime.prepare(name, precision or self.config.precision)
            yield self.device

    def load_checkpoint(self) -> dict[str, Any]:
        """Look for a checkpoint to carry on from, and return what is in it; empty if there is none."""
        self.saved = checkpoint.load_usable(self.folder)
        return self.saved or {}

    def restore_random_state(self) -> None:
        """Set torch's global generators to the state of the checkpoint that is carried on from."""
        if self.saved is not None:
            checkpoint.restore_random_state(self.saved["random"])

    def on_console(self) -> contextlib.AbstractContextManager[None]:
        """Let the messages of a block reach the console, whether or not this run shows its progress there."""
        return logs.logging_for(self.folder)

    def begin_record(self) -> None:
        """Begin the record, or go on with it."""
        if self.saved is not None:
            self.done = self.saved["step"]
            self.record = Record.carry_on(self.job, self.device, self.done)
        else:
            self.record = Record.begin(self.job, self.device)

    @contextlib.contextmanager
    def holding_signals(self) -> Iterator[None]:
        """Let a signal wait for the next step, also while targets are taken or a result is saved."""
        self.ready = time.perf_counter()
        self.stop.hold()
        try:
            yield
        finally:
            self.stop.release()

    @contextlib.contextmanager
    def optimising(self, forget: type[Exception] = Exception) -> Iterator[None]:
        """Void the checkpoint if the block ends with an error to ``forget``, but for want of room."""
        try:
            yield
        except Retry:
            raise
        except forget as error:
            if not (memory.is_out_of_memory(error) or isinstance(error, CannotWrite)):
                checkpoint.remove(self.folder)
            raise

    def see(self, snapshot: Any) -> None:
        """Hand a step to the trackers, which the helpers of a training do not have."""
        self.latest, self.done = snapshot, snapshot.step.index + 1
        if self.trackers is not None:
            with logs.logging_for(self.folder, self.shows_progress):
                self.trackers.step(snapshot)

    def between(self, take_content: Callable[[], dict[str, Any]] | None, at_end: bool = False) -> None:
        """Save a checkpoint if it is due, or if a signal has come, and answer that.

        Args:
            take_content: returns what the task needs to carry on, or None where that cannot be had.
            at_end: all steps are done; more may be asked for later.
        """
        if take_content is not None:
            self.save_if_due(take_content, at_once=self.stop.asked is not None, at_end=at_end)
        self.stop.poll()

    def save_if_due(self, take_content: Callable[[], dict[str, Any]], at_once: bool, at_end: bool = False) -> None:
        """Save a checkpoint if it is due, or at once; at the end the state, if it is not larger than may be kept."""
        if at_end and self._keep_state(take_content()):
            return
        if at_once or self.checkpoints.is_due(self.done):
            with self.checkpoints.saving(self.done):
                self.save_checkpoint(take_content())

    def save_checkpoint(self, content: dict[str, Any], name: str = checkpoint.FILE) -> None:
        """Save a checkpoint after ``done`` steps."""
        about = {
            "step": self.done,
            **content,
            "random": checkpoint.random_state(),
            "trackers": self.trackers.position(),
            "elapsed": self.elapsed,
        }
        checkpoint.save(self.folder, about, name)

    def _keep_state(self, content: dict[str, Any]) -> bool:
        """Keep what more steps would go on from, in place of the checkpoint; tell whether that was done."""
        if (size := checkpoint.size(content)) > self.config.keep_state * 1e6:
            if self.config.keep_state and self.shows_progress:
                megabytes = math.ceil(size / 1e6)
                log.info("Not kept: what more steps would need later, %d MB. keep_state=%d keeps it", *[megabytes] * 2)
            return False
        try:
            self.save_checkpoint(content, checkpoint.STATE)
        except CannotWrite as error:  # a run that has come so far is not to fail for this
            log.warning("The state after the last step is not kept: %s", error)
            return False
        checkpoint.remove(self.folder)
        return True

    def keep(self, name: str, image: torch.Tensor, shape: tuple[int, int] | None = None) -> Path:
        """Save a picture ``(1, 3, H, W)`` RGB under a name, at (width, height) if not its own; return its path."""
        path = self.job.picture(name)
        rgb.save(path, rgb.encode(image, self.config.output_format, self.config.jpeg_quality, shape))
        return path

    def close(self, status: str, reason: str = "") -> None:
        """Close the trackers."""
        trackers, self.trackers = self.trackers, None
        if trackers is not None:
            trackers.close(status, reason)

    def seconds(self, **parts: float) -> dict[str, float]:
        """Return how long the parts of the run took, the time until its first step and the whole among them."""
        return {"setup": self.ready - self.began, **parts, "total": self.elapsed}

    def finish(self) -> None:
        """Remove what earlier attempts left, and close the trackers."""
        if self.latest is None or checkpoint.step(self.folder, checkpoint.STATE) != self.latest.step.index:
            checkpoint.remove(self.folder, checkpoint.STATE)  # of fewer steps
        for name in ("interrupted", "best"):
            self.job.picture(name).unlink(missing_ok=True)
        self.close("done")


def run_session(session: Session, task: Callable[[Session], object]) -> bool:
    """Carry out a run, with its status on disk from beginning to end; return whether it ended well.

    Raises:
        Retry: it is to be begun again.
        Interrupted: a signal came; what there is has been saved.
    """
    job, started = session.job, timestamp()
    write_status(job.folder, "running", started)
    with logs.logging_for(job.folder, session.shows_progress), runtime.seeded(job.config.seed):
        try:
            task(session)
        except KeyboardInterrupt as error:
            _close(session, "interrupted", str(error))
            write_status(job.folder, "interrupted", started, str(error))
            if job.sweep is None:
                log.warning("%s", how_to_carry_on(job.folder))
            raise
        except Retry as error:
            _close(session, "failed", str(error))
            raise
        except (Exception, SystemExit) as error:
            if isinstance(error, SystemExit):
                error = UserError(f"Code of your own has called sys.exit({error.code!r}). Raise an exception instead.")
            message = describe(error)
            _close(session, "failed", message)
            name = f"{job.folder.name}: " if session.batch_size > 1 else ""
            with logs.logging_for(job.folder):
                log.error("%s%s", name, message, exc_info=error)
            ran_out = memory.is_out_of_memory(error)  # seen through what it was raised from
            write_status(job.folder, "out_of_memory" if ran_out else "failed", started, message)
            return False
    write_status(job.folder, "done", started)
    checkpoint.remove(job.folder)
    return True


def _close(session: Session, status: str, reason: str) -> None:
    with contextlib.suppress(UserError):  # the disk may be full; that has been told
        session.close(status, reason)


def how_to_carry_on(folder: Path) -> str:
    """Return the command that carries on with a run, and from where."""
    step = checkpoint.step(folder)
    where = f"from its checkpoint after {step} steps" if step else "from its beginning: there is no checkpoint yet"
    return f"Carry on, {where}: {shlex.join(['python', 'run.py', f'resume={folder}'])}"
