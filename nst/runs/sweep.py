"""What a multirun adds: a plan of its jobs, all checked before the first one starts, and a table at the end.

The plan, ``sweep.json``, lies in the sweep's folder: workers of any launcher find there which folder a job has, and
``resume=FOLDER`` which jobs there were.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import itertools
import json
import re
import shlex
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock
from hydra import compose
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from nst import cli
from nst.configuration import recipes, tasks
from nst.errors import ConfigError, UserError
from nst.files import claim, is_claimed, write_json, writing
from nst.runs import launchers, resume

LONGEST_SLUG = 80
MANY = 30  # jobs whose check may take a while
LONGEST_REASON = 160
PLAN = resume.SWEEP_FILE
STOPPED = "stopped.json"
BAD = ("failed", "out_of_memory", "interrupted", "skipped", "not started", "running")


@dataclass
class Launched:
    """The sweep that this process launched.

    Attributes:
        folder: of the sweep.
        since: when, in seconds of the epoch.
        report: a report is to be written at its end.
        lock: keeps other processes out.
        ended: when each job that was done already had ended, as its status says.
    """

    folder: Path
    since: float
    report: bool
    lock: FileLock
    ended: dict[str, str]


_launched: Launched | None = None


class CheckFirst(Callback):
    """Hydra callback that refuses a run, or a whole sweep, before any folder is made, and plans a sweep.

    Hydra swallows exceptions of callbacks, so a refusal prints its message and exits.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the only job, and that its folder is not taken or holds the same job."""
        global _claimed
        folder, job = Path(config.hydra.run.dir), _job_config(config)
        try:
            if job.resume is None and _is_named(config, "run"):
                refuse_used(folder, "a run", "hydra.run.dir")
            _check_or_exit([job])
            if job.resume is not None:
                resume.refuse_changes(folder, job)
            else:
                _refuse_idle([job], map(resume.key_of, _lines(config, "task")))
            _, _claimed = _make_folder(config, "run")  # before Hydra writes anything there
        except Exception as error:
            cli.reject(error)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check and plan every job of a grid; a sampler that chooses as it goes has its jobs checked one by one."""
        global _launched
        folder = Path(config.hydra.sweep.dir)
        try:
            launchers.prepare(config)
            if config.resume is None and _is_named(config, "sweep"):
                refuse_used(folder, "a sweep", "hydra.sweep.dir")
            overrides = _sweep_overrides(config)
            swept = {_key(o): _values(o) for o in overrides if o.is_sweep_override()}
            empty = [o.input_line for o in overrides if o.is_discrete_sweep() and not any(o.sweep_string_iterator())]
            if empty:
                raise UserError(f"{empty[0]} gives no values, so there would be no run. Check the pattern or range.")
            if idle := [key for key in swept if key in resume.HOUSEKEEPING]:
                raise UserError(f"{', '.join(idle)} changes no picture, so a sweep cannot vary it. Give it one value.")
            if "study" in swept:
                raise UserError("A study is a sweep of its own: run one at a time, study=NAME.")
            jobs: list[tuple[list[str], DictConfig]] = []
            if _is_grid(config):
                (lines,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
                name = kwargs.get("config_name")
                if len(lines) > MANY:
                    print(f"Checking {len(lines)} jobs ...", file=sys.stderr, flush=True)
                jobs = list(_composed(name, [_own(line) for line in lines]))
                _check_or_exit([job for _, job in jobs])
                if config.resume is None and jobs:
                    _refuse_idle([job for _, job in jobs], map(resume.key_of, jobs[0][0]))
            folder, lock = _make_folder(config, "sweep")
            added = resume.read(folder / PLAN).get("swept", {}).keys() - swept.keys()
            swept |= {_key(o): [o.get_value_element_as_str()] for o in overrides if _key(o) in added}
            plan = _plan(folder, config, swept, jobs)
            if _launched is None:  # a sweep that was given further points is carried on with in several calls
                statuses = {name: resume.read(folder / name / "status.json") for name in job_folders(folder)}
                ended = {name: str(one.get("ended")) for name, one in statuses.items() if one.get("status") == "done"}
                _launched = Launched(folder, time.time(), bool(config.report), lock, ended)
            for path in folder.glob(".*.tmp"):  # left by a process that was killed
                path.unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):
                (folder / STOPPED).unlink()
            write_json(folder / PLAN, plan)
        except Exception as error:
            cli.reject(error)


