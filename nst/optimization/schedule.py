"""Coarse to fine: the sizes that a picture grows through, the steps at each, and learning rates along the way.

Coarse to fine: Gatys, Ecker, Bethge, Hertzmann & Shechtman, "Controlling Perceptual Factors in Neural Style Transfer"
(CVPR 2017), section 6.
"""

import copy
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch.optim.lr_scheduler import MultiStepLR

from nst.configuration import between_scales
from nst.errors import unknown

SETTINGS = ("from", "to", "factor", "sizes", "again", "optimizer", "detail", "factors")
CHANGING = (  # what may have factors: each scale reads it anew
    *("alpha", "beta", "tv", "content_loss", "style_loss", "optimizer", "lr_schedule", "parameterization"),
    *("average", "clip_gradient", "stop_change", "schedule.detail"),
)
AND_SO_ON = "..."  # in a list of factors: the one before it repeats until only those after it are left
MOST_STEPS = 10_000_000  # at a scale
BETWEEN_SCALES = ("restart", "carry", "auto")
SMALLEST_FACTOR = 1.05
UNCHANGED = "nst.optimization.schedule.unchanged"  # what stands for no schedule of learning rates
LENGTHS = ("T_max", "total_iters", "total_steps")  # arguments of torch's schedulers that are a number of steps


@dataclass(frozen=True)
class Scale:
    """A part of a run, at one size.

    Attributes:
        size: takes the place of the knob ``size``.
        steps: iterations of the optimiser.
    """

    size: int
    steps: int


def scales(config: DictConfig) -> list[Scale]:
    """Return the scales of a run, from coarse to fine; one, where there is no pyramid.

    Args:
        config: of the run, without mistakes; see ``problems``.
    """
    sizes = _sizes(config)
    each = _listed(config.steps)
    return [Scale(size, each[min(number, len(each) - 1)]) for number, size in enumerate(sizes)]


def total_steps(config: DictConfig) -> int:
    """Return the steps of all scales together."""
    return sum(scale.steps for scale in scales(config))


def carries(config: DictConfig) -> bool:
    """Tell whether the optimiser's state and the learning rate go on at the next scale."""
    return between_scales(config) == "carry"


def at(config: DictConfig, number: int) -> DictConfig:
    """Return the configuration of a scale: the run's, but for sizes and steps; it has this scale only.

    The size of the style image, where it has one of its own, is in proportion. A learning rate that is carried on is
    one curve over all scales.

    Args:
        config: of the run.
        number: of the scale, from 0; -1 is the last.
    """
    every = scales(config)
    one = copy.deepcopy(config)
    one.size, one.steps = every[number].size, every[number].steps
    if (style_size := OmegaConf.select(config, "style_size", default=None)) is not None:
        one.style_size = _in_proportion(style_size, every[number].size, every[-1].size)
    for name, factors in _factors(config):
        value = OmegaConf.select(config, name) * _spread(factors, len(every))[number]
        is_count = isinstance(OmegaConf.select(config, name), int) and value == int(value)
        OmegaConf.update(one, name, int(value) if is_count else value)
    kept = {"optimizer": config.schedule.get("optimizer", "restart"), "detail": one.schedule.get("detail", 0.0)}
    one.schedule = {"sizes": None, **kept}
    if carries(config):
        one.lr_schedule = with_length(config.lr_schedule, total_steps(config))
    return one


def with_length(lr_schedule: DictConfig, steps: int) -> dict[str, Any]:
    """Return the description of a scheduler in which a length that is null is a number of steps."""
    node: Any = OmegaConf.to_container(lr_schedule, resolve=True)
    return {name: steps if name in LENGTHS and value is None else value for name, value in node.items()}


def unchanged() -> None:
    """Stand in for a scheduler where the learning rate stays as it is (``lr_schedule=none``)."""


