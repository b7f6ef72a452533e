"""What whole runs share: one Ray for all tests of a process that need it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fedkd.flower.ray_grid import Ray


@pytest.fixture(scope="session")
def ray_and_trigger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Start Ray with four CPUs, and return the file that tells a fragile client what to do.

    Ray's workers have the environment of the time at which Ray was started.
    """
    path = tmp_path_factory.mktemp("trigger") / "what"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDKD_TEST_TRIGGER", str(path))
        with Ray(workers=4).session():
            yield path
