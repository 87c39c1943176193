"""The layers of the network that a configuration names: for content, for style, and to be inspected."""

import math
from typing import Any

from omegaconf import DictConfig, OmegaConf

from nst.errors import ConfigError, UserError
from nst.networks import backbones, traced

TRACED = "nst.networks.traced.load"


def layer_weights(config: DictConfig, kind: str) -> dict[str, float]:
    """Return ``{canonical layer name: weight}`` of the content or style layers, as ``layers`` lists them.

    An entry is a name (weight 1), ``name:weight`` as typed on the command line, or ``name: weight`` as YAML has it.

    Raises:
        ConfigError: a layer is unknown or named twice, or a weight is no number from 0 up.
    """
    problems: list[str] = []
    weights: dict[str, float] = {}
    for name, weight in _pairs(config.layers.get(kind)):
        if isinstance(weight, bool | str) or weight is None or not (math.isfinite(weight) and weight >= 0):
            problems.append(f"layers.{kind}: the weight of {name} is {weight}; a number from 0 up is needed.")
            continue
        try:
            canonical = _canonical_name(config, name)
        except UserError as error:
            problems.append(f"layers.{kind}: {error}")
            continue
        if canonical in weights:
            problems.append(f"layers.{kind} names {canonical} twice.")
        weights[canonical] = float(weight)
    if not problems and weights and sum(weights.values()) == 0:
        problems.append(f"layers.{kind}: the weights must not all be 0; layers.{kind}=[] leaves the term out.")
    if problems:
        raise ConfigError(problems)
    return weights


def inspected_layers(config: DictConfig) -> list[str]:
    """Return the canonical names of the layers that ``inspect`` lists.

    Raises:
        ConfigError: a layer is unknown.
    """
    problems: list[str] = []
    names: list[str] = []
    for name in config.inspect if OmegaConf.is_list(config.inspect) else filter(None, [config.inspect]):
        try:
            names.append(_canonical_name(config, str(name)))
        except UserError as error:
            problems.append(f"inspect: {error}")
    if problems:
        raise ConfigError(problems)
    return list(dict.fromkeys(names))


def _pairs(listed: Any) -> list[tuple[str, Any]]:
    """Return the (name, weight) pairs of a list of layers, neither of them checked."""
    listed = OmegaConf.to_container(listed) if OmegaConf.is_config(listed) else listed
    if isinstance(listed, dict):
        return [(str(name), weight) for name, weight in listed.items()]
    pairs: list[tuple[str, Any]] = []
    for entry in listed if isinstance(listed, list) else [] if listed is None else [listed]:
        if isinstance(entry, dict):
            pairs += _pairs(entry)
            continue
        name, colon, weight = str(entry).partition(":")
        try:
            pairs.append((name.strip(), float(weight) if colon else 1.0))
        except ValueError:
            pairs.append((name.strip(), weight.strip()))
    return pairs


def _canonical_name(config: DictConfig, name: str) -> str:
    """Return a layer's canonical name; a backbone from outside has its own names.

    Raises UserError if a network of torchvision has no such layer.
    """
    architecture, weights = config.backbone.get("architecture"), config.backbone.get("weights")
    if config.backbone.get("_target_") == TRACED:
        if architecture in traced.NETWORKS:
            traced.resolve(name, architecture)
        return name
    return backbones.resolve(name, architecture, weights).name if architecture in backbones.ARCHITECTURES else name