class Restart(MultiStepLR):
    """Multiplies the learning rate by gamma at each milestone, where the optimiser also forgets all it remembers.

    CS231n's assignment, for one, makes a new Adam with another rate on the way.

    Args:
        optimizer: of ``torch.optim``, one that begins anew where it has no state; L-BFGS is one.
        milestones: the steps that are the first after a restart.
        gamma: what the rate is multiplied by.
        last_epoch: torch's own; -1 begins.
    """

    def step(self, epoch: int | None = None) -> None:
        """Go on to the next step."""
        super().step(epoch)
        if self.last_epoch in self.milestones:
            self.optimizer.state.clear()


def problems(config: DictConfig, smallest: int, largest: int) -> list[str]:
    """Return the mistakes in the schedule of scales.

    Args:
        config: of the run.
        smallest: pixels that a side must have at least.
        largest: pixels that a side may have at most.
    """
    schedule = config.schedule
    if not isinstance(schedule, Mapping):
        return ["schedule must hold the settings of a schedule. Choose schedule=single or schedule=pyramid."]
    if strange := [name for name in schedule if name not in SETTINGS]:
        return [unknown("setting of schedule", str(strange[0]), SETTINGS)]
    found = _problems_of_sizes(schedule, smallest, largest)
    if not _is_whole(schedule.get("again", 0), 0, 100):
        found.append(f"schedule.again={schedule.get('again')} must be a whole number from 0 up.")
    if not _is_number(detail := schedule.get("detail", 0.0)) or detail < 0:
        found.append(f"schedule.detail={detail} must be a number from 0 up.")
    found += _problems_of_factors(config)
    if schedule.get("optimizer", "restart") not in BETWEEN_SCALES:
        found.append(f"schedule.optimizer={schedule.get('optimizer')} is not one of {', '.join(BETWEEN_SCALES)}.")
    if not found and _is_list(config.steps) and len(config.steps) > max(count := len(_sizes(config)), 2):
        are = "is 1 scale" if count == 1 else f"are {count} scales"
        found.append(
            f"steps={list(config.steps)} has {len(config.steps)} entries, one for each scale, but there {are}: "
            f"{', '.join(map(str, _sizes(config)))} pixels. Use steps=[{','.join(map(str, config.steps[:count]))}]."
        )
    style_size = OmegaConf.select(config, "style_size", default=None)
    given = [] if style_size is None else _listed(style_size)
    if found or config.size <= 0 or not given or not all(isinstance(side, int) and side > 0 for side in given):
        return found  # what is wrong with style_size itself is told with the styles
    sizes = _sizes(config)
    least = min(_listed(_in_proportion(style_size, sizes[0], sizes[-1])))
    if len(sizes) > 1 and least < smallest:
        found.append(
            f"style_size={style_size} would become {least} pixels at the scale of {sizes[0]}; at least {smallest} are "
            "needed. Raise schedule.from or style_size."
        )
    return found


def _problems_of_sizes(schedule: Mapping[str, Any], smallest: int, largest: int) -> list[str]:
    wanted = f"a whole number from {smallest} to {largest} is needed"
    if (sizes := schedule.get("sizes")) is not None:
        if not _is_list(sizes) or not sizes:
            return [f"schedule.sizes={sizes} must be a list of sizes, such as [256,512]."]
        if wrong := [size for size in sizes if not _is_whole(size, smallest, largest)]:
            return [f"schedule.sizes: {wrong[0]} is no size: {wanted}."]
        if any(after < before for before, after in itertools.pairwise(sizes)):
            return [f"schedule.sizes={list(sizes)} must not shrink from scale to scale."]
        return []
    found = [
        f"schedule.{name}={schedule[name]}: {wanted}."
        for name in ("from", "to")
        if schedule.get(name) is not None and not _is_whole(schedule[name], smallest, largest)
    ]
    if schedule.get("from") is not None and "factor" not in schedule:
        return [f"schedule.from={schedule['from']} goes with schedule=pyramid. Use that, or schedule.from=null."]
    factor = schedule.get("factor")
    if schedule.get("from") is not None and not (_is_number(factor) and float(factor or 0) >= SMALLEST_FACTOR):
        found.append(f"schedule.factor={factor}: a number from {SMALLEST_FACTOR} up is needed.")
    return found


