"""Models by name: what the zoo builds, what is refused, and that no seed leaks."""

import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fedkd.errors import SettingError
from fedkd.models.factory import (
    ImageModelSpec,
    ModelInfo,
    assign,
    borrowed_global_generator,
    find_factory,
    probe,
)
from fedkd.models.zoo import ZOO
from fedkd.scenario.trust import foreign_imports

GREY_8, GREY_28, COLOR_32 = (1, 8, 8), (1, 28, 28), (3, 32, 32)
SHAPES = [GREY_8, GREY_28, COLOR_32]


def here(name: str) -> str:
    """The import path of a factory of this file."""
    return f"{__name__}:{name}"


def architecture(
    name: str, shape: tuple[int, int, int] = GREY_8, classes: int = 10
) -> ImageModelSpec:
    return ImageModelSpec(name, shape, classes)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# Factories that a user might write, good and bad.


def linear(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    channels, height, width = input_shape
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, classes))


def with_dropout(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return nn.Sequential(linear(input_shape, 16), nn.Dropout(0.5), nn.Linear(16, classes))


class _FunctionalDropout(nn.Module):
    def __init__(self, input_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.linear = linear(input_shape, classes)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.linear(x), 0.5, training=self.training)


def with_functional_dropout(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return _FunctionalDropout(input_shape, classes)


def one_class_too_many(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return linear(input_shape, classes + 1)


class _Pair(nn.Module):
    def __init__(self, input_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.linear = linear(input_shape, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.linear(x), x


def with_two_outputs(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return _Pair(input_shape, classes)


def not_a_module(input_shape: tuple[int, int, int], classes: int) -> Any:
    return lambda x: x.flatten(1)[:, :classes]


def that_says_otherwise(input_shape: tuple[int, int, int], classes: int) -> int:
    raise AssertionError("it was called")


def that_raises(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    raise RuntimeError("no weights found")


def that_explains_itself(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    raise SettingError("models: give me larger images")


def without_parameters(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(classes))


def frozen(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return linear(input_shape, classes).requires_grad_(False)


def for_color_only(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes)
    )


class Sized(nn.Module):
    """Takes arguments."""

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        classes: int,
        width: int = 4,
        act: str = "relu",
        sizes: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.said = (width, act, sizes)
        self.inner = nn.Sequential(linear(input_shape, width), nn.ReLU(), nn.Linear(width, classes))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x)
        return logits


class Output:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


class LikeTransformers(Sized):
    def forward(self, x: Tensor) -> Any:
        return Output(self.inner(x))


class Softened(Sized):
    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.inner(x), dim=1)


NOT_CALLABLE = 3


# The zoo.


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ZOO)
def test_zoo_models_map_images_to_logits(name: str, shape: tuple[int, int, int]):
    model = architecture(name, shape, classes=7).build(seed=0)
    for batch in (1, 5):
        logits = model(torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0)))
        assert logits.shape == (batch, 7)
        assert torch.isfinite(logits).all()
        assert (logits.sum(dim=1) - 1).abs().max() > 1e-3  # not soft labels


@pytest.mark.parametrize("name", ZOO)
def test_zoo_models_train_on_a_batch_of_one(name: str):
    model = architecture(name).build(seed=0).train()
    F.cross_entropy(model(torch.rand(1, *GREY_8)), torch.tensor([3])).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("name", ZOO)
def test_a_zoo_models_prediction_does_not_depend_on_the_rest_of_the_batch(name: str):
    model = architecture(name).build(seed=0).train()
    x = torch.randn(6, *GREY_8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(x)[:1], model(x[:1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mlp", "resnet", "vit"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 17), (1, 30, 20)])
def test_models_for_images_of_any_size_take_any(name: str, shape: tuple[int, int, int]):
    assert probe(architecture(name, shape, classes=4)).parameters > 0


@pytest.mark.parametrize(("height", "width"), [(4, 4), (5, 9)])
def test_the_cnn_takes_images_down_to_4_x_4(height: int, width: int):
    assert probe(architecture("cnn", (1, height, width))).parameters > 0


@pytest.mark.parametrize(("height", "width"), [(3, 8), (8, 3), (1, 1)])
def test_the_cnn_refuses_smaller_images(height: int, width: int):
    with pytest.raises(
        SettingError, match=f"cnn needs images of at least 4 x 4, these are {height} x {width}"
    ):
        probe(architecture("cnn", (1, height, width)))


def test_the_mlp_has_101770_parameters_on_28_x_28():
    """784 * 128 + 128 + 128 * 10 + 10 = 100,352 + 128 + 1,280 + 10."""
    assert count(architecture("mlp", GREY_28).build(0)) == 101_770


def test_the_cnn_has_107786_parameters_on_28_x_28():
    """25 * 6 + 6 = 156; 150 * 16 + 16 = 2,416; 784 * 120 + 120 = 94,200; 120 * 84 + 84 = 10,164; 84
    * 10 + 10 = 850."""
    assert count(architecture("cnn", GREY_28).build(0)) == 156 + 2_416 + 94_200 + 10_164 + 850


def test_the_resnet_has_about_78000_parameters():
    """Counted by layer, on grey images of 10 classes.

    Stem 9 * 16 = 144 and its norm 32; block of 16: 2 * 9 * 16 * 16 = 4,608 and norms 64; block of
    32: 9 * 16 * 32 + 9 * 32 * 32 = 13,824, norms 128, shortcut 16 * 32 = 512; block of 64: 9 * 32 *
    64 + 9 * 64 * 64 = 55,296, norms 256, shortcut 32 * 64 = 2,048; head 64 * 10 + 10 = 650.
    """
    expected = 144 + 32 + 4_608 + 64 + 13_824 + 128 + 512 + 55_296 + 256 + 2_048 + 650
    assert expected == 77_562
    assert count(architecture("resnet", GREY_28).build(0)) == expected


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ZOO)
def test_trying_a_zoo_model_finds_its_size_and_no_randomness(
    name: str, shape: tuple[int, int, int]
):
    model = architecture(name, shape)
    assert probe(model) == ModelInfo(parameters=count(model.build(0)), draws_randomness=False)


# Seeds.


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


@pytest.mark.parametrize("name", [*ZOO, here("with_dropout")])
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(name: str):
    model = architecture(name)
    torch.manual_seed(1)
    one = model.build(seed=5)
    torch.manual_seed(2)
    assert same(one, model.build(seed=5))
    assert not same(one, model.build(seed=6))


@pytest.mark.parametrize("name", [*ZOO, here("with_dropout"), here("with_functional_dropout")])
def test_building_and_trying_leave_the_global_generator_as_it_was(name: str):
    torch.manual_seed(123)
    before = torch.get_rng_state()
    architecture(name).build(seed=5)
    probe(architecture(name))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["that_raises", "for_color_only", "one_class_too_many"])
def test_a_model_that_fails_leaves_the_global_generator_as_it_was(name: str):
    torch.manual_seed(123)
    before = torch.get_rng_state()
    with pytest.raises(SettingError):
        probe(architecture(here(name)))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_borrowed_generator_comes_back_after_an_error():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), borrowed_global_generator(3):
        torch.rand(1 // 0)
    assert torch.equal(torch.get_rng_state(), before)
    with borrowed_global_generator(3):
        first = torch.rand(3)
    with borrowed_global_generator(3):
        assert torch.equal(torch.rand(3), first)


def test_only_one_thread_borrows_the_global_generator_at_a_time():
    """The second thread gets in once the first is out, never before, and both draw what their seed
    says."""
    first_is_in, second_is_in, drawn = threading.Event(), threading.Event(), {}

    def second() -> None:
        first_is_in.wait()
        with borrowed_global_generator(2):
            second_is_in.set()
            drawn[2] = torch.rand(3)

    thread = threading.Thread(target=second)
    thread.start()
    with borrowed_global_generator(1):
        first_is_in.set()
        assert not second_is_in.wait(timeout=0.1)
        drawn[1] = torch.rand(3)
    thread.join()
    for seed, draws in drawn.items():
        assert torch.equal(draws, torch.rand(3, generator=torch.Generator().manual_seed(seed)))
    assert len(drawn) == 2


@pytest.mark.parametrize("name", ["with_dropout", "with_functional_dropout"])
def test_dropout_is_noticed(name: str):
    assert probe(architecture(here(name))).draws_randomness


def test_a_linear_model_draws_no_randomness():
    """64 * 10 + 10 = 650 parameters."""
    assert probe(architecture(here("linear"))) == ModelInfo(parameters=650, draws_randomness=False)


# What is refused.


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("mpl", "mlp"), ("resnet18", "resnet8"), ("heterogenous_8", "heterogeneous_8"), ("cn", "cnn")],
)
def test_an_unknown_model_is_refused_and_the_nearest_is_named(name: str, nearest: str):
    with pytest.raises(
        SettingError,
        match=rf"unknown model '{name}'; did you mean .*'{nearest}'.* Known: cnn, cnn1d,",
    ):
        probe(architecture(name))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("one_class_too_many", r"logits \[N, C\] with C = 10; for N = 2 it returned \(2, 11\)"),
        ("with_two_outputs", r"logits \[N, C\] with C = 10; for N = 2 it returned tuple"),
        ("not_a_module", "must return a torch.nn.Module, got function"),
        ("that_says_otherwise", "or a function that returns one"),
        ("that_raises", "could not be built: RuntimeError: no weights found"),
        ("that_explains_itself", "^models: give me larger images$"),
        ("without_parameters", "has no trainable parameter"),
        ("frozen", "has no trainable parameter"),
        ("for_color_only", r"fails on a batch of shape \[2, 1, 8, 8\]: RuntimeError"),
        ("NOT_CALLABLE", "or a function that returns one"),
        ("with_dropuot", "unknown models in module .* 'with_dropuot'; did you mean 'with_dropout'"),
    ],
)
def test_a_factory_that_does_not_fit_is_refused(name: str, message: str):
    with pytest.raises(SettingError, match=message):
        probe(architecture(here(name)))


