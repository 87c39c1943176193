"""The weights that ship with the package: which there are, what they are, and who made them (see NOTICE).

``scripts/make_weights.py`` makes the files from the originals.
"""

import json
from pathlib import Path

FOLDER = Path(__file__).parent
SHA256 = {  # of the file, by torchvision's name of the network
    "vgg16": "b1e18cd40e3a5abf2fb17e9f84ceedb899f1dca520a6174f9f49ff8930a363b8",
    "squeezenet1_1": "84ea1fb4f932f09b376fa7228302b54316dca77eedfb6f6775a921529f55f14a",
}
DEEPEST = {"vgg16": "relu5_1"}  # the last layer that the weights reach, where it is not the network's own
# SqueezeNet's weights came from the package ndf before: recorded runs name it, and this hash of its file.
NDF_SHA256 = "f286bbf493e6389979ed3036f960f4404e0079acdb92156500df0d4a43d085f1"


def path_of(architecture: str) -> Path:
    """Return the file of a network's weights."""
    return FOLDER / f"{architecture}.safetensors"


def about(architecture: str) -> dict[str, str]:
    """Return what a file says of itself: network, authors, paper, source, licence, changes, preprocessing."""
    with path_of(architecture).open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return dict(header["__metadata__"])


def named_today(architecture: str, weights: str) -> str:
    """Return the name that a source of weights has today: ``ndf``, of old runs, is ``bundled`` SqueezeNet."""
    return "bundled" if (architecture, weights) == ("squeezenet1_1", "ndf") else weights


def same_numbers(sha256: str | None) -> str | None:
    """Return the hash that stands for the numbers in a file: one for ndf's SqueezeNet and for the bundled one."""
    return NDF_SHA256 if sha256 == SHA256["squeezenet1_1"] else sha256
