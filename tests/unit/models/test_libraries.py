"""Models by a library's name, with small modules standing in for the libraries themselves."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from stand_ins import timm_stand_in, torchvision_stand_in
from torch import nn

from fedkd.errors import SettingError
from fedkd.models.factory import ImageModelSpec, find_factory, probe
from fedkd.models.libraries import library, library_versions, model_contents, whole_name
from fedkd.models.model_names import split_arguments, split_share, written
from fedkd.scenario.scenario import Scenario
from fedkd.scenario.trust import foreign_imports
from fedkd.settings.import_paths import code_hash
from fedkd.settings.model_prefixes import LIBRARIES
from fedkd.settings.optional_libraries import EXTRAS

GREY_8 = (1, 8, 8)


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    monkeypatch.setitem(sys.modules, "timm", timm_stand_in(made))
    return made


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", torchvision_stand_in())


def test_timm_gets_the_images_channels_and_classes(timm: list[dict[str, Any]]) -> None:
    model = ImageModelSpec("timm:resnet18(pretrained=true)", GREY_8, 5).build(seed=0)
    assert model(torch.zeros(2, *GREY_8)).shape == (2, 5)
    assert timm == [{"name": "resnet18", "pretrained": True, "in_chans": 1, "num_classes": 5}]


@pytest.mark.parametrize("address", [True, False])
def test_timm_does_not_ask_a_hub_that_has_no_address_here(
    address: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("fedkd.data.hub_splits.hub_has_address", lambda: address)
    stand_in, seen = timm_stand_in([]), []

    def create_model(name: str, **given: Any) -> nn.Module:
        seen.append(constants.HF_HUB_OFFLINE)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, given["num_classes"]))

    monkeypatch.setattr(stand_in, "create_model", create_model)
    monkeypatch.setitem(sys.modules, "timm", stand_in)
    for arguments in ("pretrained=true", "pretrained=false"):
        ImageModelSpec(f"timm:resnet18({arguments})", GREY_8, 5).build(seed=0)
    assert seen == [not address, False]
    assert not constants.HF_HUB_OFFLINE


def test_timm_is_told_the_size_where_a_model_is_of_one_size(timm: list[dict[str, Any]]) -> None:
    assert probe(ImageModelSpec("timm:vit_tiny_patch16_224", (3, 32, 24), 5)).parameters == 133
    assert timm[0]["img_size"] == (32, 24)


def test_a_model_that_begins_with_learned_weights_has_a_key_of_them(
    torchvision: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a run would be gone on with although the file that it began with is another one."""
    learned, blank, own = (
        ImageModelSpec(name, GREY_8, 5)
        for name in ("torchvision:resnet18(pretrained=true)", "torchvision:resnet18", "mlp")
    )
    before = model_contents([learned, blank, own, learned])
    assert list(before) == [learned.name]
    assert model_contents([learned]) == before
    models = sys.modules["torchvision"].models
    usual = models.get_model

    def changed(name: str, **given: Any) -> nn.Module:
        model: nn.Module = usual(name, **given)
        nn.init.constant_(model.conv1.weight, 0.25)
        return model

    monkeypatch.setattr(models, "get_model", changed)
    assert model_contents([learned]).keys() == before.keys()
    assert model_contents([learned]) != before


def test_a_file_of_weights_is_learned_too() -> None:
    for name, found in (("r(checkpoint_path='a.pt')", True), ("r(pretrained=false)", False)):
        assert library("timm").is_pretrained(split_arguments(name)[1]) == found


def test_an_argument_that_a_model_does_not_have_is_told(timm: list[dict[str, Any]]) -> None:
    with pytest.raises(SettingError, match=r"timm:resnet18\(img_size=64\) could not be built: Typ"):
        probe(ImageModelSpec("timm:resnet18(img_size=64)", GREY_8, 5))


@pytest.mark.parametrize("prefix", ["timm", "torchvision"])
def test_an_unknown_model_of_a_library_names_the_nearest(
    prefix: str, timm: object, torchvision: object
) -> None:
    with pytest.raises(SettingError, match=rf"unknown model of {prefix} 'resnet81'; .* 'resnet18'"):
        find_factory(f"{prefix}:resnet81")