_claimed: FileLock | None = None  # of the folder of a single run


def _is_named(config: DictConfig, kind: str) -> bool:
    """Tell whether somebody has said where a run or sweep shall lie; else its folder is named after the time."""
    return any(line.lstrip("+").startswith(f"hydra.{kind}.dir=") for line in _lines(config, "hydra"))


def _lines(config: DictConfig, whose: str) -> list[str]:
    """Return what was typed, nothing in it resolved: ``hydra``'s own settings, or those of the ``task``."""
    found: Any = OmegaConf.to_container(config.hydra.overrides[whose], resolve=False)
    return [str(line) for line in found]


def _make_folder(config: DictConfig, kind: str) -> tuple[Path, FileLock]:
    """Make and claim the folder of a run or sweep; one named after the time is new, whoever begins in that second.

    Args:
        config: with Hydra's part, which is told the name.
        kind: ``run`` or ``sweep``.

    Raises:
        UserError: another process has the folder, or it cannot be made.
    """
    folder = first = Path(config.hydra[kind].dir)
    with writing(folder):
        if _is_named(config, kind):
            folder.mkdir(parents=True, exist_ok=True)
            return folder, claim(folder)
        first.parent.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(2):
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                break
            folder = first.with_name(f"{first.name}_{number}")
    with read_write(config), open_dict(config):
        config.hydra[kind].dir = str(folder)
        config.hydra.overrides.hydra.append(f"hydra.{kind}.dir={cli.quoted(str(folder))}")
    return folder, claim(folder)


def _composed(name: str | None, lines: Sequence[list[str]]) -> Iterator[tuple[list[str], DictConfig]]:
    """Yield the words and the configuration of each job; where only values differ, one is composed and they are set."""
    loader = GlobalHydra.instance().config_loader()
    parser = OverridesParser.create(config_loader=loader)
    bases: dict[tuple[str, ...], DictConfig] = {}
    for own in lines:
        parsed = parser.parse_overrides(own)
        values = [o for o in parsed if o.type is OverrideType.CHANGE and not loader.get_group_options(o.key_or_group)]
        rest = tuple(line for line, o in zip(own, parsed, strict=True) if o not in values)
        if rest not in bases:
            bases[rest] = compose(config_name=name, overrides=list(rest))
        job = copy.deepcopy(bases[rest])
        try:
            for override in values:
                OmegaConf.update(job, override.key_or_group, override.value(), merge=True)  # as Hydra does
        except OmegaConfBaseException:  # Hydra finds the words for what is wrong
            job = compose(config_name=name, overrides=own)
        yield own, job


def finish(interrupted: bool) -> bool:
    """Print how the sweep of this process ended, a line for each job; return False if any is not done.

    Args:
        interrupted: somebody wants this process to end, so a report that is still missing is not written.
    """
    if _launched is None:
        return True
    folder = _launched.folder
    page = folder / "report.html"
    if _launched.report and not interrupted and not (page.exists() and page.stat().st_mtime >= _launched.since - 1):
        from nst.report.callback import write_sweep_report  # here, since Hydra calls no callback after an exception

        write_sweep_report(folder)
    names = job_folders(folder)
    rows = [(name, *_outcome(folder / name, _launched.ended.get(name))) for name in names]
    counts = Counter(status for _, status, _, _ in rows)
    width = max((len(name) for name, *_ in rows), default=0)
    print(f"\n{folder}: {', '.join(f'{count} {status}' for status, count in counts.items()) or 'no jobs'}")
    for name, status, seconds, reason in rows:
        took = f"{seconds:.0f} s" if seconds is not None else ""
        print(f"  {name:<{width}}  {status:<13} {took:>7}  {reason}".rstrip())
    for note in resume.changed_inputs(resume.read(folder / name / "run.json") for name in names):
        print(f"Mind: {note}")
    if any(status in BAD for status in counts):
        print(f"Finish it, when the cause is mended: python run.py resume={shlex.quote(str(folder))}")
    _launched.lock.release()
    return not any(status in BAD for status in counts)


