"""What is to be optimised: the images of one or several jobs, their network, their targets, and where they start."""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from nst import configuration, engines, runtime
from nst.engines import Reading, replay
from nst.errors import UserError
from nst.files import existing_file
from nst.images.canvas import Canvas
from nst.images.pixels import PixelSpace, with_margin
from nst.losses import Guided, TotalVariation, is_summed
from nst.losses.functional import at_least_float32
from nst.losses.objective import Blend, LayerTerm, Losses, Objective, Roll, Shift, together
from nst.networks import backbones
from nst.networks.backbones import Backbone
from nst.optimization.state import Evaluate
from nst.runtime import memory
from nst.setup import estimate
from nst.setup.inputs import Inputs, blend_weights, labels_of, load, regions_for
from nst.setup.layers import inspected_layers, layer_weights

log = logging.getLogger(__name__)
TARGETS_BYTES = 2**29  # targets of so many images and shifts are kept; beyond that they are taken anew
TILES = (2048, 1536, 1024, 768, 512, 384, 256, 128)  # sides that tile=auto tries


KINDS = ("content", "style")
RECOLORED = "nst.optimization.initial.from_recolored"


class Kept:
    """What is kept for jobs to come, the last used longest.

    Args:
        most: how much, by ``size``; the last thing is kept however large it is.
        size: of a thing.
    """

    def __init__(self, most: int, size: Callable[[Any], int] = lambda thing: 1) -> None:
        self.most, self.size = most, size
        self.things: OrderedDict[Hashable, Any] = OrderedDict()
        self.total = 0

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return what is kept under a key; make it if there is nothing."""
        if key not in self.things:
            self.things[key] = make()
            self.total += self.size(self.things[key])
            while self.total > self.most and len(self.things) > 1:
                self.total -= self.size(self.things.popitem(last=False)[1])
        self.things.move_to_end(key)
        return self.things[key]

    def clear(self) -> None:
        """Keep nothing."""
        self.things.clear()
        self.total = 0


def _bytes(targets: dict[str, Any]) -> int:
    return sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(targets) if isinstance(leaf, Tensor))


# Between the jobs of a process: networks, engines made of them, and targets taken with these.
_networks, _engines, _targets = Kept(2), Kept(2), Kept(TARGETS_BYTES, _bytes)


def forget() -> None:
    """Give back the memory that is kept for jobs to come."""
    for kept in (_networks, _engines, _targets):
        kept.clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class OutOfMemory(UserError):
    """Memory ran out; the message says what would fit."""


class Apart(UserError):
    """The jobs of a batch cannot go on as one; what they are to do instead: run in smaller batches, or one by one."""


@dataclass
class Problem:
    """What is to be optimised: the images of one or several jobs, a network, and where they start.

    Attributes:
        inputs: of each job.
        backbone: the frozen network.
        space: where the optimiser works.
        start: ``(B, 3, H, W)`` in that space, an image for each job.
        evaluate: losses of pixels that are rolled by a shift before the network sees them.
        need: the memory it is estimated to need, if that can be told.
        precision: what the network computes in.
        engine: what computes losses and gradient, in words.
        tile: pixels of a tile's side, or ``none``.
        begin_step: is told the index of each step before the step is made, for losses that draw random numbers.
    """

    inputs: list[Inputs]
    backbone: Backbone
    space: PixelSpace
    start: Tensor
    evaluate: Evaluate
    need: estimate.Need | None
    precision: str
    engine: str
    tile: str
    begin_step: Callable[[int], None] = lambda step: None

    @property
    def content(self) -> Tensor:
        """The content image of the first job."""
        return self.inputs[0].content

    @property
    def canvases(self) -> list[Canvas]:
        """What becomes of each job's pixels."""
        return [one.canvas(self.space) for one in self.inputs]


def pose(config: DictConfig, device: torch.device) -> Problem:
    """Load the images and the network of a single job, take the targets, and make the start image.

    Raises:
        UserError: an image or the weights cannot be had, or do not fit.
    """
    inputs, backbone = load(config, device), build_network(config, device)
    return pose_together([config], [inputs], [start(config, inputs, backbone)], backbone, device)


def build_network(config: DictConfig, device: torch.device) -> Backbone:
    """Return the network, with its weights, on the device; one that an earlier job left is taken again.

    Raises:
        UserError: the weights cannot be had.
    """
    weights = (layer_weights(config, kind) for kind in ("content", "style"))
    return _network(config, list(dict.fromkeys(layer for of_kind in weights for layer in of_kind)), device)


