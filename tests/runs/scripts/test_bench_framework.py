"""What a benchmark measures of the framework alone."""

import bench
import pytest


@pytest.mark.slow
def test_clients_that_do_nothing_take_part_however_many() -> None:
    assert 0 < bench.framework_cost(5, rounds=2) < 1000
