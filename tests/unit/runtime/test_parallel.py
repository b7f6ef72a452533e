"""A computation cut by rows has the same bits on any number of cores."""

import pytest
import torch

from fedkd.fusion import mix, row_softmax, soften
from fedkd.messages import Cohort
from fedkd.runtime import parallel
from fedkd.runtime.parallel import CHUNK_ROWS, map_chunks


@pytest.mark.parametrize("count", [1, CHUNK_ROWS, CHUNK_ROWS + 1, 5 * CHUNK_ROWS - 1])
@pytest.mark.parametrize("threads", [1, 2])
def test_every_row_is_computed_once(count: int, threads: int) -> None:
    seen = torch.zeros(count)

    def compute(part: slice) -> None:
        seen[part] += 1

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    map_chunks(compute, count)
    torch.set_num_threads(before)
    assert torch.equal(seen, torch.ones(count))


def test_the_number_of_cores_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = torch.Generator().manual_seed(0)
    values = torch.randn(50, 999, 10, generator=stream)
    weights = row_softmax(torch.randn(50, 50, generator=stream))
    before, found = torch.get_num_threads(), []
    torch.set_num_threads(1)
    for cores in (1, 2, 7):
        monkeypatch.setattr(parallel, "available_cores", lambda cores=cores: cores)
        cohort = Cohort(
            round=1, client_ids=tuple(range(50)), public_ids=torch.arange(999), values=values
        )
        found.append((cohort.probs, mix(weights, cohort.probs)))
    torch.set_num_threads(before)
    for probs, teachers in found[1:]:
        assert torch.equal(probs, found[0][0])
        assert torch.equal(teachers, found[0][1])
    assert torch.allclose(found[0][0], soften(values))
    assert torch.allclose(
        found[0][1], torch.einsum("ik,knc->inc", weights, soften(values)), atol=1e-6
    )


def test_what_one_part_raises_is_raised() -> None:
    def compute(part: slice) -> None:
        raise ValueError("a part fails")

    with pytest.raises(ValueError, match="a part fails"):
        map_chunks(compute, 3 * CHUNK_ROWS)
