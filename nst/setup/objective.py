"""The function to minimise: targets taken from the images once, then compared with a picture at each evaluation."""

import functools
import hashlib
import json
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol, cast

import torch
from cachetools import LRUCache
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from nst import configuration, engines, runtime
from nst.engines import LossRequest, TargetRequest, replay
from nst.images.pixels import PixelSpace, with_margin
from nst.losses import Guided, TotalVariation, is_summed
from nst.losses.objective import Blend, LayerTerm, Losses, Objective, Roll, Shift, together
from nst.losses.protocols import DrawingLoss, MatchingLoss, SizedLoss, traits
from nst.networks.backbones import Backbone
from nst.optimization.state import LossOfPicture
from nst.runs.session import Retry
from nst.setup.inputs import Inputs, blend_weights, labels_of, regions_for
from nst.setup.layers import layer_weights

KINDS = ("content", "style")
TARGETS_BYTES = 2**29  # targets of so many images and shifts are kept; beyond that they are taken anew
Roller = Callable[[Tensor], Tensor]


def _bytes(targets: dict[str, Any]) -> int:
    return sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(targets) if isinstance(leaf, Tensor))


# Between the runs of a process: engines, and targets taken with them.
_engines: LRUCache[Hashable, engines.Engine] = LRUCache(2)
_targets: LRUCache[Hashable, dict[str, Any]] = LRUCache(TARGETS_BYTES, _bytes)


def forget() -> None:
    """Give back the engines and targets that are kept for runs to come."""
    _engines.clear()
    _targets.clear()


class Maps:
    """Keeps the maps that it is given; no loss, but asked of an engine like the target of one."""

    def target(self, features: Any) -> Any:
        """Return the map ``(B, C, H, W)``, or maps."""
        return features


class LossWithTargets(LossOfPicture, Protocol):
    """A loss that has taken its targets.

    Attributes:
        tile: pixels of a tile's side at most, or None for the whole picture at once.
        keeps_start: its targets depend on the picture that the scale begins with.
    """

    tile: int | None
    keeps_start: bool

    def describe(self) -> str:
        """Say what computes losses and gradient, for the log and the record."""


