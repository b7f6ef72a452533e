"""A scenario from a mapping and back."""

import pytest
import yaml

from fedkd.errors import SettingError, SettingErrors
from fedkd.scenario.registry import GROUPS
from fedkd.scenario.scenario import SECTIONS, Scenario, fingerprint


def test_a_scenario_is_what_its_text_says() -> None:
    scenario = Scenario.parse(
        {"name": "mine", "strategy": {"name": "dsfl"}, "public": {"size": 50}, "models": ["mlp"]}
    )
    assert Scenario.parse(yaml.safe_load(scenario.text())) == scenario


def test_what_is_left_out_has_its_default() -> None:
    scenario = Scenario.parse({})
    for name, group in GROUPS.items():
        assert getattr(scenario, name).name == group.default
    for name, cls in SECTIONS.items():
        assert getattr(scenario, name) == cls()
    assert scenario.name == "scenario"


def test_a_component_may_be_given_by_its_name_alone() -> None:
    assert Scenario.parse({"codec": "float16"}).codec.name == "float16"
    with pytest.raises(SettingError, match="codec must be a name, or a section with a name"):
        Scenario.parse({"codec": 3})


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"rouns": 3}, "no setting 'rouns'; did you mean rounds"),
        ({"public": {"sise": 3}}, "no setting 'public.sise'; did you mean public.size"),
        ({"public": 3}, "public must be a section of settings, got 3"),
        ({"clients": 0}, "clients must be >= 1, got 0"),
        ({"models": []}, "models must name at least one model"),
        ({"samples_per_client": 0}, "samples_per_client must be >= 1"),
        ({"order": "train_first"}, "order is now round_order"),
    ],
)
def test_a_mistake_is_named_as_it_is_written(mapping: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Scenario.parse(mapping)


def test_one_value_stands_for_a_list_of_one_where_nothing_else_is_meant() -> None:
    scenario = Scenario.parse({"models": "mlp", "batch_clients": "auto"})
    assert (scenario.federation.models, scenario.federation.batch_clients) == (("mlp",), "auto")
    assert scenario.to_dict()["models"] == ["mlp"]
    with pytest.raises(SettingError, match="batch_clients must be one of never, auto or a list"):
        Scenario.parse({"batch_clients": "nevr"})


def test_all_mistakes_of_a_scenario_are_named_at_once() -> None:
    wrong = {"rouns": 3, "public": {"sise": 3}, "clients": 0, "codec": 3, "train": {"epochs": "a"}}
    with pytest.raises(SettingErrors) as raised:
        Scenario.parse({**wrong, "partition": {"name": "dirichlet", "alpha": -1.0}})
    assert sorted(message.partition(" ")[0] for message in raised.value.args) == [
        "clients",
        "codec",
        "partition.alpha",
        "there",
        "there",
        "train.epochs",
    ]


def test_equal_values_have_one_fingerprint() -> None:
    assert fingerprint({"a": 1, "b": (1, 2)}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 1.5})
