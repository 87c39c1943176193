"""Image-transformation networks: a picture in, the same picture in a style out, in one pass."""

from nst.transformers.adaptive import AdaptiveTransformer
from nst.transformers.pyramid import PyramidTransformer
from nst.transformers.residual import ResidualTransformer
from nst.transformers.storage import build, load, save

__all__ = ["AdaptiveTransformer", "PyramidTransformer", "ResidualTransformer", "build", "load", "save"]