def build_look(config: DictConfig, device: torch.device) -> Callable[[Tensor], dict[str, Tensor]] | None:
    """Return what makes the maps of an image ``(1, 3, H, W)`` RGB that are to be inspected, or None if none are.

    They come from a network of their own, in the precision of the pixels, so that it does not touch the losses and a
    layer deeper than theirs costs nothing at the other steps.

    Raises:
        UserError: the weights cannot be had.
    """
    layers = inspected_layers(config)
    if not layers:
        return None
    backbone = _network(config, layers, device)

    def look(image: Tensor) -> dict[str, Tensor]:
        maps = backbone(backbone.preprocessing(with_margin(image, config.margin)))
        return {layer: at_least_float32(maps[layer]) for layer in layers}

    return look


def _network(config: DictConfig, layers: list[str], device: torch.device) -> Backbone:
    dtype = runtime.pixel_dtype(config.precision)

    def build() -> Backbone:
        try:
            backbone: Backbone = configuration.build(config.backbone, layers=layers, pooling=config.pooling)
        except UserError as error:
            has_other_units = config.backbone.get("weights") == "torchvision" and config.pixel_space == "network"
            if not has_other_units or config.clamp_range is None:
                raise
            bundled = backbones.no_download(str(config.backbone.get("architecture")), layers)
            other = "take another recipe: rate and limits of this one are in units of these weights' preprocessing."
            raise UserError(str(error).replace(bundled, other)) from error
        backbone = backbone.to(device, dtype)
        runtime.keep_freed_memory()
        return backbone

    if config.backbone.get("_target_") != "nst.networks.backbones.load":
        return build()  # one of the user's own may change while it is used
    file = existing_file(str(config.backbone.weights))
    version = [file.stat().st_mtime_ns, file.stat().st_size] if file is not None else None
    node = OmegaConf.to_container(config.backbone, resolve=True)
    key = json.dumps([node, version, layers, config.pooling, str(dtype), str(device)], sort_keys=True)
    found: Backbone = _networks.get(key, build)
    return found


def start(config: DictConfig, inputs: Inputs, backbone: Backbone) -> Tensor:
    """Return the picture that a job starts from, ``(1, 3, H, W)`` in its pixel space.

    It is made of the first style, but recoloured in each style's region, or as they are weighted, where there are more.
    """
    space = PixelSpace(config.pixel_space, backbone.preprocessing)

    def make(style: Tensor) -> Tensor:
        with runtime.seeded(config.seed):
            picture: Tensor = configuration.build(config.init)(
                content=inputs.content, style=style, space=space, seed=config.seed
            )
        return picture

    if len(inputs.styles) == 1 or config.init.get("_target_") != RECOLORED:
        return make(inputs.style)
    whole = torch.ones_like(inputs.content[:, :1])
    shares = [
        (whole if mask is None else mask).clamp(min=1e-6) * style.weight
        for style, mask in zip(configuration.styles(config), inputs.masks, strict=True)
    ]
    total = torch.stack(shares).sum(0)
    pictures = [make(style) * share / total for style, share in zip(inputs.styles, shares, strict=True)]
    return torch.stack(pictures).sum(0)


def pose_together(
    configs: Sequence[DictConfig],
    inputs: list[Inputs],
    starts: list[Tensor],
    backbone: Backbone,
    device: torch.device,
) -> Problem:
    """Take the targets of one or several jobs that have their images and starts.

    Raises:
        Apart: the jobs cannot be put together.
        OutOfMemory: they do not fit.
    """
    config = configs[0]
    need, tile = fit_into_memory(config, backbone, inputs[0], len(configs))
    with memory_explained(need, config.size, device):
        dtype = runtime.network_dtype(config.precision, device)
        evaluate, begin_step = assemble(configs, dtype, tile, backbone, inputs)
        space = PixelSpace(config.pixel_space, backbone.preprocessing)
        precision, engine = runtime.choose_precision(config.precision, device), _engine(config, backbone, dtype, tile)
        words = engine.describe(_losses(config, inputs[0]))
        return Problem(
            inputs,
            backbone,
            space,
            torch.cat(starts),
            evaluate,
            need,
            precision,
            words,
            str(tile or "none"),
            begin_step,
        )


