"""Image-transformation networks: a picture in, the same picture in a style out, in one pass."""

from nst.transformers.residual import ResidualTransformer
from nst.transformers.storage import build, load, save

__all__ = ["ResidualTransformer", "build", "load", "save"]