class PictureLoss:
    """The loss of one picture, or of several that are computed as one batch: alpha content + beta style + tv variation.

    Args:
        configs: of each picture; losses, layers and engine are the first one's, weights and seeds each one's own.
        backbone: the frozen network.
        inputs: of each picture; contents of one size, and as many styles.
        tile: pixels of a tile's side at most, or None for the whole picture at once.

    Raises:
        Retry: a loss keeps something of an image that cannot be put into a batch.
    """

    def __init__(
        self, configs: Sequence[DictConfig], backbone: Backbone, inputs: Sequence[Inputs], tile: int | None = None
    ) -> None:
        config, content = configs[0], inputs[0].content
        self.configs, self.inputs, self.tile, self.device = configs, inputs, tile, content.device
        self.space = PixelSpace(config.pixel_space, backbone.preprocessing)
        self.engine = _engine(config, backbone, runtime.network_dtype(config.precision, content.device), tile)
        self.canvas = inputs[0].canvas(self.space)  # of all pictures: one that protects anything is alone
        listed = configuration.styles(config)
        self.content_term = term(configs, "content", content)
        self.style_terms = [term(configs, "style", content, label) for label in labels_of([s.image for s in listed])]
        self.regions = regions_for(inputs[0], self.style_terms[0].loss)
        self.keeps_start = isinstance(self.style_terms[0].loss, MatchingLoss)
        losses = [one.loss for one in (self.content_term, *self.style_terms)]
        self.drawing = [loss for loss in losses if isinstance(loss, DrawingLoss)]
        for loss in self.drawing:  # which may draw for its targets, too
            loss.begin_step(0, config.seed)
        self._own: LRUCache[Hashable, dict[str, Any]] = LRUCache(TARGETS_BYTES, _bytes)
        self._identity = functools.lru_cache(maxsize=None)(_identity)  # once for each image, not for each shift of it
        self._first_contents = _first_of_each([config.content for config in configs])
        self._style_targets = [self._targets_of_style(place, term) for place, term in enumerate(self.style_terms)]
        self._content_requests = functools.lru_cache(1)(self._request_content)
        self._style_requests = functools.lru_cache(64)(self._request_styles)
        alpha, beta, tv = (together([c[name] for c in configs], content) for name in ("alpha", "beta", "tv"))
        weights = blend_weights(listed, self.regions)
        style = self.style_terms[0] if len(self.style_terms) == 1 else Blend(self.style_terms, weights)
        variation = TotalVariation(config.tv_kind, config.tv_reduction)
        self.objective = Objective(self.content_term, style, variation, alpha=alpha, beta=beta, tv=tv)
        self._step = -1
        waits = any(traits(loss).waits_for_the_device for loss in losses)
        self._replay: replay.Replay | None = None
        is_replayed = bool(config.cuda_graph) and self.device.type == "cuda" and tile is None
        if is_replayed and not (self.drawing or waits or (self.has_regions and config.jitter)):
            still = self._style_requests((0, 0))
            self._replay = replay.Replay(
                lambda pixels, roll, content: self._compare(pixels, roll, content | still),
                self._content_requests,
                config.margin,
            )

    @property
    def has_regions(self) -> bool:
        """Whether a style goes to a part of the picture."""
        return any(region is not None for region in self.regions)

    def __call__(self, pixels: Tensor, shift: Roll, step: int) -> Losses:
        """Return the losses of pictures ``(B, 3, H, W)`` in pixel space, each rolled before the network sees it."""
        if step != self._step:
            self._step = step
            for loss in self.drawing:
                loss.begin_step(step, self.configs[0].seed)
        if self._replay is not None:
            return self._replay(pixels, shift)
        style = self._style_requests(shift if self.has_regions else (0, 0))
        return self._compare(pixels, lambda framed: _rolled(framed, shift), self._content_requests(shift) | style)

    def describe(self) -> str:
        """Say what computes losses and gradient, for the log and the record."""
        return self.engine.describe(losses_of(self.configs[0], self.inputs[0]))

    def _compare(self, pixels: Tensor, roll: Roller, requests: dict[str, LossRequest]) -> Losses:
        painted = self.canvas.paint(pixels)
        return self.objective(self.engine.values(self._seen(painted, roll), requests), painted)

    def _seen(self, pixels: Tensor, roll: Roller) -> Tensor:
        return self.space.to_network(roll(with_margin(pixels, self.configs[0].margin)))

    @torch.no_grad()
    def _take(self, image: Tensor, requests: dict[str, TargetRequest], shift: Shift) -> dict[str, Any]:
        """Take targets in a batch as large as the pictures', or kernels might round otherwise and 0 would not be 0."""
        copies = self.space.encode(image).expand(len(self.configs), -1, -1, -1).contiguous()
        shifted = self._seen(copies, lambda framed: _rolled(framed, shift))
        return _of_one(self.engine.targets(shifted, requests), len(self.configs))

    def _take_turned(self, image: Tensor, term: LayerTerm, shift: Shift) -> dict[str, Any]:
        """Take the targets of an image and of the quarter turns of it that the loss wants."""
        requests, turns = term.target_requests(), traits(term.loss).turns
        found = [self._take(image.rot90(turn, (2, 3)), requests, shift) for turn in range(turns)]
        if turns == 1:
            return found[0]
        return {tag: cast(Any, term.loss).joined([one[tag] for one in found]) for tag in requests}

    def _match(self, targets: dict[str, Any], term: LayerTerm, picture: int) -> dict[str, Any]:
        """Let a loss find the target of a picture among what it kept of the style image."""
        loss, inputs = cast(MatchingLoss, term.loss), self.inputs[picture]
        image = loss.to_match(inputs.content, inputs.content if inputs.start is None else inputs.start)
        if image is None:
            return targets
        requests = {tag: TargetRequest(layer, Maps()) for tag, (layer, _) in term.target_requests().items()}
        maps = self._take(image, requests, (0, 0))
        with torch.no_grad():
            return {tag: loss.match(target, maps[tag]) for tag, target in targets.items()}

    def _targets(self, term: LayerTerm, picture: int, image: Tensor, shift: Shift = (0, 0)) -> dict[str, Any]:
        config, is_shared = self.configs[0], self.device.type != "meta" and is_summed(term.loss)
        settings = json.dumps([OmegaConf.to_container(config[f"{term.name}_loss"], resolve=True), config.pixel_space])
        about = term.name, settings, *term.target_requests(), config.margin, len(self.configs), torch.get_num_threads()
        # others are for this run only: a rehearsal, or losses that may draw numbers or remember
        store, which = (_targets, self._identity(image)) if is_shared else (self._own, picture)
        key = self.engine, *about, which, shift
        return cast(dict[str, Any], cached(store, key, lambda: self._take_turned(image, term, shift)))

    def _request_content(self, shift: Roll) -> dict[str, LossRequest]:
        shifts, found = _of_each(shift, len(self.configs)), []
        for picture, own in zip(self._first_contents, shifts, strict=True):
            with runtime.seeded(self.configs[picture].seed):  # when it happens makes no difference to a loss that draws
                found.append(self._targets(self.content_term, picture, self.inputs[picture].content, own))
        return self.content_term.loss_requests(_joined(found))

    def _targets_of_style(self, place: int, term: LayerTerm) -> dict[str, Any]:
        names = [configuration.styles(config)[place].image for config in self.configs]
        if self.configs[0].color != "style":  # the content's colours, or luminance, went into them
            names = [f"{name} {config.content}" for name, config in zip(names, self.configs, strict=True)]
        first = _first_of_each(names)
        own = {picture: self._targets(term, picture, self.inputs[picture].styles[place]) for picture in first}
        found = [own[picture] for picture in first]
        return _joined([self._match(f, term, p) for p, f in enumerate(found)] if self.keeps_start else found)

    def _request_styles(self, shift: Roll) -> dict[str, LossRequest]:
        requests: dict[str, LossRequest] = {}
        for term, found, region in zip(self.style_terms, self._style_targets, self.regions, strict=True):
            moved = None if region is None else _rolled(with_margin(region, self.configs[0].margin), shift)
            requests |= term.loss_requests(found, None if moved is None else Guided(term.loss, moved))
        return requests