def job_folders(folder: Path) -> list[str]:
    """Return the names of a sweep's job folders, planned or begun, by number."""
    planned = [str(job["folder"]) for job in resume.read(folder / PLAN).get("jobs", [])]
    begun = [path.parent.name for path in folder.glob("*/status.json")]
    return sorted({*planned, *begun}, key=lambda name: (int(re.match(r"\d*", name)[0] or 0), name))  # type: ignore[index]


def stop(folder: Path, failed: str) -> None:
    """Leave word that no further job of a sweep is to be begun, since one has failed."""
    write_json(folder / STOPPED, {"after": failed})


def stopped_after(folder: Path) -> str | None:
    """Return the name of the job after whose failure the sweep was stopped, or None."""
    return resume.read(folder / STOPPED).get("after")


def refuse_used(folder: Path, what: str, knob: str) -> None:
    """Refuse a folder that already holds results: Hydra would write over part of them before our code runs.

    Raises:
        UserError: it does.
    """
    traces = ("status.json", "metrics.csv", "run.json") if what == "a run" else (PLAN, "multirun.yaml")
    if any((folder / name).exists() for name in traces):
        raise UserError(
            f"{folder} already holds {what}. Carry on with it: resume={folder}. Or choose another: {knob}=FOLDER."
        )


def job_folder(folder: str, number: int, overrides: Sequence[str]) -> str:
    """Return the name of a job's folder: as planned, or ``<number>_<what differs>`` where a sampler chose it.

    Args:
        folder: of the sweep.
        number: of the job.
        overrides: the job's, as ``key=value``.
    """
    plan = resume.read(Path(folder) / PLAN)
    wanted = _same(overrides)
    for job in plan.get("jobs", []):
        if _same(job["overrides"]) == wanted:
            return str(job["folder"])
    return f"{number}{slug(overrides, plan.get('swept'))}"


def slug(overrides: Sequence[str], swept: Any = None) -> str:
    """Return ``_<what differs>`` for a job's folder, safe on every file system and of limited length.

    Args:
        overrides: the job's, as ``key=value``.
        swept: the keys that the sweep varies, which alone are named; all of them if it is None.
    """
    parts = []
    for override in overrides:
        key, _, text = override.partition("=")
        key = key.lstrip("+~")
        if swept is None or key in swept:
            value: Any = text
            with contextlib.suppress(HydraException):
                value = OverridesParser.create().parse_override(override).value()
            parts.append(f"{key.rpartition('/')[2]}={_brief(value)}")
    name = re.sub(r"[^A-Za-z0-9_.,=+-]+", "-", ",".join(parts)).strip("-. ")
    if len(name) > LONGEST_SLUG:
        name = f"{name[: LONGEST_SLUG - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return f"_{name}" if name else ""


