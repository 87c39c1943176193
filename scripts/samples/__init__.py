"""The procedurally drawn style pictures, one module each; every module offers ``SIZE`` and ``draw(rng)``."""
