"""Frozen class vectors: what they are, what trains beside them, and what they make comparable."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny_hub import save_bert
from torch import nn

from fedkd.errors import SettingError
from fedkd.models.factory import ImageModelSpec, probe
from fedkd.models.features import forward_with_features
from fedkd.models.heads import Heads
from fedkd.models.shared_classes import SharedClassesSettings, centered, random_vectors
from fedkd.settings.conditions import RunConditions
from fedkd.training.hyperparameters import Phase
from fedkd.training.optimizers import Optimizer

SHAPE = (1, 8, 8)
NAMES = ("cat", "dog", "hen", "owl")
INPUTS = torch.randn(40, *SHAPE, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(40) % 4
INPUTS[torch.arange(40), 0, LABELS, :] += 4.0


def spec(model: str, heads: Heads | None = None) -> ImageModelSpec:
    chosen = (SharedClassesSettings() if heads is None else heads).for_classes(NAMES)
    return ImageModelSpec(model, SHAPE, 4, chosen)


def features(name: str, model: nn.Module) -> torch.Tensor:
    head = probe(spec(name), features=True).head
    assert head is not None
    model.eval()
    with torch.no_grad():
        return forward_with_features(model, head, INPUTS)[1]


def trained(model: nn.Module, steps: int) -> nn.Module:
    optimizer = Optimizer(model.parameters(), Phase(learning_rate=1e-2))
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(INPUTS), LABELS).backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("name", ["mlp", "cnn", "vit"])
def test_logits_are_cosines_with_the_same_vectors_in_every_architecture(name: str):
    model = spec(name, SharedClassesSettings(sharpness=2.0)).build(0).eval()
    found = features(name, model)
    assert torch.allclose(found.norm(dim=1), torch.ones(40), atol=1e-5)
    expected = 2.0 * found @ random_vectors(4, None).T
    assert torch.allclose(model(INPUTS), expected, atol=1e-5)
    assert probe(spec(name), features=True).features == 64


def test_vectors_are_neither_trained_nor_stored_nor_drawn_again():
    model = spec("mlp").build(0)
    assert sorted(name for name in model.state_dict() if name.startswith("3.")) == [
        "3.0.bias",
        "3.0.weight",
    ]
    assert len(list(model.get_submodule("3.2").parameters())) == 0
    before = model.get_submodule("3.2").get_buffer("weight").clone()
    trained(model, 2)
    assert torch.equal(before, model.get_submodule("3.2").get_buffer("weight"))
    assert torch.equal(before, spec("cnn").build(5).get_submodule("11.2").get_buffer("weight"))


def test_features_of_two_architectures_agree_once_both_learned_apart():
    """A class of one architecture is nearest to the same class of the other."""
    means = []
    for name in ("mlp", "cnn"):
        found = features(name, trained(spec(name).build(0), 25))
        means.append(torch.stack([found[y == LABELS].mean(dim=0) for y in range(4)]))
    alike = F.normalize(means[0]) @ F.normalize(means[1]).T
    assert alike.diagonal().min() > 0.3
    assert (alike - 2 * torch.eye(4)).max() < 0.1


def test_a_model_below_its_last_layer_starts_as_it_would_without_them():
    headed = spec("mlp").build(0)
    plain = spec("mlp").without_heads.build(0)
    assert torch.equal(headed.get_submodule("1").weight, plain.get_submodule("1").weight)


def test_random_vectors_are_orthogonal_at_any_width_that_holds_the_classes():
    assert torch.allclose(random_vectors(5, 5) @ random_vectors(5, 5).T, torch.eye(5), atol=1e-5)
    assert random_vectors(100, None).shape == (100, 100)
    with pytest.raises(SettingError, match=r"heads\.width=4 is less than the 5 classes"):
        random_vectors(5, 4)


@pytest.mark.slow
def test_a_text_encoder_gives_each_class_the_mean_of_its_tokens(tmp_path: Path):
    from transformers import AutoModel

    folder = save_bert(tmp_path / "bert", [*NAMES, "a cat"])
    heads = SharedClassesSettings(text_encoder=folder).for_classes(("a cat", "dog", "hen", "owl"))
    model = ImageModelSpec("mlp", SHAPE, 4, heads).build(0)
    from tokenizers import Tokenizer

    ids = Tokenizer.from_file(str(folder / "tokenizer.json"))
    bert = AutoModel.from_pretrained(folder).eval()
    raw = torch.stack(
        [
            bert(torch.tensor([ids.encode(name).ids])).last_hidden_state[0].mean(0)
            for name in ("a cat", "dog", "hen", "owl")
        ]
    )
    expected = F.normalize(raw - raw.mean(0)).detach()
    found = model.get_submodule("3.2").get_buffer("weight")
    assert torch.allclose(found, 16 * expected, atol=1e-4)
    with pytest.raises(SettingError, match="gives the classes 'emu' and 'yak' the same vector"):
        SharedClassesSettings(text_encoder=folder).for_classes(("cat", "emu", "yak"))
    key = SharedClassesSettings(text_encoder=folder).content_key()
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    assert key != SharedClassesSettings(text_encoder=folder).content_key()


def test_vectors_that_are_alike_are_refused():
    with pytest.raises(SettingError, match="'a' and 'b' the same vector"):
        centered(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), ["a", "b", "c"])


def test_only_strategies_that_let_the_last_layer_be_take_part():
    heads, group = SharedClassesSettings(), {"heads": "shared_classes"}
    adopting = RunConditions(components=group, learned_by="adopt", features="equal")
    assert "sends the last layer" in str(heads.conflict(adopting))
    averaging = RunConditions(components=group, learned_by="adopt")
    assert heads.conflict(averaging) is None
    drawn = RunConditions(components=group, learned_by="train", adds_penalty=True, features="any")
    assert heads.conflict(drawn) is None
    assert "images, tables and series" in str(heads.conflict(RunConditions(takes_heads=False)))


def test_a_model_without_a_last_linear_layer_is_refused():
    headless = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU())
    with pytest.raises(SettingError, match="Sequential has no such layer"):
        SharedClassesSettings().put_on(headless, INPUTS)
