"""What a multirun adds: every job is checked before the first one starts, and folders are named by what differs."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from nst import cli
from nst.errors import ConfigError, UserError

LONGEST_SLUG = 80
_swept: set[str] | None = None


class CheckFirst(Callback):
    """Hydra callback that refuses a run, or a whole sweep, before any folder is made.

    Hydra swallows exceptions of callbacks, so a refusal prints its message and exits.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the only job, and that its folder is not taken."""
        _refuse_used(Path(config.hydra.run.dir) / "status.json", "a run", "hydra.run.dir")
        try:
            _check_or_exit([_job_config(config)])
        except Exception as error:
            cli.reject(error)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check every job of a grid; a sweeper that chooses as it goes has its jobs checked one by one later."""
        global _swept
        _refuse_used(Path(config.hydra.sweep.dir) / "multirun.yaml", "a sweep", "hydra.sweep.dir")
        try:
            overrides = _sweep_overrides(config)
            if overrides is None:
                return
            _swept = {o.get_key_element().lstrip("+~") for o in overrides if o.is_sweep_override()}
            (jobs,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
            name = kwargs.get("config_name")
            _check_or_exit([compose(config_name=name, overrides=_own(job)) for job in jobs])
        except Exception as error:
            cli.reject(error)


def slug(overrides: Sequence[str]) -> str:
    """Return ``_<what differs>`` for a job's folder, safe on every file system and of limited length.

    Args:
        overrides: the job's, as ``key=value``; only those that the sweep varies are named.
    """
    parts = []
    for override in overrides:
        key, _, text = override.partition("=")
        key = key.lstrip("+~")
        if _swept is None or key in _swept:
            value: Any = text
            with contextlib.suppress(HydraException):
                value = OverridesParser.create().parse_override(override).value()
            parts.append(f"{key.rpartition('/')[2]}={_brief(value)}")
    name = re.sub(r"[^A-Za-z0-9_.,=+-]+", "-", ",".join(parts)).strip("-. ")
    if len(name) > LONGEST_SLUG:
        name = f"{name[: LONGEST_SLUG - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return f"_{name}" if name else ""


def _brief(value: Any) -> str:
    """Return a value for a file name: a path by its last part, a list or mapping by its items."""
    if isinstance(value, dict):
        return ",".join(f"{key}-{_brief(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ",".join(_brief(item) for item in value)
    return re.split(r"[/\\]", str(value))[-1]


def swept_keys() -> set[str]:
    """Return the names of what the multirun of this process varies; empty for a single run."""
    return set(_swept or ())


def register() -> None:
    """Make ``${nst.slug:...}`` known to the configuration."""
    OmegaConf.register_new_resolver("nst.slug", slug, replace=True)


def _sweep_overrides(config: DictConfig) -> list[Any] | None:
    """Return the parsed overrides of a grid sweep, or None for another sweeper."""
    sweeper = config.hydra.sweeper
    if not str(sweeper.get("_target_")).endswith("BasicSweeper"):
        return None
    lines = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()]
    lines += [str(line) for line in config.hydra.overrides.task]
    loader = GlobalHydra.instance().config_loader()
    return list(OverridesParser.create(config_loader=loader).parse_overrides(lines))


def _own(overrides: list[str]) -> list[str]:
    """Leave out Hydra's own settings, which play no part in the check."""
    return [override for override in overrides if not override.startswith(("hydra.", "hydra/"))]


def _job_config(full: DictConfig) -> DictConfig:
    """Return the configuration without Hydra's part."""
    return OmegaConf.masked_copy(full, [str(key) for key in full if key != "hydra"])


def _refuse_used(trace: Path, what: str, knob: str) -> None:
    """Exit if a folder already holds results: Hydra would write over part of them before our code runs."""
    if trace.exists():
        cli.reject(UserError(f"{trace.parent} already holds {what}. Choose another folder with {knob}=FOLDER."))


def _check_or_exit(jobs: list[DictConfig]) -> None:
    """Check jobs; print each mistake once and exit if there are any."""
    from nst.check import check  # here, since it needs torch, which --help need not wait for

    found: dict[str, int] = {}
    for job in jobs:
        try:
            check(job)
        except ConfigError as error:
            for problem in error.problems:
                found[problem] = found.get(problem, 0) + 1
    if found:
        of = f" (in {{}} of {len(jobs)} jobs)" if len(jobs) > 1 else ""
        cli.reject(ConfigError(problem + of.format(count) for problem, count in found.items()))
