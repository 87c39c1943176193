"""Painting with a trained network: a picture, a folder of them, an animation or a video."""

from nst.applying.apply import problems, run

__all__ = ["problems", "run"]
