"""The frozen network that a configuration names, with its weights; one that an earlier run left is taken again."""

import json
import logging
from collections.abc import Callable, Hashable
from typing import Any

import torch
from cachetools import LRUCache
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from nst import configuration, runtime
from nst.errors import UserError
from nst.files import existing_file
from nst.images.pixels import with_margin
from nst.losses.functional import at_least_float32
from nst.networks import backbones
from nst.networks.backbones import Backbone
from nst.networks.own import OwnNetwork
from nst.networks.traced import Traced
from nst.setup.layers import inspected_layers, layer_weights
from nst.setup.objective import KINDS, cached

log = logging.getLogger(__name__)
_networks: LRUCache[Hashable, Backbone] = LRUCache(2)  # between the runs of a process
OURS = ("nst.networks.backbones.load", "nst.networks.traced.load")


def forget() -> None:
    """Give back the networks that are kept for runs to come."""
    _networks.clear()


def load_network(config: DictConfig, device: torch.device) -> Backbone:
    """Return the network that the losses look through, on the device.

    Raises:
        UserError: the weights cannot be had.
    """
    weights = (layer_weights(config, kind) for kind in KINDS)
    return _network(config, list(dict.fromkeys(layer for of_kind in weights for layer in of_kind)), device)


def inspected_maps(config: DictConfig, device: torch.device) -> Callable[[Tensor], dict[str, Tensor]] | None:
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

    def maps_of(image: Tensor) -> dict[str, Tensor]:
        maps = backbone(backbone.preprocessing(with_margin(image, config.margin)))
        return {layer: at_least_float32(maps[layer]) for layer in layers}

    return maps_of


def _network(config: DictConfig, layers: list[str], device: torch.device) -> Backbone:
    dtype = runtime.pixel_dtype(config.precision)

    def build() -> Any:
        try:
            backbone: Any = configuration.build(config.backbone, layers=layers, pooling=config.pooling)
        except UserError as error:
            has_other_units = config.backbone.get("weights") == "torchvision" and config.pixel_space == "network"
            if not has_other_units or config.clamp_range is None:
                raise
            bundled = backbones.no_download(str(config.backbone.get("architecture")), layers)
            other = "take another recipe: rate and limits of this one are in units of these weights' preprocessing."
            raise UserError(str(error).replace(bundled, other)) from error
        if not isinstance(backbone, Backbone | Traced):
            backbone = OwnNetwork(backbone, layers)
        if config.precision == "bfloat16" and not isinstance(backbone, Backbone):
            log.info("precision=bfloat16: %s is not made for it, and computes in float32", backbone.name)
        backbone = backbone.to(device, dtype)
        runtime.keep_freed_memory()
        return backbone

    if config.backbone.get("_target_") not in OURS:  # one of the user's own may change while it is used
        return build()
    file = existing_file(str(config.backbone.weights))
    version = [file.stat().st_mtime_ns, file.stat().st_size] if file is not None else None
    node: Any = OmegaConf.to_container(config.backbone, resolve=True)
    key = json.dumps([node, version, layers, config.pooling, str(dtype), str(device)], sort_keys=True)
    found: Backbone = cached(_networks, key, build)
    return found
