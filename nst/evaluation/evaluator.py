"""Scores of a finished picture by one fixed evaluator, so that runs of different recipes can be compared.

The losses of two recipes are in different units. A score is computed from the saved picture alone, by a network, layers
and a size that do not depend on the run, and carries the evaluator's name. What the scores mean and when to distrust
them: ``docs/evaluator.md``.
"""

import contextlib
import hashlib
import json
import logging
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage
import torch
from torch import Tensor
from torch.nn import functional as nnf

from nst.errors import ConfigError, UserError, unknown
from nst.evaluation import learned
from nst.files import sha256
from nst.images import color as color_of_runs
from nst.images import decoding, rgb
from nst.losses import functional
from nst.networks import backbones
from nst.pretrained import same_numbers
from nst.runs import folders

log = logging.getLogger(__name__)

REGION_SIDE = 512  # pixels that masks are looked at with
FORMULAS = 2  # raised whenever a formula below changes, so that old and new scores have different names
SMALLEST_SIZE, LARGEST_SIZE = 32, 2048
NEAR = 0.05  # style and content are one picture if they differ by no more than this share, squared, in every layer
BINS = 8  # of a colour histogram, for each channel
DIGITS = 6  # significant ones that are kept: beyond them machines differ
WAY_OUT = "take evaluator=squeezenet, whose weights are bundled, or score nothing: evaluator=none."

Scores = dict[str, float | str | None]
Picture = Tensor | Path | str  # (1, 3, H, W) RGB in [0, 1], a file, or the name of a sample


@dataclass(eq=False)
class Settings:
    """What an evaluator is made of.

    Attributes:
        name: first part of the evaluator's name.
        architecture: torchvision's name of the network, such as ``vgg16``.
        weights: ``bundled``, ``torchvision``, ``caffe``, ``random``, a file or a URL; see ``weights.load``.
        content_layers: where feature maps are compared with the content image's; each counts alike.
        style_layers: where Gram matrices are compared with the style image's; each counts alike.
        preprocessing: ``auto``, or one of ``nst.images.pixels.PREPROCESSINGS``; see ``nst.networks.backbones.load``.
        pooling: ``max``, ``avg`` or ``l2``.
        size: pixels of the content's and the style's long side; the result is stretched to the content's shape.
        lpips: compute LPIPS as well, see ``nst.evaluation.learned``.
    """

    name: str
    architecture: str
    weights: str
    content_layers: Sequence[str]
    style_layers: Sequence[str]
    preprocessing: str = "auto"
    pooling: str = "max"
    size: int = 256
    lpips: bool = False

    def problems(self) -> list[str]:
        """Return what is wrong with them, one sentence each, without loading any weight."""
        found = []
        if not re.fullmatch(r"\w+", str(self.name)):
            found.append(f"evaluator.name={self.name} must be letters, digits and underscores.")
        for problem in backbones.problems(str(self.architecture), str(self.weights), str(self.preprocessing)):
            prefix = "" if problem.startswith("backbone.") else "evaluator: "
            found.append(prefix + problem.replace("backbone.", "evaluator."))
        if self.pooling not in backbones.POOLINGS:
            found.append("evaluator: " + unknown("pooling", self.pooling, backbones.POOLINGS))
        if type(self.size) is not int or not SMALLEST_SIZE <= self.size <= LARGEST_SIZE:
            found.append(f"evaluator.size={self.size} must be a whole number from {SMALLEST_SIZE} to {LARGEST_SIZE}.")
        if not isinstance(self.lpips, bool):
            found.append(f"evaluator.lpips={self.lpips} must be true or false.")
        elif self.lpips and (way_out := learned.missing("lpips")):
            found.append(way_out)
        if self.architecture in backbones.ARCHITECTURES:
            for knob in ("content_layers", "style_layers"):
                found += self._layer_problems(knob, getattr(self, knob))
        return found

    def _layer_problems(self, knob: str, layers: Any) -> list[str]:
        if isinstance(layers, str) or not isinstance(layers, Sequence) or not layers:
            return [f"evaluator.{knob}={layers} must be a list of one layer or more, such as [fire4,fire8]."]
        found, seen = [], set()
        for layer in layers:
            try:
                canonical = backbones.resolve(str(layer), self.architecture, self.weights).name
            except UserError as error:
                found.append(f"evaluator.{knob}: {error}".replace("backbone.", "evaluator."))
                continue
            if canonical in seen:
                found.append(f"evaluator.{knob} names {canonical} twice.")
            seen.add(canonical)
        return found


