"""Mechanisms at work in whole runs: what is spent, what is written, what leaves a client, and what
is refused."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from tiny import records, scenario
from torch import Tensor

from fedkd.errors import SettingError
from fedkd.experiment.build import build
from fedkd.experiment.resume import resume
from fedkd.experiment.run import Driver, run
from fedkd.federation.client import Upload, take_part
from fedkd.federation.context import OPTIMIZER, PRIVACY, ClientContext
from fedkd.federation.local_update import LocalUpdate
from fedkd.flower.strategy_adapter import FederatedDistillation
from fedkd.knowledge import PublicPredictions
from fedkd.messages import Download, Packed, Predictions
from fedkd.privacy import distributions
from fedkd.privacy.enforcement import SPENT, PrivacyEnforcer
from fedkd.privacy.mechanisms import MECHANISMS, DpSgd, Schedule
from fedkd.privacy.mechanisms.mechanism import SEES_TEACHERS
from fedkd.privacy.sensitivity import bound_rows
from fedkd.privacy.unprotected import Unlimited
from fedkd.report.folder import RunFolder
from fedkd.runtime.seeding import torch_seed
from fedkd.settings import optional_libraries

BUDGET = 8.0
SOFT_MEAN = {"name": "dsfl", "aggregation": "mean"}
SETTINGS: dict[str, dict[str, Any]] = {
    name: {} if name == "swing" else {"epsilon": BUDGET} for name in MECHANISMS
}
LOCAL = ["gaussian", "laplace", "krr"]
BUDGETED = [name for name in MECHANISMS if name != "swing"]
NAMES = (
    "mechanism",
    "unit",
    "neighbors",
    "adversary",
    "epsilon",
    "delta",
    "sigma",
    "accountant",
    "reason",
)


def protected(name: str, **changes: Any) -> dict[str, Any]:
    """Return the changes that make the tiny scenario one with a mechanism."""
    privacy = {"name": name, **SETTINGS[name], **changes.pop("privacy", {})}
    return {"strategy": SOFT_MEAN, "models": ["mlp"], "rounds": 3, "privacy": privacy, **changes}


def clients(folder: Path) -> list[dict[str, str]]:
    with (folder / "clients.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def stored(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def epsilons(folder: Path) -> np.ndarray:
    """Return what was spent by round and client, [R, K]."""
    rows = clients(folder)
    rounds = max(int(row["round"]) for row in rows)
    return np.array([float(row["epsilon"] or "nan") for row in rows]).reshape(rounds, -1)


class Runs(dict[str, Path]):
    """The folder of a run with each mechanism, which is run when it is asked for first."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __missing__(self, name: str) -> Path:
        run(scenario(**protected(name)), self._path / name)
        self[name] = self._path / name
        return self[name]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The runs that several tests look at."""
    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.mark.fast(1)
@pytest.mark.parametrize("name", BUDGETED)
def test_every_round_spends_more_on_every_client_and_all_of_them_the_budget(
    name: str, folders: dict[str, Path]
):
    spent = epsilons(folders[name])
    assert (np.diff(spent, axis=0) > 0).all()
    assert (spent <= BUDGET + 1e-9).all()
    assert (
        spent[-1].max() > 0.98 * BUDGET or name == "gnmax"
    )  # what votes cost depends on how they agree
    assert stored(folders[name])["privacy"]["epsilon"] == spent[-1].max()


@pytest.mark.parametrize("name", MECHANISMS)
def test_the_summary_says_what_is_claimed_for_whom_and_against_whom(
    name: str, folders: dict[str, Path]
):
    privacy = stored(folders[name])["privacy"]
    mechanism = MECHANISMS[name]
    assert set(NAMES) <= set(privacy)
    assert privacy["mechanism"] == name
    assert privacy["unit"] == mechanism.unit
    claimed = {claim["adversary"]: claim["epsilon"] is not None for claim in privacy["claims"]}
    assert claimed == {
        who: who in mechanism.protects_from for who in ("server", "clients", "outsiders")
    }
    if name == "swing":
        assert (privacy["epsilon"], privacy["accountant"]) == (None, "")
        assert "heuristic" in privacy["reason"]
        assert {row["epsilon"] for row in clients(folders[name])} == {""}
        return
    assert privacy["neighbors"] == mechanism.neighbors
    assert privacy["adversary"] == mechanism.protects_from[0]
    assert privacy["delta"] == 1e-5
    assert (privacy["sigma"] is None) == (name == "krr")
    assert privacy["accountant"] in ("exact", "rdp", "sum")
    assert all(
        "simulates privacy" in text
        for text, claim in zip(privacy["text"], privacy["claims"], strict=True)
        if claim["epsilon"] is not None
    )
    assert privacy["assumptions"]
    assert privacy["outside"]


def test_the_noise_that_is_reported_is_that_of_the_budget(folders: dict[str, Path]):
    """One row of a Gaussian costs mu^2 = (sensitivity / sigma)^2; 3 rounds of 40 rows make up
    epsilon 8."""
    mu = 1.666031  # of epsilon 8 at delta 1e-5
    expected = math.sqrt(2) * math.sqrt(3 * 40) / mu
    for name in ("gaussian", "central_gaussian", "gnmax"):
        assert stored(folders[name])["privacy"]["sigma"] == pytest.approx(expected, rel=1e-5)
    assert stored(folders["dp_sgd"])["privacy"]["noise"].startswith(
        "Gaussian on sums of gradients, of "
    )


def test_without_a_mechanism_the_same_fields_are_empty(tmp_path: Path):
    run(scenario(), tmp_path / "run")
    privacy = stored(tmp_path / "run")["privacy"]
    assert {key: privacy[key] for key in NAMES if privacy[key] is not None} == {
        "mechanism": "none",
        "reason": "raw predictions are uploaded; no epsilon is claimed against any adversary",
    }
    assert set(NAMES) <= set(privacy)


@pytest.mark.fast(1)
@pytest.mark.parametrize("name", BUDGETED)
def test_an_infinite_budget_is_no_protection_and_says_so(name: str, tmp_path: Path):
    changes = {"strategy": SOFT_MEAN, "models": ["mlp"]}
    bare = records(**changes)
    run(scenario(**changes, privacy={"name": name, "epsilon": math.inf}), tmp_path / "run")
    summary = stored(tmp_path / "run")
    assert summary["knowledge_sha256"] == bare[-1].knowledge_sha256
    assert {key: summary["privacy"][key] for key in ("mechanism", "epsilon", "reason")} == {
        "mechanism": "none", "epsilon": None, "reason": Unlimited.no_claim_reason
    }  # fmt: skip
    assert not any(row["epsilon"] for row in clients(tmp_path / "run"))


def test_an_infinite_budget_goes_on_when_resumed(tmp_path: Path):
    unlimited = protected("dp_sgd", privacy={"epsilon": math.inf})
    run(scenario(**unlimited), tmp_path / "run")
    resume(scenario(**unlimited), tmp_path / "run")
    with pytest.raises(SettingError, match=r"privacy\.epsilon was inf, is 8\.0"):
        resume(scenario(**protected("dp_sgd")), tmp_path / "run")


# What is spent lives with the client, and with the server's ledger.


class Ended(Exception):
    """Stands for whatever ends a run between two rounds."""


PERSISTENT = {
    "dp_sgd": {},
    "gaussian": {"privacy": {"memoize": True}, "public": {"per_round": 25}},
    "krr": {"participation": 0.5, "privacy": {"memoize": True}},
    "central_gaussian": {},
    "gnmax": {},
    "laplace": {"privacy": {"memoize": True}, "public": {"per_round": 25}},
    "lnmax": {},
    "swing": {"privacy": {"detector": "surprisal_gap"}},
}


@pytest.mark.fast(1)
@pytest.mark.parametrize("name", PERSISTENT)
def test_a_run_that_was_ended_and_resumed_has_spent_what_the_whole_one_has(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    changes = protected(name, **PERSISTENT[name])
    run(scenario(**changes), tmp_path / "whole")
    add_round = RunFolder.add_round

    def failing(self: RunFolder, row: Any, *rest: Any) -> None:
        add_round(self, row, *rest)
        if row["round"] == 2:
            raise Ended

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "add_round", failing)
        with pytest.raises(Ended):
            run(scenario(**changes), tmp_path / "parts")
    resume(scenario(**changes), tmp_path / "parts")
    np.testing.assert_array_equal(epsilons(tmp_path / "parts"), epsilons(tmp_path / "whole"))
    parts, whole = (stored(tmp_path / which) for which in ("parts", "whole"))
    assert parts["privacy"] == whole["privacy"]
    assert parts["knowledge_sha256"] == whole["knowledge_sha256"]


@pytest.mark.fast(1)
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"privacy": {"name": "dp_sgd", "epsilon": 16.0}}, r"privacy\.epsilon was 8\.0, is 16\.0"),
        (
            {"privacy": {"name": "dp_sgd", "epsilon": 8.0, "delta": 1e-6}},
            r"privacy\.delta was 1e-05, is 1e-06",
        ),
        ({"privacy": "none"}, r"privacy\.name was 'dp_sgd', is 'none'"),
        ({"train": {"batch_size": 4}}, r"train\.batch_size was 8, is 4"),
        ({"rounds": 9}, "cannot go on beyond the 3 rounds .* solved for epsilon=8 over 3 rounds"),
    ],
)
def test_a_run_does_not_go_on_with_settings_that_change_what_was_spent(
    changes: dict[str, Any], named: str, folders: dict[str, Path]
):
    with pytest.raises(SettingError, match=named):
        resume(scenario(**{**protected("dp_sgd"), **changes}), folders["dp_sgd"])


@pytest.mark.slow
@pytest.mark.usefixtures("ray_and_trigger")
def test_ray_spends_what_the_local_engine_spends(folders: dict[str, Path], tmp_path: Path):
    engine = {"name": "ray", "workers": 1}
    run(scenario(**protected("dp_sgd"), engine=engine), tmp_path)
    np.testing.assert_array_equal(epsilons(tmp_path), epsilons(folders["dp_sgd"]))
    assert stored(tmp_path)["knowledge_sha256"] == stored(folders["dp_sgd"])["knowledge_sha256"]


def states(folder: Path, client_id: int) -> dict[str, Tensor]:
    """Return a client's last stored state."""
    from fedkd.storage.checkpoint import CheckpointFolder

    found = CheckpointFolder(folder).states.get(client_id)
    assert found is not None
    return dict(found)