def assemble(
    configs: Sequence[DictConfig],
    network_dtype: torch.dtype,
    tile: int | None,
    backbone: Backbone,
    inputs: Sequence[Inputs],
) -> tuple[Evaluate, Callable[[int], None]]:
    """Take the targets of images.

    Args:
        configs: of each job; they name the losses, layers and weights.
        network_dtype: what the network computes in.
        tile: pixels of a tile's side at most, or None for the whole picture at once.
        backbone: the frozen network.
        inputs: of each job; contents of one size, and as many styles.

    Returns:
        The losses of pictures as a function of their pixels and their shifts; and what is to be told of each step
        before it is made, for losses that draw numbers.

    Raises:
        Apart: a loss keeps something of an image that cannot be put into a batch.
    """
    config, contents, device = configs[0], [one.content for one in inputs], inputs[0].content.device
    space = PixelSpace(config.pixel_space, backbone.preprocessing)
    engine = _engine(config, backbone, network_dtype, tile)
    content_term = term(configs, "content", contents[0])
    listed = configuration.styles(config)
    labels = labels_of([style.image for style in listed])
    style_terms = [term(configs, "style", contents[0], label) for label in labels]
    regions = regions_for(inputs[0], style_terms[0].loss)
    has_regions = any(region is not None for region in regions)
    canvas = inputs[0].canvas(space)  # of all jobs: one that protects anything is alone

    def seen(pixels: Tensor, roll: Callable[[Tensor], Tensor]) -> Tensor:
        return space.to_network(roll(with_margin(pixels, config.margin)))

    @torch.no_grad()
    def take(image: Tensor, term: LayerTerm, shift: Shift = (0, 0)) -> dict[str, Any]:
        """Take targets in a batch as large as the pictures', or kernels might round otherwise and 0 would not be 0."""
        copies = space.encode(image).expand(len(configs), -1, -1, -1).contiguous()
        shifted = seen(copies, lambda framed: _rolled(framed, shift))
        return _of_one(engine.targets(shifted, term.wanted()), len(configs))

    own = Kept(TARGETS_BYTES, _bytes)  # for this run only: a rehearsal, or losses that may draw numbers or remember
    is_shared = device.type != "meta"
    identity = functools.lru_cache(maxsize=None)(_identity)  # once for each image, not for each shift of it

    def targets(kind: str, term: LayerTerm, job: int, image: Tensor, shift: Shift = (0, 0)) -> dict[str, Any]:
        settings = json.dumps([OmegaConf.to_container(config[f"{kind}_loss"], resolve=True), config.pixel_space])
        about = kind, settings, tuple(term.wanted()), config.margin, len(configs), torch.get_num_threads()
        store, which = (_targets, identity(image)) if is_shared and is_summed(term.loss) else (own, job)
        found: dict[str, Any] = store.get((engine, *about, which, shift), lambda: take(image, term, shift))
        return found

    first_of_content = _first_of_each([config.content for config in configs])

    def content_of(job: int, shift: Shift) -> dict[str, Any]:
        with runtime.seeded(configs[job].seed):  # so that when it happens makes no difference to a loss that draws
            return targets("content", content_term, job, contents[job], shift)

    @functools.lru_cache(1)
    def content_readings(shift: Roll) -> dict[str, Reading]:
        shifts = _of_each(shift, len(configs))
        return content_term.readings(_joined([content_of(*one) for one in zip(first_of_content, shifts, strict=True)]))

    def style_targets(place: int, term: LayerTerm) -> dict[str, Any]:
        names = [configuration.styles(config)[place].image for config in configs]
        if config.color != "style":  # the content's colours, or luminance, went into them
            names = [f"{name} {one.content}" for name, one in zip(names, configs, strict=True)]
        first = _first_of_each(names)
        own = {job: targets("style", term, job, inputs[job].styles[place]) for job in first}
        return _joined([own[job] for job in first])

    of_styles = [style_targets(place, term) for place, term in enumerate(style_terms)]

    @functools.lru_cache(64)
    def regional_readings(shift: Roll) -> dict[str, Reading]:
        readings: dict[str, Reading] = {}
        for term, found, region in zip(style_terms, of_styles, regions, strict=True):
            loss = None if region is None else Guided(term.loss, _rolled(with_margin(region, config.margin), shift))
            readings |= term.readings(found, loss)
        return readings

    def style_readings(shift: Roll) -> dict[str, Reading]:
        return regional_readings(shift if has_regions else (0, 0))

    variation = TotalVariation(config.tv_kind, config.tv_reduction)
    alpha, beta, tv = (together([c[name] for c in configs], contents[0]) for name in ("alpha", "beta", "tv"))
    style = style_terms[0] if len(style_terms) == 1 else Blend(style_terms, blend_weights(listed, regions))
    objective = Objective(content_term, style, variation, alpha, beta, tv)

    def losses(pixels: Tensor, roll: Callable[[Tensor], Tensor], readings: dict[str, Reading]) -> Losses:
        painted = canvas.paint(pixels)
        return objective(engine.values(seen(painted, roll), readings), painted)

    drawing = [t.loss for t in (content_term, *style_terms) if hasattr(t.loss, "begin_step")]

    def begin_step(step: int) -> None:
        for loss in drawing:
            loss.begin_step(step, config.seed)

    waits = any(getattr(one.loss, "waits_for_the_device", False) for one in (content_term, *style_terms))
    if _is_replayed(config, device, tile) and not (drawing or waits or (has_regions and config.jitter)):
        still = style_readings((0, 0))
        replayed = replay.Replay(
            lambda pixels, roll, content: losses(pixels, roll, content | still), content_readings, config.margin
        )
        return replayed, begin_step

    def evaluate(pixels: Tensor, shift: Roll) -> Losses:
        return losses(pixels, lambda framed: _rolled(framed, shift), content_readings(shift) | style_readings(shift))

    return evaluate, begin_step


