"""Stub."""


class ResidualTransformer:
    """Stub."""

    def __init__(self, width: int = 32, blocks: int = 5, kernel: int = 9, styles: int = 1) -> None:
        pass
