"""Config-driven neural style transfer experiments."""

__version__ = "0.1.0"
