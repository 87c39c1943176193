"""Hydra's launcher ``batch``: jobs of a multirun that may share a batch run as one optimisation, the others in turn.

Hydra imports this module whenever it starts, so that what is slow to import is imported when it is needed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, configure_log, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

log = logging.getLogger(__name__)


class BatchLauncher(Launcher):
    """Runs the jobs in this process, several at a time in one batch.

    Args:
        images: in a batch at most; ``auto`` takes as many as the memory has room for.
    """

    def __init__(self, images: int | str = "auto") -> None:
        self.images = None if images == "auto" else int(images)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra hands over before the launch."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; return what each returned, in their order."""
        from nst.batching import grouping  # here, since it needs torch

        setup_globals()
        self._log_as_hydra()
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        configs = {
            number: self._composed(number, overrides) for number, overrides in enumerate(job_overrides, initial_job_idx)
        }
        plan = grouping.plan([_candidate(number, config) for number, config in configs.items()], self.images)
        log.info("%s", plan)
        returns: dict[int, JobReturn] = {}
        for numbers in plan.batches:
            if len(numbers) == 1:
                returns[numbers[0]] = self._run(self.task_function, configs[numbers[0]])
            else:
                returns |= self._run_together({number: configs[number] for number in numbers})
            self._log_as_hydra()
        return [returns[number] for number in configs]

    def _composed(self, number: int, overrides: Sequence[str]) -> DictConfig:
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        return config

    def _run(self, task: Callable[[DictConfig], Any], config: DictConfig) -> JobReturn:
        """Run a task as Hydra runs a job: in its folder, with its log, its saved configuration and callbacks."""
        return run_job(
            hydra_context=self.hydra_context,
            task_function=task,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )

    def _run_together(self, configs: dict[int, DictConfig]) -> dict[int, JobReturn]:
        """Run several jobs as one batch: Hydra begins one inside the other, and the last one runs them all."""
        from nst.job import objectives, run_in_sweep, this_job  # here, since they need torch
        from nst.runs import logs, resume  # likewise
        from nst.runs.record import Job  # likewise

        jobs: list[Job] = []
        files: list[tuple[Path, logging.Handler]] = []
        returns: dict[int, JobReturn] = {}
        waiting = list(configs)

        def task(config: DictConfig) -> tuple[float, ...] | None:
            job = this_job(config)
            jobs.append(job)
            files.extend((job.folder, handler) for handler in logs.file_handlers())
            if waiting:
                begin(waiting.pop(0))
            else:
                with logs.shared(files):
                    run_in_sweep(jobs)
            return objectives(resume.past(job.folder))

        def begin(number: int) -> None:
            returns[number] = self._run(task, configs[number])

        begin(waiting.pop(0))
        return returns

    def _log_as_hydra(self) -> None:
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)


def _candidate(number: int, config: DictConfig) -> Any:
    """Return what the plan needs to know of a job; its folder is named by a resolver that asks for Hydra's part."""
    from nst.batching.grouping import Candidate  # here, since it needs torch

    before = HydraConfig.instance().cfg
    try:
        HydraConfig.instance().set_config(config)
        folder = Path(str(config.hydra.sweep.dir)) / str(config.hydra.sweep.subdir)
    finally:
        HydraConfig.instance().cfg = before
    job = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    return Candidate(number, job, folder)