def problems(**arguments: Any) -> list[str]:
    """Return what is wrong with the arguments of ``Evaluator``, see ``Settings.problems``."""
    return Settings(**arguments).problems()


@dataclass(eq=False, repr=False)
class Evaluator(Settings):
    """A network that scores pictures, always on the CPU in float64 and on one thread: the same bits each time.

    It is made of ``Settings``. Its layers have their canonical names, by depth.

    Attributes:
        name: ``NAME-SIZE-HASH``, such as ``squeezenet-256-1a2b3c``; the hash is over ``settings``.
        settings: all that decides a score, the weights by their SHA-256.
        source: where the weights came from.

    Raises:
        ConfigError: an argument has a value that does not exist; all mistakes in one message.
        UserError: the weights cannot be had.
    """

    def __post_init__(self) -> None:
        """Load the network."""
        if mistakes := self.problems():
            raise ConfigError(mistakes)
        self.content_layers, self.style_layers = (
            _by_depth(layers, self.architecture) for layers in (self.content_layers, self.style_layers)
        )
        layers = [*self.content_layers, *self.style_layers]
        try:
            backbone = backbones.load(self.architecture, self.weights, layers, self.pooling, self.preprocessing)
        except UserError as error:
            no_download = backbones.no_download(self.architecture, layers)
            reason = str(error).replace(no_download, WAY_OUT).replace("backbone", "evaluator")
            raise UserError(f"The evaluator {self.name} cannot be made. {reason}") from error
        self.source = backbone.source
        self.backbone = backbone.double()
        self.settings: dict[str, Any] = {
            "formulas": FORMULAS,
            "architecture": self.architecture,
            "weights": same_numbers(self.source.sha256) or self.source.name,
            "preprocessing": backbones.chosen_preprocessing(self.weights, self.preprocessing),
            "pooling": self.pooling,
            "content_layers": self.content_layers,
            "style_layers": self.style_layers,
            "size": self.size,
        }
        digest = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()
        self.name = f"{self.name}-{self.size}-{digest[:6]}"
        self._lpips = learned.load_lpips() if self.lpips else None

    def scores(
        self,
        result: Picture,
        content: Picture,
        style: Picture,
        background: str = "white",
        color: str = "style",
        region: Tensor | None = None,
    ) -> Scores:
        """Score a picture as it is saved: with 8 bits a channel.

        Files give the same scores on every machine, whatever the size of the run. A tensor is rounded to 8 bits first,
        so that a result scores as its PNG file does; a content or style tensor that has been scaled scores a little
        differently from its file.

        The result is stretched to the content's shape; the background shows through transparent pixels of a file.

        Args:
            color: what the run was asked for, see ``color.prepare``: the style that it is compared with is the one
                that it was shown, and of ``luminance`` only the luminance counts.
            region: ``(1, 1, H, W)`` in [0, 1] of any size, where the style was to go; None is everywhere.

        Returns:
            ``evaluator`` (its name), ``content_distance``, ``style_distance``, ``ssim``, ``edge_correlation``,
            ``color_histogram_distance``, ``total_variation`` and, if asked for, ``lpips``, to six significant digits;
            None where a score is not defined.

        Raises:
            UserError: a file is missing or broken, or a side of it would vanish at this size.
        """
        original = _fitted(content, self.size, background)
        shape = original.shape[1], original.shape[0]
        painted = _stretched(result, shape, background)
        in_grey = color == "luminance"
        with _one_thread(), torch.no_grad():
            # the style alone, and laid over the content, which is as far from the content as a picture may be
            styles = _fitted(style, self.size, background), _stretched(style, shape, background)
            content_shown, (style_shown, baseline) = _as_shown(color, original, *styles)
            grey = np.rint(_luminance(painted) * 255).astype(np.uint8)
            compared = np.repeat(grey[..., None], 3, axis=2) if in_grey else painted
            distances = self._distances(compared, content_shown, style_shown, baseline, region=region)
            colours = None if in_grey else color_histogram_distance(_within(painted, region), style_shown)
            found: dict[str, float | None] = {
                "content_distance": distances[0],
                "style_distance": distances[1],
                "ssim": ssim(painted, original),
                "edge_correlation": edge_correlation(painted, original),
                "color_histogram_distance": colours,
                "total_variation": float(functional.total_variation(_tensor(painted), "absolute", "mean")),
            }
            if self._lpips is not None:
                found["lpips"] = self._lpips(_tensor(painted), _tensor(original))
        return {"evaluator": self.name, **{key: _rounded(value) for key, value in found.items()}}

    def scores_of_blend(
        self,
        result: Picture,
        content: Picture,
        styles: Sequence[tuple[Picture, float]],
        background: str = "white",
        color: str = "style",
        masks: Sequence[Picture | None] = (),
        protected: Picture | None = None,
    ) -> Scores:
        """Score a picture that has several styles: against each, the two distances from the style averaged.

        Each style image comes with its weight, and of ``masks`` where it was to go: None, or none at all, is
        everywhere. ``protected`` is where the content was to stay. All else is as in ``scores``, and with a single
        style the very same; an average is None where one of its distances is.
        """
        regions = _regions(masks or [None] * len(styles), protected)
        found = [
            self.scores(result, content, style, background, color, region=region)
            for (style, _), region in zip(styles, regions, strict=True)
        ]
        if len(found) == 1:
            return found[0]
        weights = [weight for _, weight in styles]
        blended: dict[str, float | None] = {}
        for name in ("style_distance", "color_histogram_distance"):
            distances = zip((one[name] for one in found), weights, strict=True)
            known = [distance * weight for distance, weight in distances if isinstance(distance, float)]
            blended[name] = _rounded(sum(known) / sum(weights)) if len(known) == len(weights) else None
        return found[0] | blended

    def _distances(self, *pictures: np.ndarray, region: Tensor | None) -> tuple[float | None, float | None]:
        """Return the content and the style distance of a result, by its content, style, and what counts as far."""
        try:
            result, content, style, baseline = (
                self.backbone(self.backbone.preprocessing(_tensor(p))) for p in pictures
            )
        except UserError as error:  # a strip too narrow for the network must not cost the run its other scores
            log.warning("%s leaves content_distance and style_distance out: %s", self.name, error)
            return None, None

        content_far, content_most = (
            [functional.content_loss(maps[layer], content[layer], "none") for layer in self.content_layers]
            for maps in (result, baseline)
        )
        style_far, style_most = (
            [_gram_error(maps[layer], style[layer], region) for layer in self.style_layers]
            for maps in (result, content)
        )
        content_sizes = [content[layer].square().mean() for layer in self.content_layers]
        style_sizes = [functional.gram_matrix(style[layer], "N").square().mean() for layer in self.style_layers]
        return _relative(content_far, content_most, content_sizes), _relative(style_far, style_most, style_sizes)


