"""A sweep in its folder: the plan of its jobs, their names, and the word that no further one is to be begun.

The plan, ``sweep.json``, lies in the sweep's folder: workers of any launcher find there which folder a job has, and
``resume=FOLDER`` which jobs there were.
"""

import contextlib
import copy
import functools
import hashlib
import itertools
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from nst import cli
from nst.configuration import recipes
from nst.errors import UserError, nearest
from nst.files import claim, write_json, writing
from nst.runs import folders, resume

LONGEST_SLUG = 80
LONGEST_NAME = 60  # of a single run, whose time tells it from others
# Beside housekeeping, knobs that its name is silent about: what they change is not in the picture.
UNNAMED = ("log_every", "save_every", "inspect", "device", "threads")
PLAN = folders.SWEEP_FILE
STOPPED = "stopped.json"
OF_NO_CONCERN = (("content", "train"), ("style", "apply"))  # a network is trained for a style, and has it then
Jobs = Sequence[tuple[list[str], DictConfig]]  # overrides and configuration of each


def overrides_of(config: DictConfig, whose: str) -> list[str]:
    """Return what was typed, nothing in it resolved: ``hydra``'s own settings, or those of the ``task``."""
    found: Any = OmegaConf.to_container(config.hydra.overrides[whose], resolve=False)
    return [str(line) for line in found]


def is_named(config: DictConfig, kind: str) -> bool:
    """Tell whether somebody has said where a run or sweep shall lie; else its folder is named after the time."""
    return any(line.lstrip("+").startswith(f"hydra.{kind}.dir=") for line in overrides_of(config, "hydra"))


def make_folder(config: DictConfig, kind: str, about: str = "") -> tuple[Path, FileLock]:
    """Make and claim the folder of a run or sweep; one named after the time is new, whoever begins in that second.

    Hydra's part of the configuration is told the name. ``kind`` is ``run`` or ``sweep``; ``about``, what it is, stands
    behind the time.

    Raises:
        UserError: another process has the folder, or it cannot be made.
    """
    folder = Path(config.hydra[kind].dir)
    first = folder.with_name(folder.name + about)
    with writing(folder):
        if is_named(config, kind):
            folder.mkdir(parents=True, exist_ok=True)
            return folder, claim(folder)
        folder = first
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


def about_run(config: DictConfig) -> str:
    """Return ``_<what a run is>`` for its folder's name: recipe or task, content and style, what else was typed.

    Size and steps stand last; of what was typed, what makes the name longer than a list has room for is left out.
    """
    chosen = recipes.recorded(config.hydra.runtime.choices)
    words = [chosen[group] for group in ("experiment", "method") if chosen.get(group, "None") != "None"]
    words += [config.task] if config.task != "optimize" else []
    used = [k for k in ("content", "style") if config.layers.get(k) and (k, config.task) not in OF_NO_CONCERN]
    named = [config[kind] if OmegaConf.is_list(config[kind]) else [config[kind]] for kind in used]
    words += ["+".join(Path(str(name)).stem for name in names) for names in named]
    told = ("experiment", "method", "task", "content", "style", "pair", *UNNAMED)
    typed = [line for line in science(overrides_of(config, "task")) if resume.key_of(line) not in told]
    name, kept = "_".join(words), list[str]()
    for line in sorted(typed, key=lambda line: resume.key_of(line) in ("size", "steps")):
        if len(name + slug([*kept, line])) <= LONGEST_NAME:
            kept.append(line)
    return _shortened(name + slug(kept))


def about_sweep(config: DictConfig, swept: Sequence[str]) -> str:
    """Return ``_<what a sweep is>`` for its folder's name: the study, else what is varied."""
    study = recipes.recorded(config.hydra.runtime.choices).get("study", "None")
    return _shortened(study if study != "None" else ",".join(key.rpartition("/")[2] for key in swept))


def refuse_used(folder: Path, what: str, knob: str) -> None:
    """Raise a UserError if a folder holds results: Hydra would write over part of them before our code runs."""
    traces = folders.RUN_FILES if what == "a run" else (PLAN, "multirun.yaml")
    if any((folder / name).exists() for name in traces):
        raise UserError(
            f"{folder} already holds {what}. Carry on with it: resume={folder}. Or choose another: {knob}=FOLDER."
        )


def refuse_member(folder: Path) -> None:
    """Raise a UserError if a run is a job of a sweep, whose plan says how many steps all its jobs have."""
    if any(job.get("folder") == folder.name for job in resume.read(folder.parent / PLAN).get("jobs", [])):
        raise UserError(
            f"{folder} is a job of a sweep. resume={folder.parent} with these steps gives all its jobs more; for more "
            "steps of this one alone copy its folder, and resume the copy."
        )


