"""Training a network for a style: photographs, lessons, the loop."""
