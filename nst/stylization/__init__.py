"""The main story: one picture, from its images to its result."""
