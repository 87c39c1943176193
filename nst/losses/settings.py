"""Checks of the losses' arguments, with messages that name the argument and what it may be."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nst.errors import nearest


def check_choice(name: str, value: str, choices: Sequence[str]) -> str:
    """Return ``value`` if it is one of ``choices``; raise ValueError otherwise."""
    if value not in choices:
        raise ValueError(f"{name}={value} is not one of {', '.join(choices)}.{nearest(str(value), choices)}")
    return value


def check_finite(name: str, value: float) -> float:
    """Return ``value`` if it is a finite number; raise ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name}={value} must be a number")
    return float(value)


def check_positive(name: str, value: float) -> float:
    """Return ``value`` if it is a finite number above 0; raise ValueError otherwise."""
    if check_finite(name, value) <= 0:
        raise ValueError(f"{name}={value} must be a number above 0")
    return float(value)


def check_not_negative(name: str, value: float) -> float:
    """Return ``value`` if it is a finite number from 0 up; raise ValueError otherwise."""
    if check_finite(name, value) < 0:
        raise ValueError(f"{name}={value} must be a number from 0 up")
    return float(value)


def check_count(name: str, value: int) -> int:
    """Return ``value`` if it is a whole number from 1 up; raise ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value} must be a whole number from 1 up")
    return value


def check_norm(name: str, value: str | float, choices: Sequence[str]) -> str | float:
    """Return ``value`` if it is one of ``choices`` or a number above 0; raise ValueError otherwise."""
    if isinstance(value, str):
        if value not in choices:
            raise ValueError(
                f"{name}={value} is neither a number nor one of {', '.join(choices)}.{nearest(value, choices)}"
            )
        return value
    return check_positive(name, value)
