"""A network from outside the package: edges of every direction at several scales, with nothing to learn.

Textures were made from such filters before there were networks (Heeger & Bergen 1995).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf


class OrientedEdges(nn.Module):
    """Rectified answers of edge filters to each colour, at ``scale1``, ``scale2`` (half the size), and so on.

    Args:
        layers: the names that are asked for.
        pooling: ``max`` or ``avg``: how the image is halved from scale to scale.
        orientations: directions of edges.
    """

    preprocessing = "imagenet"  # what ``forward`` is given; without it, RGB in [0, 1]

    def __init__(self, layers: list[str], pooling: str, orientations: int = 8) -> None:
        super().__init__()
        self.depth = max(int(layer.removeprefix("scale")) for layer in layers)
        self.pool = nn.AvgPool2d(2) if pooling == "avg" else nn.MaxPool2d(2)
        y, x = torch.meshgrid(torch.linspace(-1, 1, 7), torch.linspace(-1, 1, 7), indexing="ij")
        angles = torch.arange(orientations).view(-1, 1, 1) * math.pi / orientations
        across = x * angles.cos() + y * angles.sin()
        filters = torch.sin(math.pi * across) * torch.exp(-2 * (x.square() + y.square()))
        self.register_buffer("filters", filters[:, None])

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return ``{layer: (B, C, h, w)}`` of an image ``(B, 3, H, W)``."""
        maps = {}
        for scale in range(1, self.depth + 1):
            colours = image.flatten(0, 1)[:, None]
            edges = nnf.conv2d(colours, self.filters, padding=3).unflatten(0, (-1, 3)).flatten(1, 2)
            maps[f"scale{scale}"] = torch.cat([edges, -edges], dim=1).relu()
            image = self.pool(image)
        return maps
