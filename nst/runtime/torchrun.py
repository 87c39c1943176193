"""Which of the processes that ``torchrun`` has begun this one is, and how it is started."""

import atexit
import logging
import os
import shutil
import tempfile

from nst.errors import UserError


def rank() -> int:
    """Return which of the processes that ``torchrun`` has begun this one is; 0 without it."""
    return int(os.environ.get("RANK", "0")) if world_size() > 1 else 0


def world_size() -> int:
    """Return how many processes ``torchrun`` has begun; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "MASTER_PORT" in os.environ else 1


def arguments_of_rank(arguments: list[str]) -> list[str]:
    """Return the command line of this process: beyond rank 0 Hydra's folder is a temporary one.

    Raises:
        UserError: it asks for a sweep.
    """
    if "-m" in arguments or "--multirun" in arguments:
        raise UserError("torchrun trains one network: leave out -m, and start it once for each.")
    if rank() == 0:
        return arguments
    folder = tempfile.mkdtemp(prefix="nst-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    logging.disable(logging.WARNING)  # rank 0 tells
    return [*arguments, f"hydra.run.dir={folder}", "hydra.output_subdir=null"]
