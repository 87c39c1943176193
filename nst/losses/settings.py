"""Checks of the losses' arguments: each returns a good value, and raises ValueError with a message that names it."""

import math
from collections.abc import Sequence

from nst.errors import nearest


def check_choice(name: str, value: str, choices: Sequence[str]) -> str:
    """Refuse what is none of the choices."""
    if value not in choices:
        raise ValueError(f"{name}={value} is not one of {', '.join(choices)}.{nearest(str(value), choices)}")
    return value


def check_finite(name: str, value: float) -> float:
    """Refuse what is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name}={value} must be a number")
    return float(value)


def check_positive(name: str, value: float) -> float:
    """Refuse what is no finite number above 0."""
    if check_finite(name, value) <= 0:
        raise ValueError(f"{name}={value} must be a number above 0")
    return float(value)


def check_not_negative(name: str, value: float) -> float:
    """Refuse what is no finite number from 0 up."""
    if check_finite(name, value) < 0:
        raise ValueError(f"{name}={value} must be a number from 0 up")
    return float(value)


def check_count(name: str, value: int) -> int:
    """Refuse what is no whole number from 1 up."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value} must be a whole number from 1 up")
    return value


def check_flag(name: str, value: bool) -> bool:
    """Refuse what is neither true nor false."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value} must be true or false")
    return value


def check_norm(name: str, value: str | float, choices: Sequence[str]) -> str | float:
    """Refuse what is neither one of the choices nor a number above 0."""
    if not isinstance(value, str):
        return check_positive(name, value)
    if value not in choices:
        known = f"{', '.join(choices)}.{nearest(value, choices)}"
        raise ValueError(f"{name}={value} is neither a number nor one of {known}")
    return value


def check_smoothing(smoothing: str, temperature: float) -> bool:
    """Tell whether maps are smoothed; refuse a word that is not known, and a temperature that changes nothing."""
    is_smoothed = check_choice("smoothing", smoothing, ("none", "softmax")) == "softmax"
    if check_positive("temperature", temperature) != 1 and not is_smoothed:
        raise ValueError(f"temperature={temperature} goes with smoothing=softmax")
    return is_smoothed
