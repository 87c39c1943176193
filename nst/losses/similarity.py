"""The losses of STROTSS (Kolkin, Salavon & Shakhnarovich 2019), made of cosine distances between sampled positions.

The paper takes hypercolumns, all layers of a position in one vector (``hypercolumns: true``); else each layer is
compared by itself. Sets of n vectors are ``(B, C, n)``, others' ``(B or 1, C, m)``; a distance is ``(B,)``.
"""

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor

from nst.images.pixels import RGB
from nst.losses.drawing import Drawing
from nst.losses.patches import normalized
from nst.losses.settings import check_count, check_flag, check_not_negative

FLAT = 1e-6  # share of the mean square below which a moment is rounding
CLOSEST = 1e-5  # a squared distance between colours is taken to be at least this, so that its root has a gradient
TURN = ((0.577350, 0.577350, 0.577350), (-0.577350, 0.788675, -0.211325), (-0.577350, -0.211325, 0.788675))
ROUNDING = 100  # times the precision: cosine distances closer than that count as equal


def cosine_distances(ours: Tensor, others: Tensor) -> Tensor:
    """Return the cosine distance 1 - a.b / (|a| |b|) of every two vectors, ``(B, n, m)``; 1 where one is zero."""
    return 1 - normalized(ours).mT @ normalized(others)


def color_distances(ours: Tensor, others: Tensor) -> Tensor:
    """Return the cosine distance plus the Euclidean one, divided by the root of 3, of every two colours (Kolkin 2019).

    Colours ``(B, 3, n)`` and ``(B or 1, 3, m)`` are turned first, so that grey is an axis (the code's ``rgb_to_yuv``).
    """
    turn = torch.tensor(TURN, dtype=ours.dtype, device=ours.device)
    ours, others = turn @ ours, turn @ others
    squares = ours.square().sum(1)[:, :, None] + others.square().sum(1)[:, None] - 2 * ours.mT @ others
    return cosine_distances(ours, others) + (squares.clamp(CLOSEST, 1 / CLOSEST) / 3).sqrt()


def relaxed_emd(
    ours: Tensor, others: Tensor, distances_of: Callable[[Tensor, Tensor], Tensor] = cosine_distances
) -> Tensor:
    """Relaxed earth mover's distance under some distances D (Kolkin 2019, "Style loss").

    The larger of the mean over i of min_j D_ij and the mean over j of min_i D_ij: each drops one of the two conditions
    on a transport plan, so that neither exceeds the earth mover's distance itself.
    """
    distances = distances_of(ours, others)
    return torch.maximum(distances.amin(2).mean(1), distances.amin(1).mean(1))


