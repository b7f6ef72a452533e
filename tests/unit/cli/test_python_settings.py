"""Keyword arguments and objects become the settings that the command line would have."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import TINY
from torch import nn

from fedkd.cli.python_settings import named, parsed, resumed_scenario, with_objects
from fedkd.errors import SettingError
from fedkd.privacy.mechanisms import Gaussian
from fedkd.scenario.repeatability import header, only_here
from fedkd.scenario.scenario import Scenario
from fedkd.strategies.dsfl import DSFL
from fedkd.strategies.knfu import KnFu


@dataclass(frozen=True, kw_only=True)
class Agree:
    sharpness: float = 5.0

    def fuse(self, cohort: Any, state: Any) -> Any: ...


class Stubborn:
    """A strategy that its settings do not make again."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def fuse(self, cohort: Any, state: Any) -> Any: ...


def net(shape: Any, classes: int) -> nn.Module:
    return nn.Linear(1, classes)


def of(**given: Any) -> Scenario:
    return parsed(TINY, given)


def test_sections_and_dotted_names_change_what_they_name() -> None:
    made = of(train={"epochs": 3}, **{"public.size": 50}, seed=np.int64(4), run_dir=Path("a"))
    assert (made.train.epochs, made.train.batch_size) == (3, 8)
    assert (made.public.size, made.federation.seed, made.federation.run_dir) == (50, 4, "a")


def test_a_component_is_a_name_a_section_a_class_or_an_object() -> None:
    ways = ["dsfl", {"name": "dsfl"}, DSFL, DSFL()]
    assert len({str(of(strategy=way).strategy.to_dict()) for way in ways}) == 1
    assert of(strategy=KnFu(beta=3)).strategy.fields["beta"] == 3
    assert (
        of(strategy="knfu", **{"strategy.beta": 3}).strategy == of(strategy=KnFu(beta=3)).strategy
    )
    assert of(privacy=Gaussian(sigma=2.0)).privacy.name == "gaussian"


def test_a_class_of_ones_own_has_its_import_path_and_its_settings() -> None:
    section = named("strategy", Agree(sharpness=3))
    assert section == {"name": f"{__name__}:Agree", "sharpness": 3}
    assert named("strategy", Agree) == {"name": f"{__name__}:Agree"}
    assert named("strategy", Agree)["name"] == of(models=[net], strategy=Agree).strategy.name


def test_what_settings_do_not_make_again_is_used_as_it_is_and_the_folder_says_so() -> None:
    rule, make = Stubborn(len), lambda shape, classes: nn.Linear(1, classes)
    made = of(strategy=rule, models=[make, "mlp"])
    assert made.strategy.value is rule
    assert made.federation.models[1] == "mlp"
    assert only_here(made) == (
        f"models={made.federation.models[0]}",
        f"strategy={made.strategy.name}",
    )
    assert header(made).startswith("# This file alone cannot repeat the run: models=fedkd.session:")
    assert header(of(strategy=KnFu())) == ""
    with pytest.raises(SettingError, match=r"strategy\.beta cannot be set: the object"):
        of(strategy=rule, **{"strategy.beta": 3})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"train": {"epoch": 3}}, r"no setting 'train\.epoch'; did you mean train\.epochs"),
        ({"train.epochs": "x"}, r"train\.epochs must be a number, got 'x'"),
        ({"strategy": "knfuu"}, r"unknown strategy 'knfuu'; did you mean 'knfu'"),
        ({"strategy": Agree(sharpness="x")}, r"strategy\.sharpness must be a number, got 'x'"),
        ({"strategy": net}, r"strategy=.*function"),
        ({"privacy": Agree}, r"must be derived from .*Mechanism"),
        ({"models": [3]}, r"models: a int was given"),
        ({"models": [nn.Linear(1, 1)]}, r"models: a Linear was given"),
        ({"strategy": None}, r"strategy must be a name, a class or an object"),
        ({"seed": object()}, r"seed must be a number, text"),
        ({"clients.x": 1}, r"no setting 'clients\.x'"),
        ({"nonsense": 1}, r"there is no setting 'nonsense'"),
        ({"engine": "ray", "strategy": Stubborn(len)}, r"other processes"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_the_setting(given: Any, said: str) -> None:
    with pytest.raises(SettingError, match=said) as caught:
        parsed(TINY, given)
    assert "\n" not in str(caught.value)


def test_an_object_given_again_takes_the_name_that_the_run_has_for_it() -> None:
    body = {**TINY, "strategy": {"name": "fedkd.session:Rule_of_before"}}
    rule = Stubborn(len)
    assert parsed(with_objects(body, {"strategy": rule}), {}).strategy.value is rule
    with pytest.raises(SettingError, match="is not what this run began with: knfu"):
        with_objects({**TINY, "strategy": {"name": "knfu"}}, {"strategy": Agree()})
    body = {**TINY, "strategy": {"name": "fedkd.session:Held", "sharpness": 5.0}}
    with pytest.raises(SettingError, match=r"strategy\.sharpness was 5\.0.* is 3"):
        with_objects(body, {"strategy": Agree(sharpness=3)})


def test_a_folder_that_is_no_runs_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="no run's folder"):
        resumed_scenario(tmp_path, {}, rounds=None, trust=False)
    (tmp_path / "config.yaml").write_text("name: x\nseed: 1\n")
    with pytest.raises(SettingError, match="seed=2 cannot be changed"):
        resumed_scenario(tmp_path, {"seed": 2}, rounds=None, trust=False)
