"""Networks made from their configuration, and kept in files that say what they are."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from omegaconf import OmegaConf
from torch import nn

from nst import configuration, trust
from nst.errors import UserError
from nst.files import plain, write_atomic
from nst.transformers.adaptive import AdaptiveTransformer, encoder_without_weights
from nst.transformers.pyramid import PyramidTransformer
from nst.transformers.residual import ResidualTransformer

FORMAT = 1
KEY = "nst_transformer"  # of the JSON in the file's metadata
OURS: dict[str, type[nn.Module]] = {
    f"nst.transformers.{kind.__name__}": kind for kind in (ResidualTransformer, PyramidTransformer, AdaptiveTransformer)
}
HOW_TO_GET_ONE = "A network file is what task=train leaves as network.safetensors in its folder."


def build(node: Any, styles: int, seed: int, as_if: Any = None) -> nn.Module:
    """Make an image-transformation network, its weights drawn from a seed; torch's own random state does not change.

    The node is a mapping with ``_target_`` and the arguments, to which ``styles`` is added. The network, on the CPU in
    float32, has it, or ``as_if``, as its attribute ``node``, so that ``save`` can keep it. Raises UserError if the
    network refuses its arguments.
    """
    node = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else dict(node)
    return _made(lambda: configuration.build(node, styles=styles), seed, node if as_if is None else as_if)


def _made(make: Callable[[], nn.Module], seed: int, node: Mapping[str, Any]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make()
    network.node = plain(node)
    # convolutions on a CPU are some 1.5 times as fast with the channels of a pixel side by side
    return network.to(memory_format=torch.channels_last)


def save(path: Path, network: nn.Module, about: Mapping[str, Any]) -> None:
    """Write a network to one file: its weights and, as JSON in the metadata, what it is.

    The same network and ``about`` make the same bytes.

    Args:
        path: of the ``.safetensors`` file, written atomically.
        network: what ``build`` or ``load`` returned, on any device.
        about: what else is to be known of it, in what JSON knows. ``styles`` is a mapping for each style, in the order
            of the rows: ``label``, ``file`` and ``sha256``.

    Raises:
        CannotWrite: the disk is full, or the folder is read-only.
    """
    styles = about.get("styles")
    if styles is not None and len(styles) != network.styles:
        raise ValueError(f"{len(styles)} styles are named of a network that has {network.styles}")
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    data = safetensors.torch.save(tensors, described(network, about))
    write_atomic(path, lambda file: file.write(data))


def described(network: nn.Module, about: Mapping[str, Any]) -> dict[str, str]:
    """Return the metadata of a network's file."""
    facts = {"format": FORMAT, "transformer": network.node, "styles": network.styles, "about": plain(dict(about))}
    return {KEY: json.dumps(facts, ensure_ascii=False, sort_keys=True)}


def load(path: Path, node: Any = None) -> tuple[nn.Module, dict[str, Any]]:
    """Read a network that ``save`` wrote.

    What the file names is made only if it is a network of this package. Another, whose code would have to be imported,
    must be named by the caller: its configuration is the ``node``. Returns the network, on the CPU in eval mode, and
    ``about`` as it was given to ``save``.

    Raises:
        UserError: there is no such file, it is damaged or truncated, no network of ours, or of a newer format.
    """
    facts, tensors = _read(path)
    own = facts["transformer"]
    if node is not None:
        network = build(node, facts["styles"], 0)
    elif own.get("_target_") in OURS:
        network = _make(path, own, facts["styles"], tensors)
    else:
        raise UserError(
            f"{path} holds a network of the class {own.get('_target_')}, which is none of this package and is not "
            "imported only because a file names it. Name it yourself: the transformer=OPTION that it was trained with."
        )
    _fit(path, network, tensors)
    network.load_state_dict(tensors)
    return network.eval(), facts["about"]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return what a file says of its network, checked for its form, and the weights."""
    if not path.is_file():
        raise UserError(f"There is no network file {path}. {HOW_TO_GET_ONE}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except PermissionError as error:
        raise UserError(f"{path} may not be read. Check the file's permissions.") from error
    except Exception as error:  # the reader raises whatever a broken file drives it to
        raise UserError(
            f"{path} ({path.stat().st_size:,} bytes) cannot be read as a .safetensors file: it is damaged, cut short, "
            f"or something else. Copy it again. {HOW_TO_GET_ONE}"
        ) from error
    if text is None:
        raise UserError(f"{path} holds weights, but does not say of which network. {HOW_TO_GET_ONE}")
    try:
        facts = json.loads(text)
        found = facts["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} does not say in a known form what it holds: it is damaged. Copy it again.") from error
    if not isinstance(found, int) or found > FORMAT:
        raise UserError(
            f"{path} was written by a newer version (format {found}, known up to {FORMAT}). Update this one."
        )
    forms = {"transformer": dict, "styles": int, "about": dict}
    if wrong := [key for key, form in forms.items() if not isinstance(facts.get(key), form)]:
        raise UserError(f"{path} is damaged: it does not say '{wrong[0]}'. Copy it again.")
    return facts, tensors


def _make(path: Path, node: dict[str, Any], styles: int, tensors: dict[str, torch.Tensor]) -> nn.Module:
    """Make a network of ours that a file describes, after a look at whether it is as large as its weights."""
    arguments = {key: value for key, value in node.items() if key != "_target_"}
    kind = OURS[node["_target_"]]
    if strange := [key for key, value in arguments.items() if not trust.is_plain(value)]:
        raise UserError(
            f"{path} describes its network with an argument that is no plain value, {strange[0]}: somebody has changed "
            "the file."
        )
    try:
        if kind is AdaptiveTransformer:  # the file holds the weights of its encoder, too, which may be nowhere else
            arguments |= encoder_without_weights(**arguments)
        else:
            with torch.device("meta"):
                _fit(path, kind(**arguments, styles=styles), tensors)
        return _made(lambda: kind(**arguments, styles=styles), 0, node)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{path} describes its network with arguments that are not known or not valid: {error}."
        ) from error


def _fit(path: Path, network: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Raise UserError if weights are not those of a network, or not finite."""
    own = network.state_dict()
    wrong = sorted(own.keys() ^ tensors.keys()) or [k for k, value in own.items() if value.shape != tensors[k].shape]
    if wrong:
        raise UserError(f"The weights in {path} do not belong to the network that it names, see {wrong[0]}.")
    if bad := [name for name, value in tensors.items() if not torch.isfinite(value).all()]:
        raise UserError(f"The weights in {path} hold values that are not finite, in {bad[0]}. Train the network again.")