def problems_of_steps(steps: Any) -> list[str]:
    """Return what is wrong with the knob ``steps``: a number, or a list with one for each scale.

    Two entries are those of the first scale and of each further one, of which there may be none.
    """
    each = list(steps) if _is_list(steps) else [steps]
    if each and all(_is_whole(number, 1, MOST_STEPS) for number in each):
        return []
    shown = each if _is_list(steps) else "null" if steps is None else steps
    return [f"steps={shown} must be a whole number from 1 to {MOST_STEPS}, or a list of them, one for each scale."]


def _sizes(config: DictConfig) -> list[int]:
    """Return the sizes of the scales: those listed, or last / factor^i as long as it is not below the first."""
    schedule = config.schedule
    listed = [int(size) for size in schedule.get("sizes") or ()]
    last = listed[-1] if listed else int(config.size if schedule.get("to") is None else schedule.to)
    again = [last] * schedule.get("again", 0)
    if listed or schedule.get("from") is None:
        return [*(listed or [last]), *again]
    smaller = (round(last / schedule.factor**i) for i in itertools.count())
    sizes = itertools.takewhile(lambda size: size >= min(schedule["from"], last), smaller)
    return [*sorted(set(sizes)), *again]


def _factors(config: DictConfig, node: Mapping[str, Any] | None = None, path: str = "") -> list[tuple[str, Any]]:
    """Return the numbers of the configuration that have factors, by name, each with the list of them.

    Factors beside a ``_target_`` hold where the component is that one.
    """
    found = []
    for name, value in (config.schedule.get("factors") or {} if node is None else node).items():
        whole = f"{path}{name}"
        if isinstance(value, Mapping):
            found += _factors(config, value, f"{whole}.")
        elif name == "_target_":
            if value != OmegaConf.select(config, whole, default=None):
                return []
        else:
            found.append((whole, value))
    return found


def _spread(factors: Sequence[Any], count: int) -> list[float]:
    """Return one factor for each scale; the last one repeats, or the one before ``...``."""
    listed = list(factors)
    place = listed.index(AND_SO_ON) if AND_SO_ON in listed else len(listed)
    first, rest = listed[:place], listed[place + 1 :]
    missing = max(count - len(first) - len(rest), 0)
    return [*first, *first[-1:] * missing, *rest][-count:] if rest else [*first, *first[-1:] * missing][:count]


def _problems_of_factors(config: DictConfig) -> list[str]:
    """Return what is wrong with the factors that numbers have scale by scale."""
    found = []
    if not isinstance(config.schedule.get("factors") or {}, Mapping):
        return ["schedule.factors must name numbers of the configuration, such as +schedule.factors.alpha=[1,0.5]."]
    for name, factors in _factors(config):
        if name not in CHANGING and name.partition(".")[0] not in CHANGING:
            found.append(
                f"schedule.factors.{name}: {name} is the same at all scales. {', '.join(CHANGING)} may change."
            )
        elif not _is_number(OmegaConf.select(config, name, default=None)):
            found.append(f"schedule.factors.{name}: {name} is no number of this configuration. Leave it out with ~.")
        listed = list(factors) if _is_list(factors) else []
        numbers = [factor for factor in listed if factor != AND_SO_ON]
        if not numbers or listed[0] == AND_SO_ON or len(listed) - len(numbers) > 1 or not all(map(_is_number, numbers)):
            found.append(
                f"schedule.factors.{name}={listed or factors} must be a list of numbers, one for each scale; the last "
                "one repeats, or the one before '...', as in [1,...,0.5]."
            )
    return found


def _in_proportion(style_size: Any, size: int, last: int) -> Any:
    if _is_list(style_size):
        return [None if one is None else round(one * size / last) for one in style_size]
    return round(style_size * size / last)


def _listed(value: Any) -> list[Any]:
    return [one for one in value if one is not None] if _is_list(value) else [value]


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
