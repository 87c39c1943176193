"""Image-transformation networks: a picture in, the same picture in a style out, in one pass.

Each is called with images ``(B, 3, H, W)``, RGB in [0, 1], H and W at least 16 (or it raises UserError), and perhaps a
``blend``, ``(B or 1, S)`` weights of its styles (without it they are painted in the first); it
returns RGB, not clamped. It refuses arguments that make no network with ConfigError.
"""

from nst.transformers.adaptive import AdaptiveTransformer
from nst.transformers.pyramid import PyramidTransformer
from nst.transformers.residual import ResidualTransformer
from nst.transformers.storage import build, load, save

__all__ = ["AdaptiveTransformer", "PyramidTransformer", "ResidualTransformer", "build", "load", "save"]