@pytest.mark.slow
def test_only_training_on_private_data_spends_and_the_state_holds_no_gradients(tmp_path: Path):
    changes = protected("dp_sgd", round_order="distill_first", public={"size": 40, "labeled": True})
    changes |= {
        "train": {"epochs": 2, "batch_size": 8, "public_epochs": 1},
        "distill": {"epochs": 3},
    }
    run(scenario(**changes), tmp_path / "run")
    plain = scenario(**{**changes, "privacy": "none"})
    run(plain, tmp_path / "plain")
    for row in clients(tmp_path / "run")[-4:]:
        state = states(tmp_path / "run", int(row["client"]))
        schedule = Schedule.of(int(row["train_size"]), 8, 2)
        kept = {name for name in state if name.startswith(PRIVACY)}
        assert kept == {f"{PRIVACY}steps"}
        assert state[f"{PRIVACY}steps"][:, 1:].tolist() == [
            [schedule.sample_rate, 3 * schedule.steps]
        ]
        weights = states(tmp_path / "plain", int(row["client"]))
        assert {n: t.shape for n, t in state.items() if n not in kept} == {
            n: t.shape for n, t in weights.items()
        }


@pytest.mark.slow
def test_an_optimizer_that_is_kept_goes_on_through_private_rounds(tmp_path: Path):
    changes = protected("dp_sgd", train={"epochs": 2, "batch_size": 8, "optimizer_state": "kept"})
    run(scenario(**changes), tmp_path / "run")
    for row in clients(tmp_path / "run")[-4:]:
        schedule = Schedule.of(int(row["train_size"]), 8, 2)
        state = states(tmp_path / "run", int(row["client"]))
        assert state[f"{OPTIMIZER}train/0/step"] == 3 * schedule.steps
        assert state[f"{OPTIMIZER}train/0/exp_avg_sq"].any()


