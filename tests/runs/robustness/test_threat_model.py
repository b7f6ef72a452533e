"""Attacks and robust means in a run: who attacks, what the server fuses, whose accuracy counts."""

from typing import Any

import pytest
import torch
from finished import finished_records
from tiny import mean, records, scenario

from fedkd.errors import SettingError
from fedkd.fusion import mean_over_clients, median_over_clients
from fedkd.messages import Cohort
from fedkd.robustness.aggregators import ROBUST, Median
from fedkd.robustness.attacks import ATTACKS, SignFlip, choose_attackers
from fedkd.robustness.threat_model import ThreatModel
from fedkd.strategies.dsfl import DSFL
from fedkd.strategies.fedmd import FedMD


def cohort(clients: tuple[int, ...] = (0, 2, 3, 5, 7)) -> Cohort:
    values = torch.randn(len(clients), 6, 4, generator=torch.Generator().manual_seed(0))
    return Cohort(round=2, client_ids=clients, public_ids=torch.arange(6), values=values)


def threat_model(**changes: Any) -> ThreatModel:
    attackers = torch.tensor([True, False, False, True, False, False, False, False])
    return ThreatModel(**{"attackers": attackers, "seed": 0, **changes})


def fused(found: ThreatModel, strategy: Any, cohort: Cohort) -> Any:
    return found.fuse(strategy, found.poisoned(cohort), None)


def test_only_the_attackers_of_the_round_are_poisoned() -> None:
    honest = cohort()
    poisoned = honest.values.clone()
    poisoned[[0, 2]] *= -1  # clients 0 and 3; nobody else attacks
    fusion = fused(threat_model(attack=SignFlip(strength=1.0)), FedMD(), honest)
    torch.testing.assert_close(fusion.teachers, mean_over_clients(poisoned))
    nobody = cohort((1, 2, 4))
    fusion = fused(threat_model(attack=SignFlip()), FedMD(), nobody)
    assert torch.equal(fusion.teachers, FedMD().fuse(nobody, None).teachers)


def test_rows_that_nobody_sent_stay_away() -> None:
    honest = cohort()
    answered = torch.rand(5, 6, generator=torch.Generator().manual_seed(1)) > 0.5
    values = honest.values * answered[:, :, None]
    seen: list[Cohort] = []

    class Watching:
        def fuse(self, cohort: Cohort, state: Any) -> Any:
            seen.append(cohort)
            return FedMD().fuse(cohort, state)

    some = Cohort(
        round=2,
        client_ids=honest.client_ids,
        public_ids=honest.public_ids,
        values=values,
        answered=answered,
    )
    fused(threat_model(attack=ATTACKS["random"]()), Watching(), some)  # type: ignore[call-arg]
    assert torch.equal(seen[0].values == 0, (values == 0))
    assert not torch.equal(seen[0].values, values)


def test_a_robust_mean_takes_the_place_of_the_plain_one() -> None:
    honest = cohort()
    fusion = fused(threat_model(robust=Median()), FedMD(), honest)
    assert torch.equal(fusion.teachers, median_over_clients(honest.values)[0])
    torch.testing.assert_close(fusion.weights.sum(dim=1), torch.ones(5))
    assert (fusion.weights == fusion.weights[0]).all()
    # The rest of a strategy's rule stays: DS-FL sharpens the robust mean.
    soft = Cohort(
        round=2,
        client_ids=honest.client_ids,
        public_ids=honest.public_ids,
        values=honest.probs,
        scale="probs",
    )
    sharp = fused(threat_model(robust=Median()), DSFL(), soft)
    expected = DSFL().from_mean(Median().aggregate(soft.values, "probs")[0], 5)
    assert torch.equal(sharp.teachers, expected.teachers)


@pytest.mark.fast(0)
@pytest.mark.parametrize("name", sorted(set(ROBUST) - {"none"}))
def test_every_robust_mean_runs_and_repeats(name: str) -> None:
    changes = {"strategy": "dsfl", "robust": name, "clients": 5, "attacks": "sign_flip"}
    one, again = records(**changes), records(**changes)
    assert one[-1].knowledge_sha256 == again[-1].knowledge_sha256
    assert {c.status for c in one[-1].clients} == {"ok"}


@pytest.mark.fast(1)
@pytest.mark.parametrize("name", sorted(set(ATTACKS) - {"none"}))
def test_every_attack_changes_what_is_taught_and_repeats(name: str) -> None:
    plain = finished_records(strategy="fedmd", clients=5)
    changes = {"strategy": "fedmd", "attacks": {"name": name, "fraction": 0.4}, "clients": 5}
    one, again = records(**changes), records(**changes, engine={"name": "local", "workers": 2})
    assert one[0].knowledge_sha256 != plain[0].knowledge_sha256
    assert [r.knowledge_sha256 for r in one] == [r.knowledge_sha256 for r in again]
    expected = choose_attackers(0, 5, 0.4).tolist()
    assert [c.attacker for c in one[0].clients] == expected
    assert [c.status for c in one[0].clients] == ["ok"] * 5


def test_attackers_do_not_count_in_means_and_gains() -> None:
    from fedkd.report.record_rows import client_rows, round_row

    last = records(strategy="fedmd", clients=5, attacks={"name": "noise", "fraction": 0.4})[-1]
    honest = [c.after_distillation.global_accuracy for c in last.clients if not c.attacker]
    row = round_row(last, None)
    assert row["global_accuracy_after_distillation"] == pytest.approx(sum(honest) / 3)
    assert row["global_accuracy_after_distillation"] != pytest.approx(
        mean(last, "global_accuracy_after_distillation")
    )
    assert [r["attacker"] for r in client_rows(last, None)] == [c.attacker for c in last.clients]


def test_the_twin_knows_nothing_of_attacks() -> None:
    import threading

    from fedkd.experiment.baseline import baseline_key
    from fedkd.experiment.build import build

    keys = {
        baseline_key(build(scenario(strategy="fedmd", **changes), threading.Event()))
        for changes in ({}, {"attacks": "noise"}, {"robust": "median"}, {"codec": "float16"})
    }
    assert len(keys) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"strategy": "fedavg", "models": ["mlp"], "attacks": "lie"},
            "strategy=fedavg uploads none",
        ),
        ({"strategy": "local_only", "attacks": "noise"}, "strategy=local_only uploads none"),
        ({"strategy": "knfu", "robust": "median"}, "strategy=knfu does not teach one"),
        ({"strategy": "fd", "models": ["mlp"], "robust": "krum"}, "strategy=fd does not teach one"),
        ({"strategy": "fedmd", "clients": 2, "robust": "median"}, "it needs 3"),
        ({"strategy": "fedmd", "attacks": {"name": "noise", "fraction": 1.5}}, "fraction"),
        ({"strategy": "fedmd", "attacks": "worm"}, "worm"),
    ],
)
def test_what_cannot_be_attacked_or_defended_is_refused_before_the_run(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        records(**changes)
