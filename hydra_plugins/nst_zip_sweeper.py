"""Hydra's sweeper for a grid some of whose axes go together, ``zip=content,style``: as its basic one otherwise.

Hydra imports this module whenever it starts, so that it imports nothing that is slow.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class ZipSweeper(Sweeper):
    """Launches the jobs that ``nst.runs.sweep.grid`` forms, which have been checked and planned.

    Args:
        max_batch_size: jobs handed to the launcher at once; None: all.
        params: the axes of a study, which are read from the configuration.
    """

    def __init__(self, max_batch_size: int | None = None, params: dict[str, str] | None = None) -> None:
        self.max_batch_size = max_batch_size

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra hands over before the sweep."""
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run the jobs; return what the launcher returned of each batch."""
        from nst.runs import sweep  # here, since Hydra imports this module whenever it starts

        assert self.config is not None and self.launcher is not None
        jobs = sweep.grid(sweep.sweep_overrides(self.config), self.config.zip)
        folder = Path(str(self.config.hydra.sweep.dir))
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        size, returns = self.max_batch_size or len(jobs), []
        for begin in range(0, len(jobs), size):
            batch: Sequence[JobReturn] = self.launcher.launch(jobs[begin : begin + size], initial_job_idx=begin)
            for job in batch:
                _ = job.return_value  # raises what the job raised
            returns.append(batch)
        return returns