def fit_into_memory(
    config: DictConfig, backbone: Backbone, inputs: Inputs, number: int = 1
) -> tuple[estimate.Need | None, int | None]:
    """Estimate what a batch will need, and choose the tile: as large as fits, if ``tile=auto`` and the whole does not.

    Returns:
        The need, if it can be told, and the tile, or None for the whole picture. If nothing fits, there is a warning.

    Raises:
        UserError: ``tile`` is a number, and the network or a loss does not allow tiles.
    """
    device = inputs.content.device
    runtime.give_back_freed_memory()  # what an earlier job needed
    obstacle = engines.untileable(backbone, _losses(config, inputs))
    if config.tile not in ("auto", "none") and obstacle:
        raise UserError(f"tile={config.tile}: {obstacle}, so that it cannot be computed in tiles. Use tile=none.")
    tile = None if config.tile in ("auto", "none") else int(config.tile)
    need = of_images(estimate_memory(config, backbone, inputs, tile), number)
    free = memory.free_bytes(device)
    if need is not None and free is not None and need.further > free:
        forget()
        free = memory.free_bytes(device)
    if need is None or free is None or need.further <= free:
        return need, tile
    if config.tile == "auto" and obstacle is None:
        for smaller in (side for side in TILES if side < max(inputs.content.shape[2:])):
            tiled = of_images(estimate_memory(config, backbone, inputs, smaller), number)
            if tiled is not None and tiled.further <= free:
                whole, room = memory.amount(need.further), memory.amount(free)
                log.info(
                    "The whole picture at once would need about %s, and %s are free: it is computed in tiles of %d "
                    "pixels, with the same gradient",
                    *(whole, room, smaller),
                )
                return tiled, smaller
    elif config.tile == "auto":
        log.info("The picture is not computed in tiles: %s", obstacle)
    less = "fewer images at once" if number > 1 else "a smaller backbone"
    if advice := estimate.advice(need, free, config.size, less):
        log.warning("%s", advice)
    return need, tile


def estimate_memory(
    config: DictConfig, backbone: Backbone, inputs: Inputs, tile: int | None = None
) -> estimate.Need | None:
    """Estimate what a job alone will need."""
    content = inputs.content
    dtype = runtime.network_dtype(config.precision, content.device)
    masks = [mask if mask is None else mask.to("meta") for mask in inputs.masks]
    protected = inputs.protected if inputs.protected is None else inputs.protected.to("meta")

    def rehearsed(network: nn.Module, content: Tensor, *styles: Tensor) -> Evaluate:
        shapes = Inputs(content, list(styles), masks=masks, protected=protected)
        return assemble([config], dtype, tile, cast(Backbone, network), [shapes])[0]

    return estimate.needed(
        rehearsed,
        backbone,
        (content.shape[2], content.shape[3]),
        [(style.shape[2], style.shape[3]) for style in inputs.styles],
        configuration.build(config.optimizer),
        config.steps,
        max(config.jitter, 1) ** 2,
        content.dtype,
        content.device,
        TARGETS_BYTES,
    )


def of_images(need: estimate.Need | None, number: int) -> estimate.Need | None:
    """Return what a batch of so many images will need, given what one does."""
    return need and estimate.Need(need.fixed + number * (need.total - need.fixed), need.fixed, need.held)