@pytest.mark.parametrize("returns", ["", "-> 'nn.Module'", "-> 'Missing'", "-> object"])
def test_ones_own_function_is_a_factory_with_any_annotation_or_none(
    returns: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "unannotated.py").write_text(
        f"from torch import nn\n\n\ndef net(shape, classes){returns}:\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert probe(architecture("unannotated:net")).parameters == 65 * 10
    del sys.modules["unannotated"]


@pytest.mark.parametrize("path", ["fedkd.simulate:main", "fedkd.errors:one_line", "os:system"])
def test_what_anybodys_folder_may_name_is_called_only_where_it_is_annotated(path: str):
    """A function of fedkd's own packages needs no trust, and what is built in says nothing."""
    with pytest.raises(SettingError, match="or a function that returns one"):
        find_factory(path)


def test_a_function_of_fedkd_that_does_not_say_what_it_returns_is_no_factory(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("fedkd.models.factory.unsaid", lambda shape, classes: None, raising=False)
    with pytest.raises(SettingError, match="or a function that returns one"):
        find_factory("fedkd.models.factory:unsaid")


def test_a_module_that_does_not_exist_is_named():
    with pytest.raises(SettingError, match="there is no module 'no_such_module'"):
        find_factory("no_such_module:model")


# What a factory is given beside shape and classes.


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("width=3", (3, "relu", ())),
        ("width=3, act=gelu", (3, "gelu", ())),
        ("act='a (b)', sizes=[1,2]", (4, "a (b)", [1, 2])),
        ("act=null,sizes=[true,-1.5e3]", (4, None, [True, -1500.0])),
        ("", (4, "relu", ())),
    ],
)
def test_a_model_may_be_given_arguments(written: str, said: tuple[object, ...]):
    model: Any = architecture(f"{here('Sized')}({written})").build(0)
    assert model.said == said


