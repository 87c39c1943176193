"""Two figures from packages of their own, where their weights can be had: LPIPS and ArtFID.

Both need ``pip install -e '.[perceptual]'`` and a download of their network's weights. Without them one message says
what to do, and nothing else is affected.
"""

import contextlib
import importlib
import importlib.util
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor

from nst.errors import UserError
from nst.images import rgb

HOW_TO_INSTALL = {
    "lpips": "pip install -e '.[perceptual]'",
    "art_fid": "pip install --no-deps art-fid==0.0.2 (with its dependencies it would put NumPy back to 1.26)",
}
ART_INCEPTION_URL = "https://huggingface.co/matthias-wright/art_inception/resolve/main/art_inception.pth"
ART_FID_SIDE = 512  # pixels; every picture is squeezed to this square, so that results of different sizes compare


def missing(package: str) -> str | None:
    """Return the sentence that tells how to install a package (``lpips`` or ``art_fid``), None if it is there."""
    with contextlib.suppress(ImportError, ValueError):
        if importlib.util.find_spec(package) is not None:
            return None
    way_out = " Or leave it out: evaluator.lpips=false." if package == "lpips" else ""
    return f"The package {package} is not installed: {HOW_TO_INSTALL[package]}.{way_out}"


def load_lpips() -> Callable[[Tensor, Tensor], float]:
    """Load LPIPS version 0.1 on AlexNet, the variant that its authors advise for scoring (Zhang 2018).

    It is a function of two ``(1, 3, H, W)`` RGB pictures in [0, 1] of one shape, on the CPU in float64: 0 for equal
    pictures, about 1 for unlike ones, NaN for those too small for AlexNet. Raises UserError if the package or AlexNet's
    weights are not there.
    """
    package = _import("lpips", "lpips")
    url = torchvision.models.AlexNet_Weights.IMAGENET1K_V1.url
    way_out = ", or leave LPIPS out: evaluator.lpips=false"
    with _loading("LPIPS needs AlexNet's weights", url, url.rpartition("/")[2], way_out), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = package.LPIPS(net="alex", version="0.1", verbose=False).double().eval()

    def distance(first: Tensor, second: Tensor) -> float:
        if min(first.shape[2:]) < 63:  # AlexNet's three pools leave nothing of a shorter side
            return float("nan")
        with torch.no_grad():
            return float(model(first.double(), second.double(), normalize=True))

    return distance


def art_fid(results: Sequence[Path], contents: Sequence[Path], styles: Sequence[Path]) -> float:
    """ArtFID of a set of pictures, (1 + LPIPS) * (1 + FID) (Wright & Ommer 2022); lower is better.

    LPIPS is the mean over pairs of result and content. FID is the Fréchet distance between the results and the style
    images in the features of the Inception network trained on art that the package art-fid brings. FID of few pictures
    is far too high and depends on their number, so that only sets of the same size compare, and small ones hardly.

    Content and style images are in the order of the results. Raises UserError if the packages or weights are not there,
    there are fewer than two pictures, or one cannot be read.
    """
    if len(results) < 2:
        raise UserError("ArtFID is a figure of a set of pictures: give two finished runs or more, better hundreds.")
    distance, features = load_lpips(), _load_art_inception()

    def read(file: Path) -> Tensor:
        return rgb.load(str(file), ART_FID_SIDE, "square").double()

    lpips = np.mean([distance(read(result), read(content)) for result, content in zip(results, contents, strict=True)])
    fid = frechet_distance(*(np.stack([features(read(file)) for file in files]) for files in (results, styles)))
    return float((1 + lpips) * (1 + fid))


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Squared Fréchet distance of two Gaussians fitted to features (Dowson & Landau 1982; Heusel 2017, eq. 6).

    ``|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))`` with means m and covariances S. With the centred features X and Y,
    S1 = X^T X / (n1 - 1) and so on, the trace of the root is the sum of the singular values of X Y^T over
    ((n1 - 1)(n2 - 1))^(1/2). That holds for fewer pictures than features as well, where a matrix root breaks down.
    Features are ``(n1, D)`` and ``(n2, D)``, n1 and n2 at least 2.
    """
    first, second = first.astype(np.float64), second.astype(np.float64)
    x, y = ((rows - rows.mean(0)) / np.sqrt(len(rows) - 1) for rows in (first, second))
    root = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    return float(((first.mean(0) - second.mean(0)) ** 2).sum() + (x**2).sum() + (y**2).sum() - 2 * root)


def _load_art_inception() -> Callable[[Tensor], np.ndarray]:
    """Load art-fid's network: a function of a ``(1, 3, H, W)`` RGB picture in [0, 1] that returns 2048 features."""
    package = _import("art_fid", "art_fid.inception")
    needed = "ArtFID needs the weights of its Inception network"
    with _loading(needed, ART_INCEPTION_URL, "art_inception.pth") as file:
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(ART_INCEPTION_URL, str(file))
        network = package.Inception3()
        state = torch.load(file, map_location="cpu", weights_only=True)
        if missing := network.load_state_dict(state, strict=False).missing_keys:
            raise ValueError(f"the file has no {missing[0]}")
    network = network.double().eval()

    def features(picture: Tensor) -> np.ndarray:
        with torch.no_grad():
            found: np.ndarray = network(picture, return_features=True)[0].numpy()
        return found

    return features


@contextlib.contextmanager
def _loading(needed: str, url: str, name: str, way_out: str = "") -> Iterator[Path]:
    """Give the file of a network's weights; whatever goes wrong says where it comes from and where it belongs.

    The random numbers that layers start from must not disturb those of a run.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / name
    try:
        with torch.random.fork_rng(devices=[]):
            yield file
    except Exception as error:  # no network, no room, a broken file: torch raises whatever it meets
        where = f"Download {url} elsewhere and put it at {file}{way_out}."
        raise UserError(f"{needed}, which cannot be had: {error}. {where}") from error


def _import(package: str, module: str) -> Any:
    """Import a module of an optional package."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        told = f"The package {package} cannot be imported ({error}). To install it: {HOW_TO_INSTALL[package]}."
        raise UserError(missing(package) or told) from error