def test_clients_and_rounds_whose_seeds_share_their_low_bits_do_not_share_noise():
    """Steps that are nearly all noise: torch's CPU generator, which uses 32 bits, would move both
    models alike."""
    one, other = (0, 28177), (2, 14450)
    low = {
        torch_seed(0, "client", i, "round", n, "train privacy noise") % 2**32
        for i, n in (one, other)
    }
    assert len(low) == 1
    context = build(
        scenario(**protected("dp_sgd", privacy={"epsilon": None, "noise_multiplier": 1e3})), Event()
    ).context
    moved = []
    for client_id, round_number in (one, other):
        before = context.initial_state(client_id)
        take_part(context, client_id, Download(round=round_number, steps=("train",)))
        after = context.store.get(client_id)
        assert after is not None
        moved.append(torch.cat([(after[name] - before[name]).flatten() for name in before]).numpy())
    assert abs(np.corrcoef(moved)[0, 1]) < 0.1


@pytest.mark.fast(1)
@pytest.mark.parametrize(("last", "drawn"), [(4, 2), (5, 3)])
def test_steps_of_a_round_that_fails_are_spent_all_the_same(
    last: int, drawn: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Client 1 fails in round 2, before the third of its three steps, or between training and its
    upload."""
    pulses = 0

    def check_interrupt(self: Any) -> None:
        nonlocal pulses
        if (self.client_id, self.round) == (1, 2):
            pulses += 1
            if pulses == last:  # one before training, one before each step, one before the upload
                raise RuntimeError("as the test wants")

    monkeypatch.setattr(LocalUpdate, "check_interrupt", check_interrupt)
    run(scenario(**protected("dp_sgd")), tmp_path / "run")
    rows = {(int(row["round"]), int(row["client"])): row for row in clients(tmp_path / "run")}
    assert rows[2, 1]["status"] == "failed"
    assert rows[3, 1]["status"] == "ok"
    assert rows[3, 1]["train_loss"]
    assert states(tmp_path / "run", 1)[f"{PRIVACY}steps"][:, 2].tolist() == [3 + drawn + 3]
    spent = epsilons(tmp_path / "run")
    assert spent[1, 1] == spent[1, 0]  # until the client says what it did, all three steps count
    assert (spent[2, 1] == spent[2, 0]) == (drawn == 3)
    assert spent[2, 0] == pytest.approx(BUDGET, rel=0.01)


def losing_replies(
    monkeypatch: pytest.MonkeyPatch, client_id: int, rounds: set[int], *, before: bool = False
) -> None:
    """Lose a client's uploads of some rounds on their way, or ``before`` it has done anything."""

    def taking_part(context: ClientContext, who: int, download: Any) -> Upload:
        lost = who == client_id and download.round in rounds and "share" in download.steps
        if lost and before:
            raise RuntimeError("as the test wants")
        upload = take_part(context, who, download)
        if lost:
            raise RuntimeError("the reply is lost")
        return upload

    monkeypatch.setattr("fedkd.flower.client_app.take_part", taking_part)


@pytest.mark.fast(3)
@pytest.mark.parametrize("name", LOCAL)
@pytest.mark.parametrize("memoize", [True, False])
@pytest.mark.parametrize("lost", [{1}, {2}, {3}, {1, 2, 3}], ids=str)
def test_a_reply_that_is_lost_has_left_its_client_all_the_same(
    name: str, memoize: bool, lost: set[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Whoever saw it saw its rows: what is claimed for the client is what it would be if none had
    been lost."""
    losing_replies(monkeypatch, 0, lost)
    changes = protected(name, privacy={"memoize": memoize}, min_clients=0)
    run(scenario(**changes), tmp_path / "run")
    rows = [row["status"] for row in clients(tmp_path / "run") if row["client"] == "0"]
    assert rows == ["failed" if round_number in lost else "ok" for round_number in (1, 2, 3)]
    spent = epsilons(tmp_path / "run")
    np.testing.assert_array_equal(spent[:, 0], spent[:, 1])
    assert spent[-1, 0] == pytest.approx(BUDGET, rel=0.02)


@pytest.mark.fast(1)
@pytest.mark.parametrize("lost", [{1, 2, 3}, {2}, {3}], ids=str)
def test_steps_behind_a_lost_reply_are_spent(
    lost: set[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    losing_replies(monkeypatch, 0, lost)
    run(scenario(**protected("dp_sgd", min_clients=0)), tmp_path / "run")
    spent = epsilons(tmp_path / "run")
    np.testing.assert_array_equal(spent[:, 0], spent[:, 1])


def test_what_a_client_can_have_sent_is_corrected_by_what_it_says_and_never_beyond_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Client 0 fails in round 2 before it sends anything: until it is heard of again, its rows may
    have left it."""
    losing_replies(monkeypatch, 0, {2}, before=True)
    run(scenario(**protected("gaussian")), tmp_path / "fresh")
    spent = epsilons(tmp_path / "fresh")
    assert spent[1, 0] == spent[1, 1]
    assert spent[2, 0] == spent[1, 1] < spent[2, 1]
    run(scenario(**protected("gaussian", privacy={"memoize": True})), tmp_path / "memoized")
    assert len(set(epsilons(tmp_path / "memoized").flat)) == 1


@pytest.mark.parametrize(
    "changes", [{}, {"codec": "delta", "round_order": "distill_first"}], ids=["own", "delta"]
)
def test_a_client_whose_budget_is_spent_falls_silent_and_the_record_says_so(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Client 1 comes with four steps of its own noise behind it: of its nine, five are left, enough
    for one round.

    Teachers that it is sent afterwards build on one another where they are coded as differences.
    """
    initial_state = ClientContext.initial_state

    def spent_before(self: ClientContext, client_id: int) -> dict[str, Tensor]:
        mechanism, plan = self.enforcer.mechanism, self.enforcer.plan
        assert isinstance(mechanism, DpSgd)
        schedule = Schedule.of(20, 8, 1)
        before = [
            mechanism.noise_multiplier_in(schedule, plan.rounds, 1),
            schedule.sample_rate,
            4.0,
        ]
        steps = (
            {f"{PRIVACY}steps": torch.tensor([before], dtype=torch.float64)}
            if client_id == 1
            else {}
        )
        return {**initial_state(self, client_id), **steps}

    monkeypatch.setattr(ClientContext, "initial_state", spent_before)
    run(scenario(**protected("dp_sgd", **changes)), tmp_path / "run")
    told = [
        (row["status"], row["reason"]) for row in clients(tmp_path / "run") if row["client"] == "1"
    ]
    assert told == [("ok", ""), ("absent", SPENT), ("absent", SPENT)]
    assert epsilons(tmp_path / "run")[-1].max() <= BUDGET
    accuracies = [
        row["global_accuracy_after_training"]
        for row in clients(tmp_path / "run")
        if row["client"] == "1"
    ]
    assert all(accuracies)


@pytest.mark.slow
def test_the_systems_epsilon_is_the_largest_of_its_clients(tmp_path: Path):
    """With one noise for all, who has few records, and large samples of them, spends more."""
    changes = protected(
        "dp_sgd", partition={"name": "dirichlet", "alpha": 0.3}, samples_per_client=None
    )
    run(
        scenario(**{**changes, "privacy": {"name": "dp_sgd", "noise_multiplier": 2.0}}),
        tmp_path / "run",
    )
    last = epsilons(tmp_path / "run")[-1]
    assert len(set(last)) > 1
    assert stored(tmp_path / "run")["privacy"]["epsilon"] == last.max() < last.sum()


@pytest.mark.slow
def test_a_budget_is_solved_for_each_client_by_its_own_size(tmp_path: Path):
    run(
        scenario(
            **protected(
                "dp_sgd", partition={"name": "dirichlet", "alpha": 0.3}, samples_per_client=None
            )
        ),
        tmp_path / "run",
    )
    last = epsilons(tmp_path / "run")[-1]
    sizes = {int(row["train_size"]) for row in clients(tmp_path / "run")}
    assert len(sizes) > 1
    assert ((last > 0.98 * BUDGET) & (last <= BUDGET)).all()


@pytest.mark.slow
def test_a_finished_run_may_be_counted_by_a_tighter_accountant(tmp_path: Path):
    changes = protected("dp_sgd", privacy={"accountant": "prv"}, rounds=2)
    run(scenario(**changes), tmp_path / "run")
    privacy = stored(tmp_path / "run")["privacy"]
    by_renyi = epsilons(tmp_path / "run")[-1].max()
    assert privacy["accountant"] == "prv"
    assert 0.7 * by_renyi < privacy["epsilon"] < 0.98 * by_renyi


@pytest.mark.parametrize("name", ["dp_sgd", "laplace", "krr"])
def test_an_accountant_that_is_not_installed_is_refused_before_any_training(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(optional_libraries, "is_installed", lambda name: name != "dp_accounting")
    with pytest.raises(SettingError, match=f"privacy={name}: accountant=pld needs dp_accounting, "):
        records(**protected(name, privacy={"accountant": "pld"}))


@pytest.mark.slow
@pytest.mark.skipif(not distributions.has_pld(), reason="the extra fedkd[pld] is not installed")
@pytest.mark.parametrize("name", ["dp_sgd", "krr"])
def test_pld_counts_a_finished_run_below_renyi(name: str, tmp_path: Path):
    run(scenario(**protected(name, privacy={"accountant": "pld"}, rounds=2)), tmp_path / "run")
    privacy = stored(tmp_path / "run")["privacy"]
    assert privacy["accountant"] == "pld"
    assert privacy["epsilon"] < epsilons(tmp_path / "run")[-1].max()


# What leaves a client.


def uploads(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> list[tuple[Tensor, Upload]]:
    """Run a scenario; return what each client found, and what it uploaded of it, in order."""
    found: list[Tensor] = []
    sent: list[tuple[Tensor, Upload]] = []
    protect = PrivacyEnforcer.protect

    def watched(self: PrivacyEnforcer, knowledge: Any, *rest: Any) -> Any:
        found.append(knowledge.values.clone())
        return protect(self, knowledge, *rest)

    def taking_part(*given: Any) -> Upload:
        before = len(found)
        upload = take_part(*given)
        sent.extend((raw, upload) for raw in found[before:])
        return upload

    monkeypatch.setattr(PrivacyEnforcer, "protect", watched)
    monkeypatch.setattr("fedkd.flower.client_app.take_part", taking_part)
    records(**changes)
    return sent


def arrays(upload: Upload) -> list[np.ndarray]:
    knowledge = upload.knowledge
    if isinstance(knowledge, Packed):
        return list(knowledge.arrays.values())
    assert isinstance(knowledge, Predictions)
    return [knowledge.values.numpy()]


def rows_in(raw: Tensor, contents: list[bytes]) -> int:
    """Return how many rows of raw predictions stand, to the bit, anywhere in some bytes."""
    return sum(any(row.numpy().tobytes() in content for content in contents) for row in raw)


@pytest.mark.fast(1)
@pytest.mark.parametrize("name", ["none", "gaussian", "laplace", "krr"])
def test_no_raw_prediction_is_sent_or_stored_where_a_claim_exists(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    changes = {"strategy": SOFT_MEAN, "models": ["mlp"], "privacy": "none"}
    changes = changes if name == "none" else protected(name, privacy={"memoize": True})
    found: list[Tensor] = []
    protect = PrivacyEnforcer.protect

    def watched(self: PrivacyEnforcer, knowledge: Any, *rest: Any) -> Any:
        found.append(knowledge.values.clone())
        return protect(self, knowledge, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(PrivacyEnforcer, "protect", watched)
        run(scenario(**changes), tmp_path / "run")
    files = [path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert sum(rows_in(raw, files) for raw in found) == 0
    seen = uploads(monkeypatch, **changes)
    told = [rows_in(raw, [array.tobytes() for array in arrays(upload)]) for raw, upload in seen]
    assert told == ([40] * 8 if name == "none" else [0] * 12)


@pytest.mark.parametrize("name", MECHANISMS)
def test_every_upload_carries_an_event_of_its_mechanism(name: str, monkeypatch: pytest.MonkeyPatch):
    for _, upload in uploads(monkeypatch, **protected(name, rounds=1)):
        assert upload.privacy is not None
        assert upload.privacy.mechanism == name
        assert upload.privacy.spent
        assert upload.privacy.claims == bool(MECHANISMS[name].protects_from)


def test_noise_differs_by_client_round_and_row_and_has_its_deviation(
    monkeypatch: pytest.MonkeyPatch,
):
    """Noise on logits is what was sent less the bounded prediction."""
    privacy = {"name": "gaussian", "sigma": 3.0, "clip_norm": 1.0}
    sent = uploads(
        monkeypatch, strategy="fedmd", models=["mlp"], rounds=3, privacy=privacy, codec="full"
    )
    noise = np.stack(
        [
            arrays(upload)[0].reshape(raw.shape) - bound_rows(raw, "logits", 1.0, 2).numpy()
            for raw, upload in sent
        ]
    )
    assert noise.shape == (3 * 4, 40, 10)
    rounded = np.round(noise.reshape(-1, 10), 3)
    assert len(np.unique(rounded, axis=0)) == len(rounded)
    assert noise.std() == pytest.approx(3.0, rel=0.05)
    assert abs(np.corrcoef(noise.reshape(12, -1))[np.triu_indices(12, 1)]).max() < 0.25


def test_a_trusted_server_draws_new_noise_each_round(monkeypatch: pytest.MonkeyPatch):
    """The same uploads in every round, since nothing is learned: what differs is the noise."""
    taught: list[Tensor] = []
    noisy_mean = MECHANISMS["central_gaussian"].noisy_mean  # type: ignore[attr-defined]

    def watched(self: Any, values: Tensor, *rest: Any) -> Tensor:
        taught.append(noisy_mean(self, torch.zeros_like(values), *rest))
        return taught[-1]

    monkeypatch.setattr(MECHANISMS["central_gaussian"], "noisy_mean", watched)
    privacy = {"name": "central_gaussian", "sigma": 3.0, "clip_norm": 1.0}
    records(strategy="fedmd", models=["mlp"], rounds=3, privacy=privacy)
    assert len(taught) == 3
    rows = torch.cat(taught)
    assert len(torch.unique(rows, dim=0)) == len(rows)
    assert rows.std().item() == pytest.approx(3.0 / 4, rel=0.1)


def silenced(monkeypatch: pytest.MonkeyPatch, who: set[int], how: str) -> None:
    """Let what clients share in round 1 be NaN or zeros, or let them fail, whatever they
    trained."""
    extract = PublicPredictions.extract

    def changed(self: PublicPredictions, view: Any) -> Predictions:
        knowledge = extract(self, view)
        if view.client_id not in who or view.round != 1:
            return knowledge
        if how == "fails":
            raise RuntimeError("as the test wants")
        return replace(
            knowledge, values=torch.full_like(knowledge.values, math.nan if how == "NaN" else 0.0)
        )

    monkeypatch.setattr(PublicPredictions, "extract", changed)


@pytest.mark.parametrize("how", ["NaN", "fails"])
def test_a_client_without_a_usable_upload_changes_a_central_teacher_no_more_than_zeros_do(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Data can make training diverge: were the mean that of the others, its noise would be sigma /
    3, not sigma / 4."""
    changes = {"strategy": "fedmd", "models": ["mlp"], "rounds": 1}
    changes |= {"privacy": {"name": "central_gaussian", "sigma": 3.0, "clip_norm": 1.0}}
    for name, of_zero in (("gone", how), ("zeros", "zeros")):
        with monkeypatch.context() as patch:
            silenced(patch, {0}, of_zero)
            run(scenario(**changes), tmp_path / name)
    gone, zeros = (stored(tmp_path / name) for name in ("gone", "zeros"))
    assert clients(tmp_path / "gone")[0]["status"] == ("rejected" if how == "NaN" else "failed")
    assert gone["knowledge_sha256"] == zeros["knowledge_sha256"]
    assert gone["privacy"]["claims"] == zeros["privacy"]["claims"]


@pytest.mark.parametrize("name", ["central_gaussian", "gnmax"])
def test_a_trusted_server_releases_noise_where_no_upload_is_usable(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    """Its silence would tell of the one client whose upload could have been."""
    silenced(monkeypatch, {0, 1, 2, 3}, "NaN")
    first, second = records(**protected(name, rounds=2))
    assert {client.status for client in first.clients} == {"rejected"}
    assert first.knowledge_sha256 is not None
    assert {client.status for client in second.clients} == {"ok"}
    for client in first.clients:
        assert client.effective_neighbors is None


def test_who_sees_the_teachers_of_a_trusted_server():
    assert SEES_TEACHERS == ("clients", "outsiders")


# What is said before a run, and what is refused.


def test_a_run_prints_what_it_claims_assumes_and_leaves_out_and_warns_of_hopeless_noise(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    shown = {"report": {"console": True, "plots": False}}
    run(scenario(**protected("gaussian", **shown)), tmp_path / "run")
    said = " ".join(capsys.readouterr().out.split())
    for words in (
        "Warning: privacy=gaussian: noise of 9.3 on each client's predictions leaves no usable"
        " labels for 4 clients",
        "client-level epsilon 8 at delta 1e-05 against the server (replace-one neighbors, no"
        " sampling, accountant",
        "against other clients", "against outsiders", "simulates privacy, it protects nobody",
        "noise: Gaussian of deviation 9.299", "assumed: the public set, the models",
        "outside the claim: the size of each client's private set",
    ):  # fmt: skip
        assert words in said
    assert said.index("Warning") < said.index("round 1/3")
    assert "epsilon 8 (client, against server) up" in said[said.index("round 3/3") :]
    assert (
        "Privacy: client-level epsilon 8 at delta 1e-05 against the server"
        in said[said.index("Round 3:") :]
    )


@pytest.mark.parametrize("name", MECHANISMS)
def test_on_flowers_nodes_a_run_says_that_its_seed_is_sent(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    """Before its first round, also where the console is off; and in the messages the seed does
    stand."""

    def start(strategy: FederatedDistillation) -> None:
        assert "\nseed: 0\n" in str(strategy.scenario_text)
        raise Ended

    with pytest.raises(Ended):
        run(scenario(**protected(name)), tmp_path / "nodes", Driver("flower", start))
    said = " ".join(capsys.readouterr().out.split())
    warning = f"Warning: privacy={name}: every message carries the scenario with its seed"
    assert (warning in said) == (name != "swing")
    assert ("among real parties nothing is protected" in said) == (name != "swing")


def test_a_run_says_that_an_epsilon_counted_by_votes_is_private_itself(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    run(scenario(**protected("gnmax", report={"console": True, "plots": False})), tmp_path / "run")
    said = " ".join(capsys.readouterr().out.split())
    assert "computed from the votes, so it is private itself" in said[: said.index("round 1/3")]
    assert "(client, against clients) up" in said[said.index("round 1/3") :]
    assert "private itself" in stored(tmp_path / "run")["privacy"]["outside"][-1]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "negative epsilon": (
        {"privacy": {"name": "dp_sgd", "epsilon": -1.0}},
        r"privacy\.epsilon must"
        r" be > 0",
    ),
    "NaN": (
        {"privacy": {"name": "dp_sgd", "epsilon": math.nan}},
        r"privacy\.epsilon must be a"
        r" finite number",
    ),
    "minus infinity": (
        {"privacy": {"name": "gnmax", "epsilon": -math.inf}},
        r"privacy\.epsilon"
        r" must be a finite",
    ),
    "delta": (
        {"privacy": {"name": "dp_sgd", "epsilon": 1.0, "delta": 0.1}},
        "delta must be below 1/20",
    ),
    "delta of clients": (
        {
            "clients": 8,
            "samples_per_client": 5,
            "privacy": {"name": "gaussian", "epsilon": 1.0, "delta": 0.15},
        },
        "delta must be below 1/8, .* clients",
    ),
    "clip without noise": (
        {"privacy": {"name": "gaussian", "clip_norm": 1.0}},
        "without noise there is nothing",
    ),
    "sensitivity": (
        {"privacy": {"name": "laplace", "epsilon": 1.0, "sensitivity": 1.0}},
        "sensitivity.*is derived",
    ),
    "epsilon of a heuristic": (
        {"privacy": {"name": "swing", "epsilon": 1.0}},
        "heuristic without a guarantee",
    ),
    "BatchNorm": (
        {"models": ["toys:with_batch_norm"], "privacy": {"name": "dp_sgd", "epsilon": 1.0}},
        "has BatchNorm .*GroupNorm",
    ),
    "more votes than clients": (
        {"privacy": {"name": "gnmax", "epsilon": 8.0, "threshold": 5.0, "threshold_sigma": 20.0}},
        r"threshold=5 asks for the votes of more clients than there are \(4\)",
    ),
    "weights that depend on uploads": (
        {
            "strategy": "knfu",
            "privacy": {"name": "central_gaussian", "epsilon": 8.0, "clip_norm": 1.0},
        },
        "plain mean",
    ),
    "votes on logits": (
        {"strategy": "fedmd", "privacy": {"name": "gnmax", "epsilon": 8.0}},
        "soft labels",
    ),
    "label counts": (
        {
            "strategy": {"name": "knfu", "epd": "label_histogram"},
            "privacy": {"name": "gaussian", "epsilon": 8.0, "clip_norm": 1.0},
        },
        "discloses each client's label counts",
    ),
    "class tables": (
        {"strategy": "fd", "privacy": {"name": "dp_sgd", "epsilon": 8.0}},
        "more than their model knows",
    ),
    "class tables and noise": (
        {"strategy": "fd", "privacy": {"name": "krr", "epsilon": 8.0}},
        "sends something else",
    ),
    "a proximal term": (
        {"strategy": "fedprox", "privacy": {"name": "dp_sgd", "epsilon": 8.0}},
        "not of single",
    ),
    "pooled data": (
        {"strategy": "centralized", "privacy": {"name": "dp_sgd", "epsilon": 8.0}},
        "private sets of all",
    ),
    "nothing exchanged": (
        {"strategy": "local_only", "privacy": {"name": "dp_sgd", "epsilon": 8.0}},
        "local_only exchanges nothing",
    ),
    "attackers that see raw uploads": (
        {"attacks": "lie", "clients": 8, "privacy": {"name": "central_gaussian", "epsilon": 8.0}},
        "see every raw upload",
    ),
    "a robust mean": (
        {"robust": "median", "privacy": {"name": "central_gaussian", "epsilon": 8.0}},
        "both take the mean's place",
    ),
    "a choice by answers": (
        {
            "public": {"per_round": 10, "sampling": "disagreement"},
            "privacy": {"name": "gaussian", "epsilon": 8.0},
        },
        "depend on answers",
    ),
    "together": (
        {"batch_clients": ["mlp"], "privacy": {"name": "dp_sgd", "epsilon": 8.0}},
        "what protects its privacy takes part",
    ),
}


@pytest.mark.fast(10)
@pytest.mark.parametrize("what", REFUSED)
def test_what_would_not_hold_is_refused_before_any_training(what: str):
    changes, message = REFUSED[what]
    with pytest.raises(SettingError, match=message):
        records(**{"strategy": SOFT_MEAN, "models": ["mlp"], **changes})
