"""Painting with a trained network: a picture, a folder, an animation, a video. Knows nothing of losses."""
