"""Settings for every test."""

from collections.abc import Iterator

import pytest
import torch

from nst.setup import fitting

# One thread each: the networks here are tiny, and two threads on busy cores wait for each other.
torch.set_num_threads(1)


@pytest.fixture
def nothing_kept() -> Iterator[None]:
    """Networks, engines and targets of other tests are forgotten, and those of this one afterwards."""
    fitting.forget()
    yield
    fitting.forget()