def nothing() -> None:
    """Stand in for an evaluator where nothing is to be scored (``evaluator=none``)."""


def ssim(first: np.ndarray, second: np.ndarray) -> float | None:
    """Structural similarity of two pictures' luminance (Wang 2004), computed by scikit-image.

    Gaussian window of 11 x 11 pixels with a standard deviation of 1.5, K1 = 0.01, K2 = 0.03, averaged over all windows
    that lie within the picture. Of ``(H, W, 3)`` uint8 -1 to 1, 1 for equal pictures; None if a side is shorter than
    the window.
    """
    from skimage.metrics import structural_similarity  # here, since only a finished picture needs it

    if min(first.shape[:2]) < 11:
        return None
    wang = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    return float(structural_similarity(_luminance(first), _luminance(second), **wang))


def edge_correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    """Pearson correlation of two pictures' edge strengths: magnitudes of the luminance's Sobel gradient.

    Of ``(H, W, 3)`` uint8 -1 to 1, 1 for equal pictures; None if one has no edges, or the same strength everywhere.
    """
    deviations = []
    for picture in (first, second):
        luminance = _luminance(picture)
        strength = np.hypot(scipy.ndimage.sobel(luminance, 0), scipy.ndimage.sobel(luminance, 1))
        deviations.append(strength - strength.mean())
    size = math.sqrt(float((deviations[0] ** 2).sum()) * float((deviations[1] ** 2).sum()))
    return float((deviations[0] * deviations[1]).sum()) / size if size > 1e-12 else None


