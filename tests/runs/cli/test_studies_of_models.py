"""Studies that ask more of the models than a run measures: a client never met, and moved test
images."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from fedkd.cli.studies import shifted, unseen


@pytest.mark.slow
def test_every_seed_leaves_each_client_out_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(
        unseen, "accuracies_of", lambda public, *_: asked.append(len(public)) or (0.25, 0.75)
    )
    small = ("clients=3", "rounds=1", "train.epochs=1", "public.size=40", "samples_per_client=20")
    assert unseen.one_seed(0, *small) == {"uniform": 0.25, "learned": 0.75}
    assert asked == [2, 2, 2]
    monkeypatch.setattr(
        unseen, "one_seed", lambda seed: {"uniform": 0.5 + seed / 100, "learned": 0.7 + seed / 50}
    )
    said = unseen.carry_out(5, tmp_path)
    assert "learned less uniform: +22.0 ± 2.0 points" in said
    assert "**holds**" in said
    assert (tmp_path / "unseen.csv").read_text().splitlines()[1] == "training,,uniform,0,0.5"


@pytest.mark.slow
def test_moved_images_are_the_same_for_every_method_of_a_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    move = shifted.shifted

    def watched(images: Tensor, stream: object) -> Tensor:
        seen.append(move(images, stream))  # type: ignore[arg-type]
        return seen[-1]

    monkeypatch.setattr(shifted, "shifted", watched)
    small = (
        "clients=2",
        "rounds=1",
        "train.epochs=1",
        "public.size=40",
        "samples_per_client=20",
        "models=[mlp]",
    )
    found = shifted.one_seed(0, *small)
    assert found.keys() == {"plain", "random_view", "hard"}
    assert len(set(found.values())) > 1
    assert all(torch.equal(seen[0], other) for other in seen[1:])
    monkeypatch.setattr(
        shifted, "one_seed", lambda seed: dict.fromkeys(shifted.METHODS, 0.5) | {"hard": 0.6}
    )
    assert shifted.carry_out(2, tmp_path).count("hard less") == 2
