"""The losses of STROTSS (Kolkin, Salavon & Shakhnarovich 2019), made of cosine distances between sampled positions.

The paper takes hypercolumns, all layers of a position in one vector; here each layer is compared by itself, as every
loss of this package. Sets of n vectors are ``(B, C, n)``, others' ``(B or 1, C, m)``; a distance is ``(B,)``.
"""

import torch
from torch import Tensor

from nst.losses.drawing import Drawing, sampled_positions
from nst.losses.settings import check_count, check_not_negative

FLAT = 1e-6  # share of the mean square below which a moment is rounding
ROUNDING = 100  # times the precision: cosine distances closer than that count as equal


def cosine_distances(ours: Tensor, others: Tensor) -> Tensor:
    """Return the cosine distance 1 - a.b / (|a| |b|) of every two vectors, ``(B, n, m)``; 1 where one is zero."""
    return 1 - _units(ours).mT @ _units(others)


def relaxed_emd(ours: Tensor, others: Tensor) -> Tensor:
    """Relaxed earth mover's distance under cosine distances D (Kolkin 2019, "Style loss").

    The larger of the mean over i of min_j D_ij and the mean over j of min_i D_ij: each drops one of the two conditions
    on a transport plan, so that neither exceeds the earth mover's distance itself.
    """
    distances = cosine_distances(ours, others)
    return torch.maximum(distances.amin(2).mean(1), distances.amin(1).mean(1))


def moment_distance(ours: Tensor, others: Tensor, norm: str | float = "none") -> Tensor:
    """Mean absolute difference of means plus that of covariances (Kolkin 2019, "Style loss").

    It holds the lengths of the vectors, which cosine distances do not see. The norm ``relative`` divides each of the
    two by the mean absolute value of the others' own, unless that is no more than rounding, as the covariance of a flat
    colour is; ``none`` does not divide, as in the paper; a number is the divisor of both.
    """
    total = ours.new_zeros(len(ours))
    noise = FLAT * others.square().flatten(1).mean(1)
    for moment, wanted in zip(_moments(ours), _moments(others), strict=True):
        difference = (moment - wanted).abs().flatten(1).mean(1)
        if norm == "relative":
            size = wanted.abs().flatten(1).mean(1)
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
    """

    def __init__(
        self,
        samples: int = 1024,
        moments: float = 1.0,
        norm: str | float = "relative",
        redraw: int = 1,
        scale: float = 1.0,
    ) -> None:
        super().__init__(redraw, norm, scale)
        self.samples = check_count("samples", samples)
        self.moments = check_not_negative("moments", moments)

    def __call__(self, features: Tensor, target: Tensor) -> Tensor:
        """Compare ``(B, C, H, W)`` with the target; returns ``(B,)``."""
        ours, others = (sampled_positions(maps, self.samples, self.generator()) for maps in (features, target))
        value = relaxed_emd(ours, others)
        return value + self.moments * moment_distance(ours, others, self.norm) if self.moments else value


class SelfSimilarityLoss(Drawing):
    """How alike a picture's places are to each other, against the content image; see ``self_similarity``.

    Args:
        samples: positions drawn, the same in both maps; all where there are no more.
        norm: ``relative`` (to the target's own mean, 1/n for n positions, as in the authors' code), ``none`` (as in the
            paper) or a divisor.
        redraw: steps between two draws of positions; with L-BFGS some dozens, since it wants one function.
    """

    def __init__(
        self, samples: int = 1024, norm: str | float = "relative", redraw: int = 1, scale: float = 1.0
    ) -> None:
        super().__init__(redraw, norm, scale)
        self.samples = check_count("samples", samples)

    def __call__(self, features: Tensor, target: Tensor) -> Tensor:
        """Compare ``(B, C, H, W)`` with the target; returns ``(B,)``."""
        ours, others = (sampled_positions(maps, self.samples, self.generator()) for maps in (features, target))
        value = self_similarity(ours, others)
        if self.norm == "relative":
            return value * ours.shape[2]
        return value if isinstance(self.norm, str) else value / self.norm


def _units(vectors: Tensor) -> Tensor:
    """Return vectors ``(B, C, n)`` at length 1, but zero where they are."""
    lengths = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return vectors / torch.where(lengths > 0, lengths, 1)


def _moments(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean ``(B, C, 1)`` and the covariance ``(B, C, C)`` of vectors ``(B, C, n)``."""
    mean = vectors.mean(2, keepdim=True)
    centred = vectors - mean
    return mean, centred @ centred.mT / vectors.shape[2]


def _shares(vectors: Tensor) -> Tensor:
    """Return the cosine distances within a set ``(B, n, n)``, each column divided by its sum."""
    distances = cosine_distances(vectors, vectors)
    sums = distances.sum(1, keepdim=True)
    noise = ROUNDING * torch.finfo(distances.dtype).eps * vectors.shape[2]  # of vectors that all point the same way
    return distances / torch.where(sums > noise, sums, 1)
