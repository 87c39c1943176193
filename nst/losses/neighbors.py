"""The loss of Neural Neighbor Style Transfer (Kolkin et al. 2022): each place is to look like its nearest in the style.

The optimising variant, as in the authors' code. Sets of n vectors are ``(B, C, n)``.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nst.images.bands import finest_band, resized
from nst.losses.drawing import Drawing
from nst.losses.functional import at_least_float32
from nst.losses.patches import chosen, nearest, normalized
from nst.losses.settings import check_count, check_flag, check_not_negative

TURNS = 4


class NearestNeighborLoss(Drawing):
    """Cosine distance to the nearest vectors of the style image and of its quarter turns.

    Two terms: of hypercolumns, whose neighbours are found once, at the beginning of a scale; and of each layer by
    itself, whose neighbours are found anew in each step (the paper's "feature splitting"). A neighbour is the vector of
    smallest cosine distance once the mean of either side is subtracted.

    Args:
        columns: weight of the term of hypercolumns; 0 leaves it out.
        layers: weight of the sum over the layers; 0 leaves it out.
        mix: share of the picture that the scale begins with, with the content's finest band, beside the content image
            in the picture whose hypercolumns neighbours are found for; from 0 to 1.
        turned: look in the style image's three quarter turns as well.
        side: positions along a map's longer side that each layer's term looks at, at most about twice as many.
        redraw: steps between two draws of these.
    """

    joins_layers = True

    def __init__(
        self,
        columns: float = 1.0,
        layers: float = 1.0,
        mix: float = 0.25,
        turned: bool = True,
        side: int = 64,
        *,
        redraw: int = 1,
        scale: float = 1.0,
    ) -> None:
        super().__init__(redraw, "none", scale)
        self.of_columns, self.of_layers = check_not_negative("columns", columns), check_not_negative("layers", layers)
        if not (columns or layers):
            raise ValueError("columns and layers are both 0, so that nothing would be compared")
        if not 0 <= check_not_negative("mix", mix) <= 1:
            raise ValueError(f"mix={mix} must be from 0 (the content image) to 1")
        self.mix, self.side = mix, check_count("side", side)
        self.turns = TURNS if check_flag("turned", turned) else 1

    def target(self, features: Sequence[Tensor]) -> dict[str, Any]:
        """Return what to keep of the style image's maps ``(B, C, H, W)``: hypercolumns, and maps as they are."""
        columns = {"columns": self.hypercolumns(features)} if self.of_columns else {}
        layers = {"layers": [at_least_float32(maps) for maps in features]} if self.of_layers else {}
        return columns | layers

    def joined(self, targets: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return one target of those of the style image's quarter turns."""
        found: dict[str, Any] = {}
        if self.of_columns:
            found["columns"] = torch.cat([one["columns"] for one in targets], dim=2)
        if self.of_layers:  # transposed where they lie, since only vectors count
            upright = [[m.mT if turn % 2 else m for m in one["layers"]] for turn, one in enumerate(targets)]
            found["layers"] = [torch.cat(maps, dim=2) for maps in zip(*upright, strict=True)]
        return found

    def to_match(self, content: Tensor, start: Tensor) -> Tensor | None:
        """Return the picture to find neighbours for; see ``nst.losses.protocols.MatchingLoss``."""
        if not self.of_columns:
            return None
        return (1 - self.mix) * content + self.mix * (start + finest_band(content)) if self.mix else content

    def match(self, target: dict[str, Any], features: Sequence[Tensor]) -> dict[str, Any]:
        """Return the target with each hypercolumn of the picture replaced by its neighbour, at length 1."""
        which = nearest(_centred(self.hypercolumns(features)), _directions(target["columns"]))
        return target | {"columns": normalized(chosen(target["columns"], which))}

    def __call__(self, features: Sequence[Tensor], target: dict[str, Any]) -> Tensor:
        """Compare the maps ``(B, C_l, H_l, W_l)`` with the target; returns ``(B,)``."""
        value = at_least_float32(features[0].new_zeros(len(features[0])))
        if self.of_columns:
            cosines = (normalized(self.hypercolumns(features)) * target["columns"]).sum(1)
            value = value + self.of_columns * (1 - cosines).mean(1)
        if self.of_layers:
            generator, weights = self.generator(), self.layer_weights or [1.0] * len(features)
            for ours, others, weight in zip(features, target["layers"], weights, strict=True):
                pair = self._sampled(at_least_float32(ours), others, generator)
                value = value + self.of_layers * weight * nearest_distance(*pair)
        return value

    def hypercolumns(self, features: Sequence[Tensor]) -> Tensor:
        """Return hypercolumns at a quarter of the finest map's size, each layer divided by its number of channels."""
        maps = self.weighted(features)
        height, width = max((one.shape[2:] for one in maps), key=math.prod)
        size = max(height // 4, 1), max(width // 4, 1)
        return torch.cat([resized(one / one.shape[1], size, corners=True).flatten(2) for one in maps], dim=1)

    def _sampled(self, ours: Tensor, others: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the vectors of both at every so manieth position, from a place drawn for this step."""
        stride = max(max(ours.shape[2:]) // self.side, 1)
        row, column = torch.randint(stride, (2,), generator=generator).tolist()
        first, second = (maps[:, :, row::stride, column::stride].flatten(2) for maps in (ours, others))
        return first, second


def nearest_distance(ours: Tensor, others: Tensor) -> Tensor:
    """Mean over our vectors of the smallest cosine distance to one of the others, means subtracted; ``(B,)``."""
    ours, others = _centred(ours), _directions(others)
    return (1 - (normalized(ours) * chosen(others, nearest(ours, others))).sum(1)).mean(1)


def _centred(vectors: Tensor) -> Tensor:
    return vectors - vectors.mean(2, keepdim=True)


@torch.no_grad()
def _directions(vectors: Tensor) -> Tensor:
    """Return vectors less their mean, at length 1; in one copy, since there are many."""
    centred = _centred(vectors)
    lengths = torch.linalg.vector_norm(centred, dim=1, keepdim=True)
    return centred.div_(torch.where(lengths > 0, lengths, 1))