def _engine(config: DictConfig, backbone: Backbone, dtype: torch.dtype, tile: int | None) -> engines.Engine:
    """Return an engine for a network; one that an earlier job left is taken again."""

    def make() -> engines.Engine:
        return engines.make(config.engine, backbone, dtype, tile, config.compile)

    if any(parameter.is_meta for parameter in backbone.parameters()):  # a rehearsal
        return make()
    tf32 = torch.backends.cuda.matmul.allow_tf32
    key = config.engine, backbone, dtype, tile, config.compile, tf32
    if key not in _engines.things and len(_engines.things) == _engines.most:
        _targets.clear()  # some are of the engine that has to go
    found: engines.Engine = _engines.get(key, make)
    return found


def _is_replayed(config: DictConfig, device: torch.device, tile: int | None) -> bool:
    """Tell whether the step is to be recorded as a CUDA graph."""
    return bool(config.cuda_graph) and device.type == "cuda" and tile is None


def _losses(config: DictConfig, inputs: Inputs) -> list[Any]:
    content, style = (configuration.build(config[f"{kind}_loss"]) for kind in KINDS)
    region = next((region for region in regions_for(inputs, style) if region is not None), None)
    return [content, style if region is None else Guided(style, region)]


def _identity(image: Tensor) -> Hashable:
    """Return what tells an image from others, whichever file it came from."""
    digest = hashlib.sha256(image.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
    return digest, tuple(image.shape), image.dtype, image.device


def term(configs: Sequence[DictConfig], kind: str, like: Tensor, label: str = "") -> LayerTerm:
    """Return the content or style term that the configurations of one or several jobs name.

    Args:
        configs: of each job; the losses are the first one's, the layers' weights each one's own.
        kind: ``content`` or ``style``.
        like: ``(1, 3, H, W)``, a picture of the size that is painted.
        label: of one style of several.
    """
    config = configs[0]
    loss, combine = configuration.build(config[f"{kind}_loss"]), config.layers.get("combine", "mean")
    if hasattr(loss, "for_picture"):
        loss = loss.for_picture(*like.shape[2:])
    weights = [layer_weights(config, kind) for config in configs]
    return LayerTerm.of_batch(kind, loss, weights, combine, like, label)


def _first_of_each(names: Sequence[str]) -> list[int]:
    """Return, for each name, where it stands first, so that images of one name are seen by the network once."""
    return [names.index(name) for name in names]


def _of_each(shift: Roll, images: int) -> tuple[Shift, ...]:
    """Return the shift of each image."""
    return shift if isinstance(shift[0], tuple) else (shift,) * images


def _rolled(pixels: Tensor, shift: Roll) -> Tensor:
    """Roll the images ``(B, 3, H, W)`` of a batch, all by the same shift or each by its own."""
    if shift == (0, 0):
        return pixels
    if isinstance(shift[0], int):
        return pixels.roll(shift, dims=(2, 3))
    rolled = (image.roll(own, dims=(2, 3)) for image, own in zip(pixels.split(1), shift, strict=True))
    return torch.cat(list(rolled))


def _of_one(targets: dict[str, Any], copies: int) -> dict[str, Any]:
    """Return the targets of one image, given those of a batch of so many copies.

    Raises:
        Apart: a target has no row for each image.
    """
    for tag, target in targets.items() if copies > 1 else ():
        if not all(isinstance(leaf, Tensor) and leaf.shape[:1] == (copies,) for leaf in tree_leaves(target)):
            raise Apart(f"What the loss of {tag} keeps of an image is no tensor with a row for each image.")
    return cast(dict[str, Any], tree_map(lambda leaf: leaf[:1].clone(), targets)) if copies > 1 else targets


def _joined(targets: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the targets of a batch: its images' one after the other, or the one that they share.

    Raises:
        Apart: some are larger than others.
    """
    first = targets[0]
    if all(other is first for other in targets):
        return first
    if len({tuple(leaf.shape for leaf in tree_leaves(of_one)) for of_one in targets}) > 1:
        raise Apart("What a loss keeps of the images has different sizes.")
    joined: dict[str, Any] = tree_map(lambda *rows: torch.cat(rows), *targets)
    return joined


@contextlib.contextmanager
def memory_explained(need: estimate.Need | None, size: int, device: torch.device) -> Iterator[None]:
    """Turn an error of the block that says that memory ran out into one that says what would fit."""
    free = memory.free_bytes(device)
    try:
        yield
    except Exception as error:
        if not memory.is_out_of_memory(error):
            raise
        fits = estimate.advice(need, free, size) if need is not None and free is not None else None
        raise OutOfMemory(f"Out of memory. {fits or 'Lower size, or choose a smaller backbone.'}") from error
