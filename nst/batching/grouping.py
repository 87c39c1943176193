"""Which jobs of a sweep run as one batch: what may differ inside one, and how many images there is room for."""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from nst import configuration, runtime
from nst.errors import UserError
from nst.images import rgb
from nst.losses.protocols import DrawingLoss, LayerLoss, traits
from nst.optimization import schedule
from nst.runs import resume
from nst.runtime import memory
from nst.setup import fitting
from nst.setup.inputs import load_images
from nst.setup.layers import layer_weights
from nst.setup.network import load_network

# What one image of a batch may have for itself; of layers it is the weights.
FREE = ("alpha", "beta", "tv", "seed", "pair", "content", "style", "init")
SCIPY = "nst.optimization.optimizers.ScipyLBFGSB"
MOST = 64  # images at once; beyond that a device is busy anyway
SHARE = 0.9  # of the free memory that a batch may take, since an estimate is one
UNKNOWN = 8  # images at once where the memory cannot be estimated; too many are halved


@dataclass
class Candidate:
    """A job that waits for company.

    Attributes:
        number: of the job.
        config: its configuration, without Hydra's part.
        folder: where it writes, or has written.
    """

    number: int
    config: DictConfig
    folder: Path


@dataclass
class Plan:
    """How the jobs of a sweep are run.

    Attributes:
        batches: of jobs by number, in the order of their first; some are of one.
        alone: why those run in turn, by number.
    """

    batches: list[list[int]] = field(default_factory=list)
    alone: dict[int, str] = field(default_factory=dict)

    def __str__(self) -> str:
        sizes = [len(batch) for batch in self.batches if len(batch) > 1]
        text = f"{sum(map(len, self.batches))} jobs"
        if sizes:
            several = f"{len(sizes)} batches" if len(sizes) > 1 else "one batch"
            text += f": {sum(sizes)} in {several} ({' + '.join(map(str, sizes))} images)"
        for why in dict.fromkeys(self.alone.values()):
            numbers = ", ".join(f"#{number}" for number, reason in self.alone.items() if reason == why)
            text += f"; in turn {numbers}: {why}"
        return text


def plan(candidates: Sequence[Candidate], at_once: int | None) -> Plan:
    """Gather jobs into batches.

    Args:
        candidates: the jobs of a sweep.
        at_once: images in a batch at most; None leaves it to the memory.
    """
    groups: dict[str, list[Candidate]] = {}
    made = Plan()
    for candidate in candidates:
        why, key = _why_alone(candidate), ""
        if why is None:
            try:
                key = _key(candidate)
            except UserError:
                why = "they cannot begin"  # and will tell why
        if why is None:
            groups.setdefault(key, []).append(candidate)
        else:
            made.alone[candidate.number] = why
    for group in groups.values():
        numbers = [candidate.number for candidate in group]
        if len(group) == 1:
            made.alone[numbers[0]] = "no other job goes with it"
            continue
        size = at_once or room(group[0].config)
        batches = [numbers[begin : begin + size] for begin in range(0, len(numbers), size)]
        made.batches += [batch for batch in batches if len(batch) > 1]
        why = "there is no room for two images" if size == 1 and not at_once else "one is left over"
        made.alone |= {batch[0]: why for batch in batches if len(batch) == 1}
    made.batches = sorted([*made.batches, *([number] for number in made.alone)])
    made.alone = dict(sorted(made.alone.items()))
    return made


