"""What a job does with its configuration: optimise a picture, train a network, or apply one; and what each leaves idle.

A knob that a task has no use for is refused unless it stands at the value that says nothing, so that nobody waits for
an effect that cannot come; a group that it has no use for is not looked at, and may differ when a run is resumed.
"""

from collections.abc import Mapping
from typing import Any

TASKS = ("optimize", "train", "apply")
WHAT = {
    "optimize": "which optimises the pixels of one picture",
    "train": "which trains the weights of a network",
    "apply": "which paints with a network that has been trained",
}
# Of pixels that are optimised: there are none where a network paints.
_OF_PIXELS: dict[str, Any] = {
    **{"average": 0.0, "clip_gradient": 0.0, "stop_change": 0.0, "clamp_range": None, "clamp_until": None},
    **{"style_masks": None, "content_mask": None, "color": "style"},
}
# Knobs that a task has no use for, with the value that says nothing.
IDLE: dict[str, dict[str, Any]] = {
    "optimize": {"photos": None, "model": None},
    "train": {**_OF_PIXELS, "clamp": "never", "model": None, "inspect": [], "pixel_space": "unit"},
    "apply": {
        **_OF_PIXELS,
        **{"photos": None, "style_size": None, "style_fit": None, "inspect": [], "save_every": 0},
        **{"alpha": 1.0, "beta": 0.01, "tv": 0.0, "pixel_space": "unit"},
    },
}
# Groups that a task has no use for.
IDLE_GROUPS: dict[str, tuple[str, ...]] = {
    "optimize": ("transformer", "training"),
    "train": ("init", "parameterization", "schedule"),
    "apply": (
        *("backbone", "layers", "content_loss", "style_loss", "init", "optimizer", "schedule", "lr_schedule"),
        *("parameterization", "transformer", "training", "tracking"),
    ),
}
PAIRS = ("pair", "pairs", "pairing")  # which images they mean stands in content and style
# Beside them, knobs that do nothing and harm nobody at whatever value: they come with a group or with a study.
SILENT: dict[str, tuple[str, ...]] = {
    "optimize": (),
    "train": ("cuda_graph", "tile", "optimizer_units"),
    "apply": (
        *("pair", "style", "steps", "margin", "pooling", "tv_kind", "tv_reduction", "clamp", "jitter"),
        *("cuda_graph", "engine", "compile", "optimizer_units"),
    ),
}


def of(config: Mapping[Any, Any]) -> str:
    """Return the task of a configuration; of one recorded before there were others it is ``optimize``."""
    return str(config.get("task", "optimize"))


def uses(task: str, name: str) -> bool:
    """Tell whether a task has a use for a top-level knob or group."""
    return name not in IDLE[task] and name not in IDLE_GROUPS[task] and name not in SILENT[task]


def in_use(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return of a resolved configuration what its task has a use for, without what another part of it says."""
    task = of(config)
    return {k: v for k, v in config.items() if k not in PAIRS and (task not in TASKS or uses(task, k))}


def problems(config: Mapping[Any, Any]) -> list[str]:
    """Return, for each knob that does nothing in the configuration's task and has been set, what to do."""
    task = of(config)
    found = []
    for name, neutral in IDLE[task].items():
        value = config[name]
        if value != neutral:
            word = {None: "null"}.get(neutral, neutral) if not isinstance(neutral, list) else "[]"
            way_out = f"Leave it out, or {name}={word}."
            if name == "clamp":
                way_out = "It comes with an optimizer of pixels: choose optimizer=weights, or clamp=never."
            found.append(f"{name}={value} does nothing with task={task}, {WHAT[task]}. {way_out}")
    return found


def idle(config: Mapping[Any, Any]) -> dict[str, str]:
    """Return knobs and groups that change nothing in a configuration, each with the reason.

    Args:
        config: the composed configuration, without mistakes.
    """
    task = of(config)
    reason = f"task={task}, {WHAT[task]}, has no use for it"
    found = dict.fromkeys((*IDLE_GROUPS[task], *SILENT[task]), reason)
    found = {name: why for name, why in found.items() if name not in SAID_ELSEWHERE}
    if task == "apply":
        return found | {"style": STYLE_OF_NETWORK}
    if [config["content"], config["style"]] != config["pair"]:
        found["pair"] = "content or style is given beside it; pair=[CONTENT,STYLE] says both"
    if config["pairs"] is None:
        found["pairing"] = "there is no folder of pairs to go through, pairs=FOLDER"
    if config["output_format"] != "jpeg":
        found["jpeg_quality"] = "output_format is not jpeg"
    if not config["tv"]:
        found |= dict.fromkeys(("tv_kind", "tv_reduction"), "tv is 0")
    for kind, weight in (("content", "alpha"), ("style", "beta")):
        if not config["layers"].get(kind):
            found |= dict.fromkeys((weight, f"{kind}_loss"), f"layers.{kind} is empty")
    if task == "optimize":
        schedule = config["schedule"]
        if schedule.get("sizes") is not None:
            names = ("size", "schedule.from", "schedule.to", "schedule.factor")
            found |= dict.fromkeys(names, "schedule.sizes says every size")
        else:
            if schedule.get("from") is None:
                found["schedule.factor"] = "there is one scale"
            if schedule.get("to") is not None:
                found["size"] = "schedule.to says the last size"
        if not _draws(config):
            found["seed"] = "nothing is drawn at random: no noise at the start, no jitter, no loss that draws"
    return found


STYLE_OF_NETWORK = "the network paints in what it was trained for; of several styles, style_weights chooses"
# Knobs of SILENT and IDLE_GROUPS that come with the machine, or are told with more words.
SAID_ELSEWHERE = ("cuda_graph", "tile", "optimizer_units", "engine", "compile")
_FIXED_STARTS = ("content", "style", "recolored", "file", "style_color")
_FIXED_LOSSES = ("MSELoss", "GramLoss", "MomentsLoss", "GaussianWassersteinLoss", "LinearMMDLoss", "PolynomialMMDLoss")


def _draws(config: Mapping[Any, Any]) -> bool:
    """Tell whether the seed can change the picture; what is not ours may draw."""
    start = str(config["init"].get("_target_"))
    fixed = [f"nst.optimization.initial.from_{name}" for name in _FIXED_STARTS]
    losses = [target for kind in ("content", "style") for target in _losses_of(config[f"{kind}_loss"])]
    amplitude = config["init"].get("amplitude", 0) if start.endswith("style_color") else 0
    is_fixed = start in fixed and not amplitude and all(loss.rpartition(".")[2] in _FIXED_LOSSES for loss in losses)
    parts = [*losses, *(str(config[group].get("_target_")) for group in ("backbone", "optimizer", "lr_schedule"))]
    is_ours = all(part.startswith(("nst.", "torch.optim.")) for part in parts)
    return bool(config["jitter"]) or not (is_fixed and is_ours)


def _losses_of(node: Mapping[Any, Any]) -> list[str]:
    """Return the class of a loss, or the classes of those that it adds up."""
    target = str(node.get("_target_"))
    if target != "nst.losses.SumLoss":
        return [target]
    return [inner for loss in node["losses"].values() for inner in _losses_of(loss)]
