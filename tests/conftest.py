"""One thread for every test: the problems are too small to share."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings

from tests import shape_checks

shape_checks.install()

settings.register_profile("wherefrom", deadline=None)  # no test asserts a time
settings.load_profile("wherefrom")


@pytest.fixture(autouse=True, scope="session")
def single_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