def _plan(
    folder: Path, config: DictConfig, swept: dict[str, list[str]], jobs: list[tuple[list[str], DictConfig]]
) -> dict[str, Any]:
    """Return what ``sweep.json`` is to hold: an earlier plan with the new jobs added, or a new one.

    Raises:
        UserError: a job of the earlier plan has another configuration now.
    """
    old = resume.read(folder / PLAN)
    known = [job for job in old.get("jobs", []) if (folder / job["folder"] / "run.json").exists()]
    records = {job["folder"]: resume.read(folder / job["folder"] / "run.json") for job in known}
    by_config = {_fingerprint(record["config"]): name for name, record in records.items() if "config" in record}
    by_overrides = {_same(job["overrides"]): job["folder"] for job in old.get("jobs", [])}
    keys = {*old.get("swept", {}), *swept}
    points = {_point(keys, r["config"], r["choices"]): name for name, r in records.items() if "config" in r}

    planned = {job["folder"]: job["overrides"] for job in old.get("jobs", [])}
    number = 1 + max((int(n) for name in planned if (n := re.match(r"\d*", name)[0])), default=-1)  # type: ignore[index]
    for place, (overrides, job) in enumerate(jobs):
        settings = resume.settings(job)
        name = by_config.get(_fingerprint(settings)) or by_overrides.get(_same(overrides))
        if name is None and points:
            name = points.get(_point(keys, settings, _choices(overrides)))
        if name is None:
            name = _own_subdir(config, overrides, place) or f"{number}{slug(overrides, swept)}"
            number += 1
        resume.refuse_changes(folder / name, job)
        planned[name] = _science(overrides)
    began = {
        "command": cli.command(),
        "arguments": cli.typed(),
        "cwd": str(Path.cwd()),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "launcher": _choice(config, "hydra/launcher"),
        "sweeper": _choice(config, "hydra/sweeper"),
    }
    shown = {"title": config.title, "question": config.question}
    earlier = old.get("swept", {})
    values = {key: [*dict.fromkeys([*earlier.get(key, []), *swept.get(key, [])])] for key in [*earlier, *swept]}
    kept = {name: old[name] for name in began if name in old}
    grid = ["--multirun" if word == "-m" else word for word in resume.without_resume(sys.argv[1:])]
    grids = [*old.get("grids", []), *([] if grid in old.get("grids", []) else [grid])]
    resumed = [*old.get("resumed", []), {"command": began["command"], "time": began["started"]}] if old else []
    return {
        **began,
        **kept,
        **({"resumed": resumed} if resumed else {}),
        "grids": grids,
        **{name: text if text is not None else old.get(name) for name, text in shown.items()},
        "swept": values,
        "jobs": [{"folder": name, "overrides": overrides} for name, overrides in planned.items()],
    }


def _own_subdir(config: DictConfig, overrides: list[str], number: int) -> str | None:
    """Return the folder that a job gets from a ``hydra.sweep.subdir`` that was typed; None where ours counts."""
    lines = [*_lines(config, "hydra"), *overrides]
    if not any(line.lstrip("+").startswith("hydra.sweep.subdir=") for line in lines):
        return None
    own = compose(config_name=_config_name(), overrides=lines, return_hydra_config=True)
    hydra, before = HydraConfig.instance(), HydraConfig.instance().cfg
    with read_write(own), open_dict(own):
        own.hydra.job.num, own.hydra.job.id = number, str(number)
    hydra.set_config(own)
    try:
        return str(own.hydra.sweep.subdir)
    finally:
        hydra.cfg = before


def _outcome(folder: Path, ended_before: str | None) -> tuple[str, float | None, str]:
    """Return (status, seconds, reason) of a job as the table shows them; one that died without a word is noted."""
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


