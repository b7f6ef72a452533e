"""What settings mean: every use of it follows from the fields that declare it."""

from typing import Any, get_args, get_type_hints

import pytest

from fedkd.errors import SettingError
from fedkd.experiment.baseline import baseline_scenario, baseline_settings
from fedkd.scenario.registry import GROUPS, Components
from fedkd.scenario.scenario import (
    SECTIONS,
    TOP,
    Scenario,
    deciding,
    left_open,
    meaning_of,
    resumable,
    resumable_in_words,
    with_resumable,
)
from fedkd.settings.meaning import Meaning, setting
from fedkd.settings.schema import flat

DEFAULT = Scenario.parse({})
NAMES = list(flat(DEFAULT.to_dict()))


def changed(name: str) -> Scenario | None:
    """Return the default scenario with another value of one setting; None where none is found."""
    value = flat(DEFAULT.to_dict())[name]
    top, _, rest = name.partition(".")
    cls = SECTIONS.get(top) or next((c for c in TOP.values() if name in get_type_hints(c)), None)
    hint = get_type_hints(cls).get(rest or name) if cls is not None and rest != "name" else None
    options = [*get_args(hint), *(b for a in get_args(hint) for b in get_args(a))]
    candidates: list[Any] = [option for option in options if isinstance(option, str)]
    candidates += [not value] if isinstance(value, bool) else []
    candidates += [value + 1, value / 2] if isinstance(value, int | float) else []
    candidates += [1, 0.5, 2.0, "other", ["mlp"]]
    for candidate in candidates:
        if candidate == value:
            continue
        mapping = DEFAULT.to_dict()
        if rest:
            mapping[top] = {**mapping[top], rest: candidate}
        else:
            mapping[top] = candidate
        try:
            return Scenario.parse(mapping)
        except SettingError:
            continue
    return None


@pytest.mark.fast(20)
@pytest.mark.parametrize("name", NAMES)
def test_a_setting_changes_what_its_field_declares(name: str) -> None:
    meaning, other = meaning_of(name), changed(name)
    assert (name in deciding(DEFAULT)) == (meaning.affects != "nothing")
    if meaning.affects != "figures":
        assert name not in baseline_settings(DEFAULT)
    if other is None:
        return
    assert (deciding(other) == deciding(DEFAULT)) == (meaning.affects == "nothing")
    if meaning.affects != "figures":
        assert baseline_settings(other) == baseline_settings(DEFAULT)
    elif not name.startswith("public."):  # of these the baseline has what it sees of them
        assert baseline_settings(other) != baseline_settings(DEFAULT)
    resumed = with_resumable(DEFAULT, other)
    assert resumed == (other if meaning.resumable else DEFAULT)


@pytest.mark.slow
def test_most_settings_are_tried_with_another_value() -> None:
    tried = [name for name in NAMES if changed(name) is not None]
    assert len(tried) > 0.65 * len(NAMES)
    assert {"seed", "device", "distill.loss", "engine.workers", "report.wandb"} <= set(tried)


def test_engine_report_checkpoints_device_and_store_may_change_on_resume() -> None:
    assert set(resumable()) == {"engine", "report", "checkpoint", "device", "client_store"}
    fixed = "report.client_metrics"  # a run's claim says for all its rounds what clients sent
    for name in NAMES:
        named = bool({name, name.split(".")[0]} & set(resumable())) and name != fixed
        assert meaning_of(name).resumable == named
    assert resumable_in_words().endswith(f"(without {fixed})")


def test_what_a_run_chooses_when_it_begins_is_left_open() -> None:
    assert left_open(DEFAULT) == {"distill.loss", "round_order", "product_convolutions"}
    mapping = {"distill": {"loss": "kl"}, "batch_clients": "auto"}
    chosen = {"batch_clients", "round_order", "product_convolutions"}
    assert left_open(Scenario.parse(mapping)) == chosen


def test_a_setting_that_declares_nothing_counts_as_changing_every_figure() -> None:
    assert meaning_of("clients") == meaning_of("some.new_setting") == Meaning()
    assert Meaning().affects == "figures"
    assert not Meaning().resumable


def test_what_affects_figures_cannot_be_declared_resumable() -> None:
    with pytest.raises(TypeError, match="cannot change when a run is resumed"):
        setting(1, resumable=True)


def test_a_group_is_a_field_of_components_and_affects_the_baseline_only_where_it_says_so() -> None:
    assert list(GROUPS) == list(Components.__dataclass_fields__)
    for name, group in GROUPS.items():
        assert group.default in group.components
        assert group.in_baseline is None or group.in_baseline in list(group.components)
        assert (group.in_baseline is not None) == (
            group.meaning.affects == "exchange" and name != "audit"
        )


def test_in_the_baseline_nobody_exchanges_anything() -> None:
    scenario = Scenario.parse(
        {
            "strategy": "fedmd",
            "privacy": {"name": "gaussian", "sigma": 1.0, "clip_norm": 1.0},
            "attacks": "noise",
            "distill": {"temperature": 3.0},
            "public": {"size": 70, "per_round": 10, "reserved": 90},
            "round_order": "distill_first",
            "seed": 4,
        }
    )
    alone = baseline_scenario(scenario)
    names = {name: getattr(alone, name).name for name in ("strategy", "privacy", "attacks")}
    assert names == {"strategy": "local_only", "privacy": "none", "attacks": "none"}
    assert (alone.distill, alone.protocol.round_order) == (DEFAULT.distill, None)
    assert (alone.public.size, alone.public.per_round, alone.federation.seed) == (90, None, 4)


def test_public_samples_reach_a_baseline_that_pre_trains_on_them() -> None:
    public = {"size": 70, "labeled": True, "per_round": 10}
    scenario = Scenario.parse({"public": public, "train": {"public_epochs": 1}})
    alone = baseline_scenario(scenario).public
    assert (alone.size, alone.labeled, alone.per_round) == (70, True, None)