def room(config: DictConfig) -> int:
    """Return how many images like that of a job the memory has room for, as far as can be told."""
    config = schedule.at(config, -1)  # the largest scale
    try:
        with runtime.own_device(config.device) as name:
            device = runtime.prepare(name, config.precision)
            inputs, backbone = load_images(config, device), load_network(config, device)
            need = fitting.estimate_memory(config, backbone, inputs)
            free = memory.free_bytes(device)
    except UserError:  # it will be told by the job
        return UNKNOWN
    if need is None or free is None or need.total <= need.fixed:
        return UNKNOWN
    return min(max((need.held + int(SHARE * free) - need.fixed) // (need.total - need.fixed), 1), MOST)


def _why_alone(candidate: Candidate) -> str | None:
    """Return why a job cannot be in a batch, or None."""
    config, past = candidate.config, resume.past(candidate.folder)
    if past is not None and past.is_done and not resume.asks_for_more(candidate.folder, config):
        return "finished already"
    if config.task != "optimize":
        return f"task={config.task} is not the pixels of one picture"
    if has_line_search(config.optimizer):
        return f"{config.optimizer.get('_target_')} has a line search"
    if (target := str(config.backbone.get("_target_"))) != "nst.networks.backbones.load":
        return f"{target} may not treat each image by itself"
    if config.style_masks is not None or config.content_mask is not None:
        return "they have masks"
    for name in ("content_loss", "style_loss"):
        try:
            if not is_per_image(configuration.build(config[name])):
                return f"{config[name]._target_} does not treat each image by itself"
        except Exception:  # a component of the user's own may raise whatever it likes
            return f"{config[name].get('_target_')} cannot be tried on two images"
    return None


def has_line_search(optimizer: DictConfig) -> bool:
    """Tell whether an optimiser evaluates one picture more often than another, which would keep the others waiting."""
    return optimizer.get("line_search_fn") is not None or optimizer.get("_target_") == SCIPY


def is_per_image(loss: LayerLoss) -> bool:
    """Tell whether a loss gives two images together what it gives each alone, from targets that can be put together.

    A loss that remembers its last target by itself does not, nor one that draws random numbers where ``begin_step``
    has no say.
    """
    with torch.random.fork_rng(devices=[]):
        generator = torch.Generator().manual_seed(0)
        maps, others = (torch.randn(2, 8, 6, 5, generator=generator) * torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)
                        for _ in range(2))  # fmt: skip
        loss = _of_one_map(loss)
        before = torch.get_rng_state()
        alone = [loss(image, loss.target(other)) for image, other in zip(maps.split(1), others.split(1), strict=True)]
        targets = [loss.target(other) for other in others.split(1)]
        if not all(isinstance(leaf, Tensor) and leaf.shape[:1] == (1,) for leaf in tree_leaves(targets)):
            return False
        together = loss(maps, tree_map(lambda *rows: torch.cat(rows), *targets))
        drew = not torch.equal(before, torch.get_rng_state())
        if drew or together.shape != (2,) or not torch.allclose(together, torch.cat(alone), rtol=1e-4):
            return False
        shared = loss(maps, targets[0])  # as where all have one style
        alone = [loss(image, targets[0]) for image in maps.split(1)]
        return shared.shape == (2,) and torch.allclose(shared, torch.cat(alone), rtol=1e-4)


def _of_one_map(loss: LayerLoss) -> LayerLoss:
    return _OfOneMap(loss) if traits(loss).couples_layers or traits(loss).joins_layers else loss


class _OfOneMap:
    """A loss of two or more maps as one of a single map, which is paired with half of itself."""

    def __init__(self, loss: LayerLoss) -> None:
        self.loss = loss

    def target(self, features: Tensor) -> Any:
        return self.loss.target(self._pair(features))

    def __call__(self, features: Tensor, target: Any) -> Tensor:
        return self.loss(self._pair(features), target)

    def _pair(self, features: Tensor) -> Any:
        return features, features[:, :5, ::2, ::2]


def keeps_size(loss: LayerLoss) -> bool:
    """Tell whether what a loss keeps of an image is as large as the image, so that all must have one size."""
    loss = _of_one_map(loss)
    with torch.random.fork_rng(devices=[]):
        shapes = [[leaf.shape for leaf in tree_leaves(loss.target(torch.ones(1, 8, 6, side)))] for side in (5, 7)]
    return shapes[0] != shapes[1]


def _key(candidate: Candidate) -> str:
    """Return what the jobs of a batch have in common, as text.

    Raises:
        UserError: an image whose size matters cannot be loaded, or a layer is unknown.
    """
    config = candidate.config
    settings: dict[str, Any] = resume.settings(config)
    common = {name: value for name, value in settings.items() if name not in (*FREE, *resume.HOUSEKEEPING, "layers")}
    layers = {kind: list(layer_weights(config, kind)) for kind in ("content", "style")}
    if OmegaConf.is_list(config.style):  # whose names are part of the tags
        common["style"] = settings["style"]
    losses = {kind: configuration.build(config[f"{kind}_loss"]) for kind in ("content", "style")}
    if any(isinstance(loss, DrawingLoss) for loss in losses.values()):
        common["seed"] = config.seed  # one loss draws for all images
    scales = [schedule.at(config, number) for number in range(len(schedule.scales(config)))]
    sized = [(scale.content, scale.size, scale.fit) for scale in scales]
    if keeps_size(losses["style"]) and config.style_fit != "content":
        fit = config.style_fit or config.fit
        sized += [(style.image, style.size, fit) for scale in scales for style in configuration.styles(scale)]
    shapes = [_shape(*image, config.resample, config.background) for image in sized]
    return json.dumps([common, layers, config.layers.get("combine"), shapes], sort_keys=True)


@functools.cache
def _shape(name: str, size: int, fit: str, resample: str, background: str) -> tuple[int, ...]:
    return tuple(rgb.load(name, size, fit, resample, background).shape)