def color_histogram_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Hellinger distance of two pictures' RGB histograms of 8 x 8 x 8 bins.

    With p and q the shares of pixels in each bin: ``sqrt(sum (sqrt(p) - sqrt(q))^2 / 2)``. Of ``(H, W, 3)`` and
    ``(H', W', 3)`` uint8 0 for the same share of pixels in every bin, 1 if no bin holds pixels of both.
    """
    roots = []
    for picture in (first, second):
        red, green, blue = (picture // (256 // BINS)).reshape(-1, 3).T.astype(np.int64)
        counts = np.bincount((red * BINS + green) * BINS + blue, minlength=BINS**3)
        roots.append(np.sqrt(counts / counts.sum()))
    return math.sqrt(float(((roots[0] - roots[1]) ** 2).sum()) / 2)


@dataclass(frozen=True)
class RunPictures:
    """What a run folder tells about its pictures."""

    result: Path  # the picture it painted
    content: Path  # the content image's file
    styles: list[tuple[Path, float]]  # each style image's file, and its weight
    background: str  # what showed through transparent pixels
    color: str = "style"  # whose colours were asked for
    # of each style where it was to go, None for everywhere; none at all where no style has any
    masks: Sequence[Path | None] = ()
    protected: Path | None = None  # where the content was to stay, or None


def run_folders(folder: Path) -> list[Path]:
    """Return every folder in and below ``folder`` that holds a ``run.json``, by name; raise UserError without any."""
    if not (found := [path for path in folders.find(folder)[0] if (path / "run.json").is_file()]):
        raise UserError(f"{folder} holds no run: there is no run.json in it or below it.")
    return found


def run_pictures(folder: Path) -> RunPictures:
    """Read where a finished run's pictures are.

    Raises UserError if the run is not finished, or one of its pictures is gone or has changed.
    """
    record = folders.read(folder).record
    try:
        content, background, styles = record["content"], record["config"]["background"], _recorded_styles(record)
    except (ValueError, KeyError, TypeError) as error:
        told = f"{type(error).__name__}: {error}"
        raise UserError(f"{folder / 'run.json'} cannot be read as the record of a run ({told}).") from error
    result = record.get("result")
    if not result:
        raise UserError(f"{folder} has no result: the run is not finished. Only finished runs can be scored.")
    if not content:
        raise UserError(f"{folder} has painted a folder of pictures. Score them one by one: RESULT CONTENT STYLE.")

    def find(kind: str, fact: dict[str, Any]) -> Path:
        file = Path(fact["file"])
        if not file.is_file():
            with contextlib.suppress(UserError):  # a sample lies elsewhere on another machine
                file = rgb.locate(fact["name"])
        return _unchanged(folder, kind, file, fact["sha256"])

    protected = (record.get("further_images") or {}).get("content_mask")
    return RunPictures(
        result=_unchanged(folder, "result", folder / result["file"], result["sha256"]),
        content=find("content", content),
        styles=[(find("style", fact), weight) for fact, weight in styles],
        background=background,
        color=str(record["config"].get("color", "style")),
        masks=[None if fact is None else find("mask", fact) for fact in recorded_masks(record)],
        protected=None if protected is None else find("mask", protected),
    )


def recorded_masks(record: dict[str, Any]) -> list[dict[str, Any] | None]:
    """Return what a run's record says of each style's mask, None for a style without; none where no style has any."""
    further = record.get("further_images") or {}
    if "style_masks" in further:
        return [further["style_masks"]]
    masks = [further.get(f"style_masks[{place}]") for place in range(len(_recorded_styles(record)))]
    return masks if any(masks) else []


def recorded_styles(record: dict[str, Any]) -> list[tuple[Picture, float]]:
    """Return each style image of a run's record, where it was, and its weight."""
    return [(Path(fact["file"]), weight) for fact, weight in _recorded_styles(record)]


def _recorded_styles(record: dict[str, Any]) -> list[tuple[dict[str, Any], float]]:
    further = record.get("further_images") or {}
    styles = [record["style"], *(fact for knob, fact in further.items() if knob.startswith("style["))]
    weights = record["config"].get("style_weights") or [1.0] * len(styles)
    return list(zip(styles, weights if isinstance(weights, list) else [weights], strict=True))


def _unchanged(folder: Path, kind: str, file: Path, digest: str) -> Path:
    """Return a picture's file if it is the one that was recorded."""
    if not file.is_file():
        raise UserError(f"{folder}: the {kind} image {file} is gone, so the run cannot be scored. Put it back there.")
    if sha256(file) != digest:
        raise UserError(
            f"{folder}: {file} is not the {kind} image that the run recorded (its SHA-256 differs), so the run cannot "
            "be scored. Put the old file back, or run it again."
        )
    return file


def _by_depth(layers: Sequence[str], architecture: str) -> list[str]:
    """Return canonical names of layers, the same in whatever order they are listed."""
    found = sorted((backbones.resolve(str(name), architecture) for name in layers), key=lambda layer: layer.index)
    return [layer.name for layer in found]


