"""What a round costs does not grow with the rounds before it."""

from pathlib import Path

import pytest
import soak
from soak import Soaking, scenario_of, slopes, table

pytestmark = pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="there is no /proc here")


def test_the_command_refuses_what_is_no_soak(capsys: pytest.CaptureFixture[str]) -> None:
    assert soak.main(["--rounds", "0"]) == 2
    assert soak.main(["strategy=fedmdd"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == "soak: --rounds must be >= 1, got 0"
    assert "did you mean 'fedmd'" in second


@pytest.mark.daily(0)
@pytest.mark.slow
def test_sixty_rounds_of_three_clients_grow_by_their_records_alone(tmp_path: Path) -> None:
    soaking = Soaking(tmp_path / "run", 60)
    soaking.run(scenario_of(60, 3))
    early, late, grown = soaking.samples[20], soaking.samples[-1], slopes(soaking.samples)
    assert late.written_kb == pytest.approx(early.written_kb, rel=0.03)  # nothing is rewritten
    assert late.files == early.files
    assert late.descriptors == early.descriptors
    assert late.threads == early.threads
    assert grown["memory_mb"] < 0.05  # 50 MB in 1,000 rounds; measured: 8
    assert grown["disk_mb"] < 0.01  # measured: 0.003, the rows of the tables
    assert grown["report_ms"] < 2.0
    assert "per 1,000 rounds" in table(soaking.samples)


@pytest.mark.daily(0)
@pytest.mark.slow
def test_three_hundred_clients_take_a_state_and_a_record_each(tmp_path: Path) -> None:
    few, many = Soaking(tmp_path / "few", 2), Soaking(tmp_path / "many", 2)
    settings = ["strategy=fedmd", "participation=0.2"]
    few.run(scenario_of(2, 30, settings))
    many.run(scenario_of(2, 300, settings))
    assert many.samples[-1].memory_mb - few.samples[-1].memory_mb < 60
    assert many.samples[-1].descriptors == few.samples[-1].descriptors
    # 50 kB a client: its states, its part of a checkpoint, its lines in the tables
    assert many.samples[-1].disk_mb - few.samples[-1].disk_mb < 270 * 0.05
