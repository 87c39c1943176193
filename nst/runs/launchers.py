"""Sweeps beyond one job after the other: what conf/hydra/launcher asks about this machine, and which extra it needs.

A job gets a GPU to itself where there are any, else its share of the cores. Workers import this module with the rest
of the package; what is registered at its end is known there too.
"""

import contextlib
import importlib.util
import logging
import os
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from nst.errors import UserError

JOB_BYTES = 2 * 2**30  # what a run takes with VGG-19 at 512 pixels, roughly
MOST_IMAGES = 128  # in a batch; Hydra begins its jobs one inside the other
FOLDER_VARIABLE = "NST_FOLDER"
EXTRAS = {
    "hydra_plugins.hydra_joblib_launcher": "joblib",
    "hydra_plugins.hydra_submitit_launcher": "submitit",
    "hydra_plugins.hydra_ray_launcher": "ray",
    "hydra_plugins.hydra_optuna_sweeper": "optuna",
}
IN_THIS_PROCESS = (".BasicLauncher", ".BatchLauncher")
OPTIONS = ("joblib", "submitit_local", "submitit_slurm", "ray", "optuna")


class Options(dict[str, Any]):
    """A group of Hydra's store of configurations, closed to the options for which conf/ has a file.

    The plugins store options of the same names, and would again in each worker. Hydra would take them for the schemas
    of our files, which is deprecated, and refuses a schema with a defaults list such as Optuna's.
    """

    def __setitem__(self, name: str, node: Any) -> None:
        if name.removesuffix(".yaml") not in OPTIONS:
            super().__setitem__(name, node)


def cores() -> int:
    """Return how many cores this process may use: those it is bound to, within its container's quota."""
    number = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # no such file, or no quota ("max")
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="utf-8").split()
        number = min(number, max(int(quota) // int(period), 1))
    return number


def gpus() -> int:
    """Return how many GPUs torch sees on this machine: CUDA's, or Apple's one."""
    import torch  # here, so that --help need not wait for it

    return torch.cuda.device_count() or int(torch.backends.mps.is_available())


def jobs_at_once() -> int:
    """Return how many jobs to run at once on this machine: one on each GPU, else as many as cores and memory allow."""
    if number := gpus():
        return number
    import torch  # here, as above

    from nst.runtime.memory import free_bytes  # likewise

    free = free_bytes(torch.device("cpu"))
    return max(min(cores(), free // JOB_BYTES if free is not None else cores()), 1)


def threads() -> int:
    """Return how many threads each of these jobs may have, so that jobs times threads are the cores."""
    return max(cores() // jobs_at_once(), 1)


def prepare(config: DictConfig) -> None:
    """Look over launcher and sweeper of a multirun; one that begins a batch's jobs at once gets its batches limited.

    Raises:
        UserError: the package that the launcher or sweeper needs is not installed, or it has a setting that is none.
    """
    for group in ("launcher", "sweeper"):
        target = str(config.hydra[group].get("_target_"))
        plugin, extra = next(((name, extra) for name, extra in EXTRAS.items() if target.startswith(name)), (None, None))
        if plugin is not None and not _is_installed(plugin):
            choice = config.hydra.runtime.choices.get(f"hydra/{group}")
            raise UserError(
                f"hydra/{group}={choice} needs an extra package: pip install -e '.[{extra}]'. "
                f"hydra/{group}=basic needs none."
            )
    sweeper, launcher = config.hydra.sweeper, config.hydra.launcher
    target = str(launcher.get("_target_"))
    if target.endswith("nst_batch_launcher.BatchLauncher"):
        number = launcher.get("images", "auto")
        if number != "auto" and not (isinstance(number, int) and 1 <= number <= MOST_IMAGES):
            raise UserError(f"hydra.launcher.images={number} must be auto or a whole number from 1 to {MOST_IMAGES}.")
    for name in ("n_jobs", "timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "nodes"):
        number = launcher.get(name)
        if number is not None and (isinstance(number, bool) or not isinstance(number, int)):
            raise UserError(f"hydra.launcher.{name}={number} must be a whole number.")
    at_once = target.endswith("submitit_launcher.LocalLauncher")
    if at_once and sweeper.get("max_batch_size", 0) is None:
        sweeper.max_batch_size = jobs_at_once()
    logging.getLogger("alembic").setLevel(logging.WARNING)  # Optuna's database tool tells of each of its parts


def in_worker() -> bool:
    """Tell whether this is a job of a sweep whose launcher starts processes of its own."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return False
    return not str(HydraConfig.get().launcher.get("_target_")).endswith(IN_THIS_PROCESS)


def enter_folder() -> None:
    """Go to the folder that the sweep was started from; Ray calls it in each worker, which may start elsewhere."""
    os.chdir(os.environ[FOLDER_VARIABLE])


def _is_installed(plugin: str) -> bool:
    try:
        return importlib.util.find_spec(plugin) is not None
    except ModuleNotFoundError:  # there are no plugins at all
        return False


def close_groups() -> None:
    """Close the groups of launchers and sweepers in Hydra's store to the options for which conf/ has a file."""
    groups = ConfigStore.instance().repo.setdefault("hydra", {})
    for group in ("launcher", "sweeper"):
        stored, groups[group] = groups.get(group, {}), Options()
        for option, node in stored.items():
            groups[group][option] = node


# On import, since workers of a launcher import this module and not run.py.
_questions = {"gpus": gpus, "gpus_per_job": lambda: min(gpus(), 1), "jobs_at_once": jobs_at_once, "threads": threads}
for _name, _question in _questions.items():
    OmegaConf.register_new_resolver(f"nst.{_name}", _question, replace=True)