def moments(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean ``(B, C, 1)`` and the covariance ``(B, C, C)`` of vectors ``(B, C, n)``."""
    mean = vectors.mean(2, keepdim=True)
    centred = vectors - mean
    return mean, centred @ centred.mT / vectors.shape[2]


def moment_distance(ours: Tensor, wanted: tuple[Tensor, Tensor], norm: str | float = "none") -> Tensor:
    """Mean absolute difference of means plus that of covariances (Kolkin 2019, "Style loss").

    It holds the lengths of the vectors, which cosine distances do not see. Wanted are the others' ``moments``. The norm
    ``relative`` divides each of the two by the mean absolute value of the others' own, unless that is no more than
    rounding, as the covariance of a flat colour is; ``none`` does not divide, as in the paper; a number is the divisor
    of both.
    """
    total = ours.new_zeros(len(ours))
    mean, covariance = wanted
    noise = FLAT * (covariance.diagonal(dim1=1, dim2=2) + mean[:, :, 0].square()).mean(1)
    for moment, other in zip(moments(ours), wanted, strict=True):
        difference = (moment - other).abs().flatten(1).mean(1)
        if norm == "relative":
            size = other.abs().flatten(1).mean(1)
            difference = difference / torch.where(size > noise, size, 1)
        total = total + difference
    return total if isinstance(norm, str) else total / norm


def self_similarity(ours: Tensor, others: Tensor) -> Tensor:
    """Mean absolute difference between two sets' normalised distance matrices (Kolkin 2019, "Content loss").

    Each column of the cosine distances D_ij within a set is divided by its sum; D itself, not its scale, is compared.
    Both sets are of the same positions.
    """
    wanted = _shares(others)
    difference = _shares(ours) - wanted
    noise = ROUNDING * torch.finfo(wanted.dtype).eps / wanted.shape[2]
    difference = torch.where(difference.abs() > noise, difference, 0)  # at a start that is the target it has a sign
    return difference.abs().flatten(1).mean(1)


class RelaxedEMDLoss(Drawing):
    """Relaxed earth mover's distance between sampled positions; see ``relaxed_emd`` and ``moment_distance``.

    Args:
        samples: positions drawn of each map; all where there are no more.
        moments: weight of ``moment_distance``; 1 in the paper, 0 leaves it out.
        norm: of ``moment_distance`` alone, since cosine distances have no unit.
        redraw: steps between two draws of positions; with L-BFGS some dozens, since it wants one function.
        hypercolumns: join all layers; their weights multiply their maps.
        style_samples: positions of the style image, drawn once for all steps; 0: as many as of the picture, each time.
        colors: weight of the relaxed earth mover's distance under ``color_distances``; it needs the layer ``rgb`` as
            the first, and hypercolumns.
    """

    def __init__(
        self,
        samples: int = 1024,
        moments: float = 1.0,
        norm: str | float = "relative",
        redraw: int = 1,
        scale: float = 1.0,
        *,
        hypercolumns: bool = False,
        style_samples: int = 0,
        colors: float = 0.0,
    ) -> None:
        super().__init__(redraw, norm, scale)
        self.samples = check_count("samples", samples)
        self.moments = check_not_negative("moments", moments)
        self.joins_layers = check_flag("hypercolumns", hypercolumns)
        self.style_samples = check_count("style_samples", style_samples) if style_samples else 0
        self.colors = check_not_negative("colors", colors)
        if colors and not hypercolumns:
            raise ValueError("colors are looked at beside hypercolumns only: hypercolumns=true, or colors=0")

    def for_layers(self, weights: Mapping[str, float]) -> Self:
        """Return this loss for layers that it joins; ValueError if colours count and there are none."""
        if self.colors and next(iter(weights), None) != RGB:
            raise ValueError(f"colors={self.colors:g} needs {RGB} as the first style layer, or colors=0")
        return super().for_layers(weights)

    def target(self, features: Any) -> Any:
        """Return what to keep of the style image's map ``(B, C, H, W)``, or maps: these, or what was drawn of them."""
        return self._with_moments(self.columns(features, self.style_samples)) if self.style_samples else features

    def __call__(self, features: Any, target: Any) -> Tensor:
        """Compare ``(B, C, H, W)``, or the maps of all layers, with the target; returns ``(B,)``."""
        ours = self.columns(features, self.samples)
        wanted = target if self.style_samples else self._with_moments(self.columns(target, self.samples))
        others = wanted["columns"]
        value = relaxed_emd(ours, others)
        if self.moments:
            pair = wanted["mean"], wanted["covariance"]
            value = value + self.moments * moment_distance(ours, pair, self.norm)
        if self.colors:
            value = value + self.colors * relaxed_emd(ours[:, :3], others[:, :3], color_distances)
        return value

    def _with_moments(self, columns: Tensor) -> dict[str, Tensor]:
        if not self.moments:
            return {"columns": columns}
        mean, covariance = moments(columns)
        return {"columns": columns, "mean": mean, "covariance": covariance}


class SelfSimilarityLoss(Drawing):
    """How alike a picture's places are to each other, against the content image; see ``self_similarity``.

    Args:
        samples: positions drawn, the same in both maps; all where there are no more.
        norm: ``relative`` (to the target's own mean, 1/n for n positions, as in the authors' code), ``none`` (as in the
            paper) or a divisor.
        redraw: steps between two draws of positions; with L-BFGS some dozens, since it wants one function.
        hypercolumns: join all layers; their weights multiply their maps.
    """

    def __init__(
        self,
        samples: int = 1024,
        norm: str | float = "relative",
        redraw: int = 1,
        scale: float = 1.0,
        *,
        hypercolumns: bool = False,
    ) -> None:
        super().__init__(redraw, norm, scale)
        self.samples = check_count("samples", samples)
        self.joins_layers = check_flag("hypercolumns", hypercolumns)

    def __call__(self, features: Any, target: Any) -> Tensor:
        """Compare ``(B, C, H, W)``, or the maps of all layers, with the target; returns ``(B,)``."""
        ours, others = (self.columns(maps, self.samples) for maps in (features, target))
        value = self_similarity(ours, others)
        if self.norm == "relative":
            return value * ours.shape[2]
        return value if isinstance(self.norm, str) else value / self.norm


def _shares(vectors: Tensor) -> Tensor:
    """Return the cosine distances within a set ``(B, n, n)``, each column divided by its sum."""
    distances = cosine_distances(vectors, vectors)
    sums = distances.sum(1, keepdim=True)
    noise = ROUNDING * torch.finfo(distances.dtype).eps * vectors.shape[2]  # of vectors that all point the same way
    return distances / torch.where(sums > noise, sums, 1)
