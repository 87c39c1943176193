"""Painting with a trained network."""

from __future__ import annotations

from nst.errors import UserError
from nst.optimize import Outcome
from nst.record import Job
from nst.runtime import PoliteStop


def run(job: Job, stop: PoliteStop) -> Outcome:
    """Paint what ``content`` names with the network that ``model`` names.

    Raises:
        UserError: a mistake the user can mend.
    """
    raise UserError("task=apply cannot paint yet.")