def test_a_library_that_is_missing_is_named_with_its_install_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        SettingError, match=r"models=timm:resnet18 needs timm, .*pip install 'fedkd\[timm\]'"
    ):
        find_factory("timm:resnet18")


def test_every_library_says_what_installs_it() -> None:
    packages = {library(prefix).package for prefix in LIBRARIES} - {"sklearn"}  # always there
    assert packages <= EXTRAS.keys()


def test_torchvision_makes_a_model_of_other_channels(torchvision: None) -> None:
    spec = ImageModelSpec("torchvision:mobilenet_v3_small", (4, 8, 8), 5)
    assert spec.build(seed=0)(torch.zeros(2, 4, 8, 8)).shape == (2, 5)
    assert spec.build(seed=0).conv1.weight.shape == (4, 4, 3, 3)


def test_pretrained_weights_get_a_head_of_these_classes_and_see_grey_as_color(
    torchvision: None,
) -> None:
    name = "torchvision:resnet18(pretrained=true)"
    grey, color = (ImageModelSpec(name, (c, 8, 8), 5).build(seed=0) for c in (1, 3))
    image = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(grey.conv1(image), color.conv1(image.expand(2, 3, 8, 8)))
    assert color(torch.zeros(2, 3, 8, 8)).shape == (2, 5)
    with pytest.raises(SettingError, match="pretrained weights for images of 3 channels, these ha"):
        probe(ImageModelSpec(name, (4, 8, 8), 5))


def test_what_a_library_makes_has_one_hash_in_every_process(timm: object) -> None:
    assert code_hash(find_factory("timm:resnet18")) == code_hash(find_factory("timm:resnet18"))
    assert library_versions(["timm:resnet18(pretrained=true)", "mlp"]) == {"timm": "1.0.31"}
    assert library_versions(["mlp"], ["timm"]) == {"timm": "1.0.31"}


def test_a_prefix_is_no_import() -> None:
    models = [{"name": "timm:resnet18", "share": 1}, "torchvision:resnet18*2", "my:net"]
    assert foreign_imports({"models": models}) == ("models=my:net",)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"pretrained": True, "width": 3, "rate": 0.25, "none": None},
        {"text": "a b, (c)", "word": "relu", "reserved": "true", "path": "./a*b"},
        {"sizes": [3, [4, False]], "weights": {0: 1.5}},
    ],
)
def test_a_mapping_says_what_a_name_says(arguments: dict[str, object]) -> None:
    name, share = split_share(written({"name": "timm:a.b", "share": 0.3, **arguments}))
    assert (*split_arguments(name), share) == ("timm:a.b", arguments, 0.3)


def test_a_scenario_takes_models_as_mappings_and_writes_them_as_names() -> None:
    given = {"models": [{"name": "mlp", "share": 2}, "cnn*1"]}
    assert Scenario.parse(given).federation.models == ("mlp*2", "cnn*1")
    assert Scenario.parse({"models": {"name": "mlp"}}).federation.models == ("mlp",)


def _net() -> Callable[..., nn.Module]:
    return nn.Linear


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"pretrained": True}, "must have a name, as in"),
        ({"name": "mlp", "share": "much"}, "the share of mlp must be a number > 0, got 'much'"),
        ({"name": "mlp", "share": 0}, r"must be a number > 0, as in mlp\*2"),
        ({"name": "mlp(width=3)", "depth": 4}, "in brackets or by name, not both"),
        ({"name": "mlp", "in": 3}, "'in' of mlp is no argument's name"),
        ({"name": "mlp", "net": _net}, "must be a number, text, true, false, null, or a list"),
    ],
)
def test_a_mapping_that_is_no_model_is_told(model: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        split_share(written(model))


def test_the_whole_name_of_a_model_is_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert whole_name("hf:bert(pretrained=false)") == f"hf:{tmp_path / 'bert'}(pretrained=false)"
    for name in ("hf:google/bert", f"hf:{tmp_path}", "timm:resnet18(num_heads=2)", "cnn"):
        assert whole_name(name) == name