def _gram_error(features: Tensor, target: Tensor, region: Tensor | None) -> Tensor:
    """Return the mean squared difference of two maps' Gram matrices, of the first within a region; sizes may differ."""
    wanted = functional.gram_matrix(target, "N")
    if region is None:
        return functional.gram_loss(features, wanted, "N", "none")
    guide = nnf.interpolate(region, size=features.shape[2:], mode="area")
    return (functional.channel_products(features, guide=guide) / guide.sum() - wanted).square().mean()


def _relative(values: Sequence[Tensor], baselines: Sequence[Tensor], sizes: Sequence[Tensor]) -> float | None:
    """Return the mean of values, each divided by its own baseline; by the target's size where style is content.

    In the identity test, whose style is the content itself, the baseline is 0, or nearly so: of a copy saved as JPEG.
    """
    if all(float(baseline) <= NEAR * float(size) for baseline, size in zip(baselines, sizes, strict=True)):
        baselines = sizes
    if any(float(baseline) == 0 for baseline in baselines):
        return None
    return float(np.mean([float(value / baseline) for value, baseline in zip(values, baselines, strict=True)]))


def _as_shown(kind: str, content: np.ndarray, *styles: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return content and styles ``(H, W, 3)`` uint8 as the run was shown them."""
    if kind == "style":
        return content, list(styles)
    seen, prepared = color_of_runs.prepare(kind, _tensor(content), [_tensor(style) for style in styles])
    return rgb.to_bytes(seen), [rgb.to_bytes(style) for style in prepared]


def _regions(masks: Sequence[Picture | None], protected: Picture | None) -> list[Tensor | None]:
    """Return where each style was to go ``(1, 1, H, W)`` in [0, 1]: in its mask, and not where the content stays."""
    shape = (REGION_SIDE, REGION_SIDE)
    free = None if protected is None else 1 - rgb.load_mask(str(protected), shape)
    regions = [None if mask is None else rgb.load_mask(str(mask), shape) for mask in masks]
    return [region if free is None else free if region is None else region * free for region in regions]


def _within(picture: np.ndarray, region: Tensor | None) -> np.ndarray:
    """Return the pixels of ``(H, W, 3)`` that lie in a region, as ``(1, N, 3)``; all where there is none."""
    if region is None:
        return picture
    inside = nnf.interpolate(region, size=picture.shape[:2], mode="area")[0, 0].numpy() > 0.5
    return picture[inside][None] if inside.any() else picture


def _rounded(value: float | None) -> float | None:
    """Return a score to six significant digits, None if it is no number."""
    return float(f"{value:.{DIGITS}g}") if value is not None and math.isfinite(value) else None


def _luminance(picture: np.ndarray) -> np.ndarray:
    """Return the luminance in [0, 1] of ``(H, W, 3)`` uint8 as ``(H, W)`` float64."""
    red, green, blue = np.moveaxis(picture.astype(np.float64) / 255, -1, 0)
    weights = color_of_runs.LUMINANCE  # of ITU-R BT.601, as in the greyscale pictures of Wang 2004
    return weights[0] * red + weights[1] * green + weights[2] * blue


def _tensor(picture: np.ndarray) -> Tensor:
    """Return ``(H, W, 3)`` uint8 as ``(1, 3, H, W)`` float64 in [0, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].contiguous().double() / 255


def _fitted(picture: Picture, size: int, background: str) -> np.ndarray:
    """Return ``(H, W, 3)`` uint8, ``size`` pixels on the long side; Pillow gives the same bytes on every machine."""
    if isinstance(picture, Tensor):
        height, width = picture.shape[-2:]
        return rgb.to_bytes(picture, rgb.fitted(width, height, size, "long", Path("the picture")))
    return rgb.to_bytes(rgb.load(str(picture), size, background=background))


def _stretched(picture: Picture, shape: tuple[int, int], background: str) -> np.ndarray:
    """Return a picture stretched to ``shape`` (width, height) in one go, ``(H, W, 3)`` uint8."""
    if isinstance(picture, Tensor):
        return rgb.to_bytes(picture, shape)
    size = decoding.upright_size(rgb.locate(str(picture))) or (SMALLEST_SIZE,)  # the loading tells what is wrong
    return rgb.to_bytes(rgb.load(str(picture), min(max(size), rgb.LARGEST_SIDE), background=background), shape)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread, so that sums are added in the same order whatever the machine; then as before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