def test_models_of_other_arguments_are_other_architectures_and_may_have_shares():
    one, two = f"{here('Sized')}(width=3)", f"{here('Sized')}(width=5)"
    assert assign((f"{one}*1", f"{two} * 2"), 3) == (one, two, two)
    assert assign((one, "mlp"), 2) == (one, "mlp")
    assert [probe(architecture(name)).parameters for name in (one, two)] == [
        65 * width + 10 * width + 10 for width in (3, 5)
    ]


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("widht=3", "unknown argument of .*Sized 'widht'; did you mean 'width'"),
        ("classes=3", "unknown argument of .*Sized 'classes'"),
        ("3", "the arguments in .* must have names, as in zoo:Net"),
        ("width=3, **x", "must give each argument once"),
        ("width=open('x')", r"\"open\('x'\)\" in .* must be a number, text"),
        ("width=__import__('os').getpid()", "must be a number, text"),
        ("width=1 if True else 2", "must be a number, text"),
        ("width=3, width=4", "must give each argument once, as in zoo:Net"),
        ("width=", "cannot be read, as in zoo:Net"),
        ("width=3)(", "must have names, as in zoo:Net"),
        ("width=3).x(", "must have names, as in zoo:Net"),
    ],
)
def test_arguments_are_read_and_never_evaluated(written: str, message: str):
    with pytest.raises(SettingError, match=message):
        probe(architecture(f"{here('Sized')}({written})"))


