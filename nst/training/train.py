"""The story of a training: load, prepare, descend on the weights, save, score."""

from __future__ import annotations

from nst.errors import UserError
from nst.optimize import Outcome
from nst.record import Job
from nst.runtime import PoliteStop


def run(job: Job, stop: PoliteStop) -> Outcome:
    """Train a network.

    Raises:
        UserError: a mistake the user can mend.
    """
    raise UserError("task=train cannot train yet.")
