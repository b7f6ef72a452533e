"""What adapters refuse, without the library that makes them."""

import pytest

from fedkd.errors import SettingError
from fedkd.models.adapted_images import with_adapters
from fedkd.models.adapters import Lora, NoAdapters
from fedkd.models.factory import ImageModelSpec
from fedkd.models.libraries import library
from fedkd.settings.conditions import RunConditions


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data_kind": "tables"}, "does not go with data=none: it is for pre-trained models"),
        ({"components": {"heads": "dual"}}, "trains a model's own head, and heads=dual are other"),
        ({"fitted_models": ("sklearn:GaussianNB",)}, "and sklearn:GaussianNB is an estimator"),
    ],
)
def test_adapters_are_for_networks_with_one_head_of_images_and_texts(
    changes: dict[str, object], said: str
) -> None:
    assert Lora().conflict(RunConditions()) is None
    found = Lora().conflict(RunConditions(**changes))  # type: ignore[arg-type]
    assert found is not None
    assert said in found


def test_adapters_need_weights_that_were_learned() -> None:
    plain = ImageModelSpec("vit_tiny", (1, 8, 8), 3)
    assert with_adapters(plain, NoAdapters()) is plain
    with pytest.raises(SettingError, match="freezes pre-trained weights, and vit_tiny has none; "):
        with_adapters(plain, Lora()).probe(features=False)
    for prefix, given, pretrained in (
        ("timm", {"pretrained": True}, True),
        ("timm", {"num_heads": 2}, False),
        ("torchvision", {"weights": "IMAGENET1K_V1"}, True),
        ("sklearn", {}, False),
    ):
        assert library(prefix).is_pretrained(given) == pretrained