@pytest.mark.parametrize("path", ["os:system(command=ls)", "os:system (x=1)*2", " os:system(x=1)"])
def test_arguments_hide_no_import_path_from_the_check_of_trust(path: str):
    assert foreign_imports({"models": [path]}) == ("models=os:system",)


def test_an_object_with_logits_is_accepted():
    name = here("LikeTransformers")
    assert probe(architecture(name)).parameters == probe(architecture(here("Sized"))).parameters
    model, like = (architecture(here(n)).build(0) for n in ("Sized", "LikeTransformers"))
    x = torch.randn(3, *GREY_8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(x), like(x))


def test_a_softmax_in_place_of_logits_is_noticed():
    assert probe(architecture(here("Softened"))).sums_to_one
    assert not probe(architecture(here("Sized"))).sums_to_one


# Who gets which model.


def test_models_are_taken_in_turn():
    assert assign(("mlp", "cnn", "vit"), 7) == ("mlp", "cnn", "vit", "mlp", "cnn", "vit", "mlp")
    assert assign(("mlp", "cnn"), 1) == ("mlp",)


def test_shares_are_split_by_largest_remainder_by_hand():
    """Shares 5, 3, 1 of 9 over 4 clients: 2.22, 1.33, 0.44; whole parts 2, 1, 0 and the fourth to
    the last, by 0.44."""
    assert assign(("mlp*5", "cnn*3", "vit*1"), 4) == ("mlp", "mlp", "cnn", "vit")


def test_seven_seven_and_six_of_twenty():
    assert Counter(assign(("mlp*7", "cnn*7", "resnet*6"), 20)) == {"mlp": 7, "cnn": 7, "resnet": 6}


def test_remainders_that_tie_go_to_the_first():
    """Halves of three clients: 1.5 each."""
    assert assign(("mlp*1", "cnn*1"), 3) == ("mlp", "mlp", "cnn")


def test_fractions_are_shares_too_and_spaces_are_allowed():
    assert assign(("mlp * 0.75", " cnn*0.25 "), 4) == ("mlp", "mlp", "mlp", "cnn")


@given(
    shares=st.lists(st.one_of(st.integers(1, 50), st.floats(0.01, 50)), min_size=1, max_size=6),
    clients=st.integers(1, 60),
)
def test_every_client_gets_a_model_and_no_share_is_off_by_one(shares: list[float], clients: int):
    names = [f"m{i}" for i in range(len(shares))]
    found = assign(
        tuple(f"{name}*{share}" for name, share in zip(names, shares, strict=True)), clients
    )
    assert len(found) == clients
    assert list(found) == sorted(found)
    for name, share in zip(names, shares, strict=True):
        assert abs(found.count(name) - share * clients / sum(shares)) < 1 + 1e-9


@pytest.mark.parametrize("share", ["0", "-1", "x", "", "nan", "inf", "2*3"])
def test_a_share_that_is_no_number_above_zero_is_refused(share: str):
    with pytest.raises(
        SettingError, match=r"the share in 'mlp\*.*' must be a number > 0, as in mlp\*2"
    ):
        assign((f"mlp*{share}", "cnn*1"), 4)


def test_either_all_models_have_shares_or_none():
    with pytest.raises(SettingError, match="give every model a share"):
        assign(("mlp*2", "cnn"), 4)


def test_no_model_at_all_is_refused():
    with pytest.raises(SettingError, match="models must name at least one model"):
        assign((), 4)