# Jobs


def key_of(override: Override) -> str:
    """Return the knob or group that a parsed override names."""
    return str(override.get_key_element()).lstrip("+~")


def sweep_overrides(config: DictConfig) -> list[Override]:
    """Return what the sweeper is given, parsed."""
    lines = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    lines += overrides_of(config, "task")
    loader = GlobalHydra.instance().config_loader()
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(lines)
    return list({override.get_key_element(): override for override in parsed}.values())


def grid(overrides: Sequence[Override], together: Any = None) -> list[list[str]]:
    """Return the overrides of each job of a grid, as Hydra's basic sweeper forms it but for axes that go together.

    These are named by ``zip`` among the overrides, or by ``together``, the knob's value, if it is not.

    Raises:
        UserError: values are drawn, or axes cannot go together.
    """
    axes: dict[str, list[str]] = {}  # the last of a key counts
    for override in overrides:
        if key_of(override) == "zip":
            continue
        key = override.get_key_element()
        if not override.is_sweep_override():
            axes[key] = [f"{key}={override.get_value_element_as_str()}"]
            continue
        if not override.is_discrete_sweep():
            assert override.value_type is not None
            how = override.value_type.name.removesuffix("_SWEEP").lower()
            raise UserError(
                f"{how}(...) draws values, which needs a sampler: hydra/sweeper=optuna. A grid has them listed: "
                "-m NAME=1,2,3."
            )
        axes[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
    steps = {key.lstrip("+~"): [(line,) for line in lines] for key, lines in axes.items()}
    for group in zipped(overrides, together):
        if absent := [name for name in group if name not in steps]:
            name = f"zip={','.join(group)}"
            hint = nearest(absent[0], steps) or f" Give it values: {absent[0]}=FIRST,SECOND."
            raise UserError(f"{name}: the sweep has no axis {absent[0]}.{hint}")
        lead, *others = names = [name for name in steps if name in group]
        if len({len(steps[name]) for name in names}) > 1:
            counted = ", ".join(f"{name} has {len(steps[name])}" for name in names)
            raise UserError(f"zip={','.join(group)} takes as many values of each, and {counted}.")
        steps[lead] = [tuple(itertools.chain(*lines)) for lines in zip(*map(steps.get, names), strict=True)]
        for name in others:
            del steps[name]
    return [list(itertools.chain(*job)) for job in itertools.product(*steps.values())]


def zipped(overrides: Sequence[Override], together: Any = None) -> list[list[str]]:
    """Return the axes that go together, by the knob ``zip``: one list of names, or several."""
    for override in overrides:
        if key_of(override) == "zip":
            together = override.value()
            if override.is_sweep_override():
                together = [getattr(one, "text", one) for one in override.sweep_iterator()]  # without quotes
    if not together:
        return []
    named = [together] if isinstance(together, str) else list(together)
    groups = [list(map(str, one)) for one in (named if any(not isinstance(one, str) for one in named) else [named])]
    names = list(itertools.chain(*groups))
    if min(map(len, groups)) < 2 or len(names) > len({*names}):
        raise UserError(f"zip={','.join(names)} must name two axes or more, each once, such as zip=content,style.")
    return groups


def let_axes_go_together(config: DictConfig, overrides: Sequence[Override]) -> None:
    """Have a sweep run by the sweeper that knows ``zip``, if it is given; UserError if there is no grid."""
    if not (groups := zipped(overrides, config.zip)):
        return
    if not str(config.hydra.sweeper.get("_target_")).endswith("BasicSweeper"):
        chosen = config.hydra.runtime.choices.get("hydra/sweeper")
        raise UserError(f"zip is for a grid of listed values, and hydra/sweeper={chosen} chooses them. Leave one out.")
    with read_write(config), open_dict(config):
        config.zip = groups
        config.hydra.sweeper._target_ = "hydra_plugins.nst_zip_sweeper.ZipSweeper"


def composed(name: str | None, jobs: Sequence[Sequence[str]]) -> Iterator[tuple[list[str], DictConfig]]:
    """Yield each job's overrides, without Hydra's own settings, and its configuration.

    Where only values differ, one configuration is composed and they are set.
    """
    loader = GlobalHydra.instance().config_loader()
    parser = OverridesParser.create(config_loader=loader)
    bases: dict[tuple[str, ...], DictConfig] = {}
    for overrides in jobs:
        own = [line for line in overrides if not line.startswith(("hydra.", "hydra/"))]
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


def job_folders(folder: Path) -> list[str]:
    """Return the names of a sweep's job folders, planned or begun, by number."""
    planned = [str(job["folder"]) for job in resume.read(folder / PLAN).get("jobs", [])]
    begun = [path.parent.name for path in folder.glob("*/status.json")]
    return sorted({*planned, *begun}, key=lambda name: (max(_number(name), 0), name))


def job_folder(folder: str, number: int, overrides: Sequence[str]) -> str:
    """Return the name of a job's folder in a sweep's: as planned, or ``<number>_<what differs>`` if a sampler chose."""
    plan = resume.read(Path(folder) / PLAN)
    planned = {_same(job["overrides"]): str(job["folder"]) for job in reversed(plan.get("jobs", []))}
    return planned.get(_same(overrides)) or f"{number}{slug(overrides, plan.get('swept'))}"


def slug(overrides: Sequence[str], swept: Any = None) -> str:
    """Return ``_<what differs>`` for a job's folder, safe on every file system and of limited length.

    Of its overrides those are named whose key is ``swept``; all of them if that is None.
    """
    parts = []
    for override in overrides:
        key = resume.key_of(override)
        if swept is None or key in swept:
            value: Any = override.partition("=")[2]
            with contextlib.suppress(HydraException):
                value = OverridesParser.create().parse_override(override).value()
            parts.append(f"{key.rpartition('/')[2]}={_brief(value)}")
    return _shortened(",".join(parts))


def _shortened(text: str) -> str:
    """Return ``_<text>`` with nothing in it that a file system has no room for; empty for an empty one."""
    name = re.sub(r"[^A-Za-z0-9_.,=+-]+", "-", text).strip("-. ")
    if len(name) > LONGEST_SLUG:
        name = f"{name[: LONGEST_SLUG - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return f"_{name}" if name else ""


def _brief(value: Any) -> str:
    """Return a value for a file name: a path by its last part, a list or mapping by its items."""
    if isinstance(value, dict):
        return ",".join(f"{key}-{_brief(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ",".join(map(_brief, value))
    return re.split(r"[/\\]", str(value))[-1]


def _number(name: str) -> int:
    """Return the number that the name of a job's folder begins with; -1 if there is none."""
    return int(found[0]) if (found := re.match(r"\d+", name)) else -1


# The plan


def make_plan(folder: Path, config: DictConfig, swept: Mapping[str, list[str]], jobs: Jobs) -> dict[str, Any]:
    """Return what ``sweep.json`` is to hold: an earlier plan with the new jobs added, or a new one.

    Args:
        folder: of the sweep.
        config: of the sweep, with Hydra's part.
        swept: the values tried of each knob or group.
        jobs: overrides and configuration of each.

    Raises:
        UserError: a job of the earlier plan has another configuration now.
    """
    old = resume.read(folder / PLAN)
    planned = _named(old, folder, config, swept, jobs)
    began = {
        "command": cli.command(),
        "arguments": cli.typed(),
        "cwd": str(Path.cwd()),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        **{name: str(config.hydra.runtime.choices.get(f"hydra/{name}")) for name in ("launcher", "sweeper")},
    }
    resumed = [*old.get("resumed", []), *([{"command": began["command"], "time": began["started"]}] if old else [])]
    words = ["--multirun" if word == "-m" else word for word in resume.without_resume(sys.argv[1:])]
    earlier, groups = old.get("swept", {}), old.get("zip") or list(config.zip or [])
    same = functools.partial(_same, axes={*earlier, *swept})
    grids = [words if same(grid) == same(words) else grid for grid in old.get("grids", [])]  # with more steps
    return {
        **{name: old.get(name, value) for name, value in began.items()},
        **({"resumed": resumed} if resumed else {}),
        "grids": grids if words in grids else [*grids, words],
        **{name: old.get(name) if config[name] is None else config[name] for name in ("title", "question")},
        **({"zip": [list(group) for group in groups]} if groups else {}),
        "swept": {key: [*dict.fromkeys([*earlier.get(key, []), *swept.get(key, [])])] for key in {**earlier, **swept}},
        "jobs": [{"folder": name, "overrides": overrides} for name, overrides in planned.items()],
    }


def _named(
    old: Mapping[str, Any], folder: Path, config: DictConfig, swept: Mapping[str, list[str]], jobs: Jobs
) -> dict[str, list[str]]:
    """Return the overrides of each job, earlier ones and new ones, by the name of its folder.

    A new job that is an earlier one has its folder: the configuration is the same, or what was typed, or the place on
    the sweep's axes, where what else has changed is then refused.
    """
    named = {str(job["folder"]): job["overrides"] for job in old.get("jobs", [])}
    found = {name: resume.read(folder / name / "run.json") for name in named}
    records = {name: record for name, record in found.items() if "config" in record}
    axes = {*old.get("swept", {}), *swept}
    by_config = {_fingerprint(record["config"]): name for name, record in records.items()}
    by_overrides = {_same(overrides, axes): name for name, overrides in named.items()}
    by_point = {_point(axes, record["config"], record["choices"]): name for name, record in records.items()}
    number = 1 + max(map(_number, named), default=-1)
    for place, (overrides, job) in enumerate(jobs):
        settings = resume.settings(job)
        name = by_config.get(_fingerprint(settings)) or by_overrides.get(_same(overrides, axes))
        if name is None and by_point:
            choices = recipes.recorded(_with_hydra(overrides).hydra.runtime.choices)
            name = by_point.get(_point(axes, settings, choices))
        if name is None:
            name = _own_subdir(config, overrides, place) or f"{number}{slug(overrides, swept)}"
            number += 1
        resume.refuse_changes(folder / name, job)
        named[name] = science(overrides)
    return named


def _own_subdir(config: DictConfig, overrides: Sequence[str], number: int) -> str | None:
    """Return the folder that a job gets from a ``hydra.sweep.subdir`` that was typed; None where ours counts."""
    lines = [*overrides_of(config, "hydra"), *overrides]
    if not any(line.lstrip("+").startswith("hydra.sweep.subdir=") for line in lines):
        return None
    own = _with_hydra(lines)
    hydra, before = HydraConfig.instance(), HydraConfig.instance().cfg
    with read_write(own), open_dict(own):
        own.hydra.job.num, own.hydra.job.id = number, str(number)
    hydra.set_config(own)
    try:
        return str(own.hydra.sweep.subdir)
    finally:
        hydra.cfg = before


def _with_hydra(overrides: Sequence[str]) -> DictConfig:
    """Compose a job with Hydra's own part."""
    name = HydraConfig.get().job.config_name if HydraConfig.initialized() else "config"
    return compose(config_name=name or None, overrides=list(overrides), return_hydra_config=True)


def science(overrides: Sequence[str]) -> list[str]:
    """Leave out what only says how a job is kept and shown."""
    return [line for line in overrides if not resume.is_housekeeping(resume.key_of(line))]


def _same(overrides: Sequence[str], axes: Iterable[str] = ("steps",)) -> tuple[str, ...]:
    """Return what tells jobs of a sweep apart, whatever order it was typed in; all may get more steps, if no axis."""
    return tuple(sorted(line for line in science(overrides) if "steps" in axes or resume.key_of(line) != "steps"))


def _fingerprint(settings: Mapping[str, Any]) -> str:
    """Return a configuration as text, without what may change on the way."""
    return json.dumps({k: v for k, v in settings.items() if k not in resume.HOUSEKEEPING}, sort_keys=True)


def _point(axes: set[str], settings: Mapping[str, Any], choices: Mapping[Any, Any]) -> tuple[str, ...]:
    """Return where a job stands on the axes of a sweep."""
    config = OmegaConf.create(dict(settings))
    return tuple(str(choices.get(key, OmegaConf.select(config, key, default=None))) for key in sorted(axes))


# A failure


def stop(folder: Path, failed: str) -> None:
    """Leave word that no further job of a sweep is to be begun, since one has failed."""
    write_json(folder / STOPPED, {"after": failed})


def stopped_after(folder: Path) -> str | None:
    """Return the name of the job after whose failure the sweep was stopped, or None."""
    return resume.read(folder / STOPPED).get("after")


# What conf/ asks


def single_layers(architecture: str) -> str:
    """Return an axis for a sweep: a layer of each scale of a network alone, as ``[relu1_1],[relu2_1],...``."""
    from nst.networks.backbones import scales  # here, since it needs torch, which --help need not wait for

    return ",".join(f"[{name}]" for name in scales(architecture))


def growing_layers(architecture: str) -> str:
    """Return an axis for a sweep: the layers up to each scale of a network, as ``[relu1_1],[relu1_1,relu2_1],...``."""
    from nst.networks.backbones import scales  # here, since it needs torch

    names = scales(architecture)
    return ",".join(f"[{','.join(names[: count + 1])}]" for count in range(len(names)))


# On import, since workers of a launcher import this module and not run.py.
for _resolver in (job_folder, single_layers, growing_layers):
    OmegaConf.register_new_resolver(f"nst.{_resolver.__name__}", _resolver, replace=True)