def _engine(config: DictConfig, backbone: Backbone, dtype: torch.dtype, tile: int | None) -> engines.Engine:
    """Return an engine for a network; one that an earlier run left is taken again."""

    def make() -> engines.Engine:
        return engines.make(config.engine, backbone, dtype, tile, config.compile)

    if any(parameter.is_meta for parameter in backbone.parameters()):  # a rehearsal
        return make()
    key = config.engine, backbone, dtype, tile, config.compile, torch.backends.cuda.matmul.allow_tf32
    if key not in _engines and len(_engines) == _engines.maxsize:
        _targets.clear()  # some are of the engine that has to go
    found: engines.Engine = cached(_engines, key, make)
    return found


def cached(cache: LRUCache[Hashable, Any], key: Hashable, make: Callable[[], Any]) -> Any:
    """Return what a cache holds under a key; make it if there is nothing."""
    if key not in cache:
        made = make()
        if cache.getsizeof(made) > cache.maxsize:
            return made
        cache[key] = made
    return cache[key]


def losses_of(config: DictConfig, inputs: Inputs) -> list[Any]:
    """Return the content and the style loss of a configuration."""
    content, style = (configuration.build(config[f"{kind}_loss"]) for kind in KINDS)
    region = next((region for region in regions_for(inputs, style) if region is not None), None)
    return [content, style if region is None else Guided(style, region)]


def _identity(image: Tensor) -> Hashable:
    """Return what tells an image from others, whichever file it came from."""
    digest = hashlib.sha256(image.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
    return digest, tuple(image.shape), image.dtype, image.device


def term(configs: Sequence[DictConfig], kind: str, like: Tensor, label: str = "") -> LayerTerm:
    """Return the content or style term that the configurations of one or several pictures name.

    Args:
        configs: of each picture; the losses are the first one's, the layers' weights each one's own.
        kind: ``content`` or ``style``.
        like: ``(1, 3, H, W)``, a picture of the size that is painted.
        label: of one style of several.
    """
    config = configs[0]
    loss, combine = configuration.build(config[f"{kind}_loss"]), config.layers.get("combine", "mean")
    if isinstance(loss, SizedLoss):
        loss = loss.for_picture(*like.shape[2:])
    weights = [layer_weights(config, kind) for config in configs]
    if traits(loss).joins_layers:
        if any(of_image != weights[0] for of_image in weights):
            raise Retry("Their layers have different weights, which hypercolumns are made with.")
        loss = loss.for_layers(weights[0])
    return LayerTerm.of_batch(kind, loss, weights, combine, like=like, label=label)


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
    """Return the targets of one image, given those of a batch of so many copies."""
    for tag, target in targets.items() if copies > 1 else ():
        if not all(isinstance(leaf, Tensor) and leaf.shape[:1] == (copies,) for leaf in tree_leaves(target)):
            raise Retry(f"What the loss of {tag} keeps of an image is no tensor with a row for each image.")
    return cast(dict[str, Any], tree_map(lambda leaf: leaf[:1].clone(), targets)) if copies > 1 else targets


def _joined(targets: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the targets of a batch: its images' one after the other, or the one that they share."""
    first = targets[0]
    if all(other is first for other in targets):
        return first
    if len({tuple(leaf.shape for leaf in tree_leaves(of_one)) for of_one in targets}) > 1:
        raise Retry("What a loss keeps of the images has different sizes.")
    joined: dict[str, Any] = tree_map(lambda *rows: torch.cat(rows), *targets)
    return joined
