"""The network to paint with: its file, its styles and how they are blended."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from nst import transformers
from nst.errors import ConfigError, UserError
from nst.files import existing_file, sha256, typed_path
from nst.images import rgb
from nst.runs import provenance, resume
from nst.runs.folders import is_unchanged
from nst.samples import FOLDER, samples

LARGEST_STYLE = 512  # pixels of its long side, at most, at which a style that is not trained for is looked at
HOW_TO_TRAIN = "Train one: python run.py task=train style=painting.jpg; it leaves network.safetensors in its folder."


@dataclass
class Model:
    """A network that has been trained, on the CPU.

    Attributes:
        about: what its file says of it.
        weights: of its styles, adding up to 1; None: it has only one.
    """

    path: Path
    network: nn.Module
    about: dict[str, Any]
    weights: list[float] | None

    @property
    def blend(self) -> Tensor | None:
        """The weights as ``(1, S)`` float64."""
        return None if self.weights is None else torch.tensor([self.weights], dtype=torch.float64)

    @property
    def labels(self) -> list[str]:
        """The names of its styles."""
        return [str(style.get("label") or style.get("file")) for style in self.about.get("styles") or []]

    def facts(self) -> dict[str, Any]:
        """Return what a record says of it."""
        return {**provenance.file(self.path), "about": self.about}

    def styles_in_words(self) -> str:
        """Return the names of its styles, with their weights if they are blended."""
        if self.weights is None or len(self.labels) != len(self.weights):
            return " and ".join(self.labels) or "its style"
        return " + ".join(f"{w:.3g} {label}" for w, label in zip(self.weights, self.labels, strict=True) if w)

    def style_files(self) -> list[dict[str, Any]]:
        """Return each style image as a record has it; ``file`` is where the image is, if it is still there.

        It is looked for where the network's file says, where the record of its training says, and among the samples.
        """
        record = resume.read(self.path.parent / "run.json")
        noted = [record.get("style"), *(record.get("further_images") or {}).values()]
        places = [Path(fact["file"]) for fact in noted if isinstance(fact, dict) and fact.get("file")]
        places += [FOLDER / about["file"] for about in samples().values()]
        found = []
        for style, label in zip(self.about.get("styles") or [], self.labels, strict=True):
            digest, named = style.get("sha256"), str(style.get("file"))
            file = next((path for path in [Path(named), *places] if is_unchanged(path, digest)), None)
            facts = provenance.file(file) if file else {"file": named, "sha256": digest}
            found.append({**facts, "name": label, "found": file is not None})
        return found


def find(name: str) -> Path:
    """Return the network's file; a folder stands for the file that a training left in it.

    Raises:
        UserError: there is none.
    """
    path = typed_path(name)
    found = existing_file(str(path / resume.NETWORK_FILE if path.is_dir() else path))
    if found is None:
        raise UserError(f"model={name}: there is no such file (looked in {Path.cwd()}). {HOW_TO_TRAIN}")
    return found


def load(config: DictConfig) -> Model:
    """Load the network that ``model`` names; one that paints in any style is given those that ``style`` names.

    Raises:
        UserError: there is none, its file is broken, or the weights of its styles make no sense.
    """
    if config.model is None:
        raise UserError(f"task=apply needs a trained network: model=FILE. {HOW_TO_TRAIN}")
    path = find(str(config.model))
    own = OmegaConf.is_dict(config.transformer) and config.transformer.get("_target_") not in transformers.storage.OURS
    network, about = transformers.load(path, config.transformer if own else None)
    if hasattr(network, "take_styles"):
        about = about | {"styles": _take_styles(network, config)}
    styles: Any = network.styles
    return Model(path, network, about, blend_weights(config.style_weights, styles, path))


def _take_styles(network: nn.Module, config: DictConfig) -> list[dict[str, Any]]:
    """Give a network that paints in any style those that ``style`` names; return what a record says of them."""
    names = list(config.style) if OmegaConf.is_list(config.style) else [config.style]
    take: Any = network.take_styles
    pictures, facts = [], []
    for name in map(str, names):
        path = rgb.locate(name)
        side = min(max(rgb.opened(str(path)).size), LARGEST_STYLE)
        pictures.append(rgb.load(str(path), side, "long", config.resample, config.background))
        facts.append({"label": Path(name).stem, "file": str(path), "sha256": sha256(path)})
    take(pictures)
    return facts


def blend_weights(given: Any, styles: int, path: Path) -> list[float] | None:
    """Return the weight of each style of a network, adding up to 1; None where there is only one style.

    Args:
        given: ``style_weights`` of the configuration: a number for each style, or None for all alike.
        styles: how many there are; ``path`` is the network's file.

    Raises:
        ConfigError: there is only one style, or they are not as many numbers from 0 up, one of them above 0.
    """
    if given is None:
        return None if styles == 1 else [1 / styles] * styles
    if styles == 1:
        raise ConfigError([f"style_weights={given} does nothing: {path} paints in one style. Leave it out."])
    weights: list[Any] = list(given) if OmegaConf.is_list(given) or isinstance(given, list | tuple) else [given]
    if len(weights) != styles:
        raise ConfigError([f"style_weights={given} must have {styles} numbers: {path} paints in {styles} styles."])
    for weight in weights:
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise ConfigError([f"style_weights: {weight} is no number from 0 up."])
    if not any(weights):
        raise ConfigError(["style_weights are all 0. Give at least one style a weight above 0."])
    return [float(weight) / float(sum(weights)) for weight in weights]
