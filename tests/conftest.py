"""What all tests share: a cache of their own, and how many examples a law is tried on."""

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

settings.register_profile("fedkd", max_examples=25, deadline=None, derandomize=True)
settings.load_profile("fedkd")
torch.set_num_threads(1)  # tensors are tiny here, and pytest-xdist already keeps every core busy


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Point FEDKD_CACHE at an empty folder, one for all tests of this process."""
    folder = str(tmp_path_factory.mktemp("cache"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "FEDKD_CACHE", folder)
        yield folder