def _brief(value: Any) -> str:
    """Return a value for a file name: a path by its last part, a list or mapping by its items."""
    if isinstance(value, dict):
        return ",".join(f"{key}-{_brief(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ",".join(_brief(item) for item in value)
    return re.split(r"[/\\]", str(value))[-1]


def _key(override: Override) -> str:
    return str(override.get_key_element()).lstrip("+~")


def _values(override: Override) -> list[str]:
    """Return the values that a sweep tries, as typed; none where a sampler draws them from a range."""
    if not override.is_choice_sweep() and not override.is_range_sweep():
        return []
    return [str(value) for value in override.sweep_string_iterator()]


def _science(overrides: Sequence[str]) -> list[str]:
    """Leave out what only says how a job is kept and shown."""
    housekeeping = tuple(f"{name}=" for name in resume.HOUSEKEEPING)
    return [line for line in overrides if not line.lstrip("+").startswith(housekeeping)]


def _same(overrides: Sequence[str]) -> tuple[str, ...]:
    """Return what tells jobs of a sweep apart, whatever order it was typed in."""
    return tuple(sorted(_science(overrides)))


def _fingerprint(settings: dict[str, Any]) -> str:
    """Return a configuration as text, without what may change on the way."""
    return json.dumps({k: v for k, v in settings.items() if k not in resume.HOUSEKEEPING}, sort_keys=True)


def _point(keys: set[str], settings: dict[str, Any], choices: dict[str, str]) -> tuple[str, ...]:
    """Return where a job stands on the axes of a sweep."""
    config = OmegaConf.create(settings)
    return tuple(str(choices.get(key, OmegaConf.select(config, key, default=None))) for key in sorted(keys))


def _choices(overrides: list[str]) -> dict[str, str]:
    """Return the option chosen of each group."""
    choices = compose(config_name=_config_name(), overrides=overrides, return_hydra_config=True).hydra.runtime.choices
    return recipes.recorded(choices)


def _config_name() -> str | None:
    name = HydraConfig.get().job.config_name if HydraConfig.initialized() else "config"
    return str(name) if name else None


def _choice(config: DictConfig, group: str) -> str:
    return str(config.hydra.runtime.choices.get(group))


def _job_config(config: DictConfig) -> DictConfig:
    """Return the configuration of the job without Hydra's own part."""
    job = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    assert isinstance(job, DictConfig)
    return job


def _is_grid(config: DictConfig) -> bool:
    return str(config.hydra.sweeper.get("_target_")).endswith("BasicSweeper")


def _sweep_overrides(config: DictConfig) -> list[Override]:
    """Return what the sweeper is given, parsed."""
    lines = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    lines += _lines(config, "task")
    loader = GlobalHydra.instance().config_loader()
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(lines)
    return list({override.get_key_element(): override for override in parsed}.values())  # the last of a key counts


def _own(overrides: Sequence[str]) -> list[str]:
    """Leave out Hydra's own settings, which play no part in the check."""
    return [override for override in overrides if not override.startswith(("hydra.", "hydra/"))]


def _check_or_exit(jobs: list[DictConfig]) -> None:
    """Check jobs; print each mistake once and exit if there are any."""
    from nst.setup.check import check  # here, since it needs torch, which --help need not wait for

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


def _refuse_idle(jobs: Sequence[DictConfig], typed: Iterable[str]) -> None:
    """Refuse what is typed and changes nothing in any job; a run alone may say its seed all the same.

    Raises:
        UserError: the first such knob, and why.
    """
    typed, idle = list(typed), [tasks.idle(job) for job in jobs]
    if "style" in typed and jobs[0].task == "apply":
        from nst.applying import model  # here, since it needs torch, as the check before has done

        if hasattr(model.load(jobs[0]).network, "take_styles"):  # one that paints in any style
            typed.remove("style")
    for key in typed:
        reasons = [next((why for name, why in of.items() if f"{key}.".startswith(f"{name}.")), None) for of in idle]
        if all(reasons) and reasons and not (len(jobs) == 1 and key == "seed"):
            raise UserError(f"{key} changes nothing here: {reasons[0]}. Leave it out.")


def single_layers(architecture: str) -> str:
    """Return an axis for a sweep: a layer of each scale of a network alone, as ``[relu1_1],[relu2_1],...``."""
    from nst.networks.backbones import scales  # here, since it needs torch, which --help need not wait for

    return ",".join(f"[{name}]" for name in scales(architecture))


def growing_layers(architecture: str) -> str:
    """Return an axis for a sweep: the layers up to each scale of a network, as ``[relu1_1],[relu1_1,relu2_1],...``."""
    from nst.networks.backbones import scales

    names = scales(architecture)
    return ",".join(f"[{','.join(names[: count + 1])}]" for count in range(len(names)))


# On import, since workers of a launcher import this module and not run.py.
for _resolver in (job_folder, single_layers, growing_layers):
    OmegaConf.register_new_resolver(f"nst.{_resolver.__name__}", _resolver, replace=True)
