"""A device other than the CPU: everything is put there, whatever a run is made of."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from every_strategy import NAMES, settings_for
from paths import HELPERS, ROOT
from tiny import scenario
from tiny_text import CANARIES

from fedkd.experiment.resume import resume
from fedkd.experiment.run import run
from fedkd.runtime.devices import deterministic, set_deterministic
from fedkd.storage.client_states import DiskStore

Case = tuple[str, str, dict[str, Any]]
SMALL: dict[str, dict[str, Any]] = {
    "tiny": {"clients": 3, "samples_per_client": 8, "public": {"size": 16}},
    "tiny_text": {},
}
"""An operation on the pretended device takes as long on eight samples as on one."""
SOFT_MEAN = {"name": "dsfl", "aggregation": "mean"}
PROTECTING = ("central_gaussian", "dp_sgd", "gaussian", "gnmax", "krr", "laplace", "lnmax", "swing")
STRATEGIES: list[Case] = [(name, "tiny", settings_for(name)) for name in NAMES]
BUDGETS = {name: {} if name == "swing" else {"epsilon": 8} for name in PROTECTING}
MECHANISMS: list[Case] = [
    (
        f"privacy={name}",
        "tiny",
        {"strategy": SOFT_MEAN, "models": ["mlp"], "privacy": {"name": name, **budget}},
    )
    for name, budget in BUDGETS.items()
]
AUDITED: dict[str, Any] = {"strategy": "fedmd", "models": ["mlp"]}
OTHERS: list[Case] = [
    ("heads=dual", "tiny", {"models": ["mlp", "cnn"], "heads": "dual"}),
    (
        "heads=self_distillation",
        "tiny",
        {"models": ["cnn", "resnet"], "heads": "self_distillation"},
    ),
    (
        "kept optimizers",
        "tiny",
        {"train": {"optimizer_state": "kept"}, "distill": {"optimizer_state": "kept"}},
    ),
    ("gate", "tiny", {"distill": {"confidence_gate": True, "margin_weights": True}}),
    ("relation", "tiny", {"distill": {"relational_weight": 0.5, "student_augmentation": "shift"}}),
    ("files", "tiny", {"client_store": "disk"}),
    ("two workers", "tiny", {"engine": {"name": "local", "workers": 2}}),
    ("baseline", "tiny", {"baseline": "local_only"}),
    ("largest", "tiny", {"codec": {"name": "top_k", "k": 3}}),
    ("delta", "tiny", {"codec": {"name": "delta"}}),
    ("canaries", "tiny", {**AUDITED, "audit": {"name": "canaries", "per_client": 4}}),
    ("members", "tiny", {**AUDITED, "audit": {"name": "members", "per_client": 4}}),
    ("shadows", "tiny", {**AUDITED, "audit": {"name": "canaries", "per_client": 4, "shadows": 4}}),
]
DECODERS = {"models": ["tiny_text:small_decoder"]}
ROUNDED: list[
    Case
] = [  # attention is summed in another order where there is no kernel of the device's own
    ("vit", "tiny", {"models": ["vit"], "rounds": 1}),
    # Clients that are trained together are measured together there.
    ("together", "tiny", {"models": ["mlp"], "batch_clients": ["mlp"]}),
    ("text", "tiny_text", {"public": {"size": 14, "per_round": 300}}),
    ("text, canaries", "tiny_text", {**DECODERS, "text_canaries": CANARIES}),
    (
        "text, dp_sgd",
        "tiny_text",
        {**DECODERS, "strategy": "dsfl", "privacy": {"name": "dp_sgd", "epsilon": 8}},
    ),
]


def on_both(cases: list[Case]) -> dict[str, dict[str, Any]]:
    """Return the figures of each case on the CPU and on the pretended device."""
    folders = [str(HELPERS), str(ROOT)]
    cases = [(name, where, {**SMALL[where], **changes}) for name, where, changes in cases]
    paths = f"import sys; sys.path[:0] = {folders}; import pretend; pretend.main()"
    done = subprocess.run(
        [sys.executable, "-c", paths],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        timeout=540,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, dict[str, Any]] = json.loads(
        done.stdout.splitlines()[-1]
    )  # behind what the runs warn of
    return found


@pytest.mark.slow
@pytest.mark.daily(1)
@pytest.mark.parametrize("every", [8, 1])
def test_what_is_on_the_shelf_runs_on_another_device_to_the_figures_of_the_cpu(every: int) -> None:
    """In one process, since the device is made known to PyTorch for good; by day a part of it."""
    for name, found in on_both([*STRATEGIES, *MECHANISMS, *OTHERS, *ROUNDED][::every]).items():
        here, there = found["cpu"], found["pretend"]
        assert here.pop("operations") == 0
        assert there.pop("operations") > 100, f"{name}: next to nothing was done on the device"
        reasons = {row["reason"] for row in there["clients"]}
        assert {row["status"] for row in there["clients"]} == {"ok"}, f"{name}: {reasons}"
        if name not in {case[0] for case in ROUNDED}:
            assert there == here, name
            continue
        for one, other in zip(here["clients"], there["clients"], strict=True):
            losses = float(one["train_loss"]), float(other["train_loss"])
            assert math.isclose(*losses, rel_tol=1e-3), name


def test_on_a_gpu_torch_is_asked_for_algorithms_that_repeat_and_is_left_as_it_was() -> None:
    def asked() -> tuple[bool, bool, bool]:
        cudnn = torch.backends.cudnn
        return torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark

    before, threads = asked(), torch.get_num_threads()
    with deterministic(torch.device("cpu")):
        assert asked() == before
        assert torch.get_num_threads() == 1
    with deterministic(torch.device("cuda")):
        assert asked() == (True, True, False)
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        set_deterministic(torch.device("cuda"))
    assert asked() == before
    assert torch.get_num_threads() == threads


def test_a_run_goes_on_with_another_device_and_says_that_last_digits_may_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"clients": 2, "models": ["mlp"], "report": {"console": True, "plots": False}}
    with monkeypatch.context() as there:  # a GPU that is the CPU by another name
        for module in ("experiment.build", "flower.local_grid"):
            there.setattr(f"fedkd.{module}.choose_device", lambda _: torch.device("cpu"))
        there.setattr("fedkd.experiment.make_plan.describe_device", lambda *_: "NVIDIA H200")
        run(scenario(**small, rounds=1, device="cuda"), tmp_path / "run")
    capsys.readouterr()
    resume(scenario(**small, rounds=2, device="cpu"), tmp_path / "run")
    said = "device was NVIDIA H200 when the run began and is CPU now; the last digits may differ"
    assert said in " ".join(capsys.readouterr().out.split())
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    found = {name: summary[name] for name in ("rounds", "device", "precision")}
    assert found == {"rounds": 2, "device": "CPU", "precision": "float32"}


def test_states_that_stay_on_a_device_are_in_every_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device is the CPU here: what stays there has the figures of what does not."""
    changes = {
        "clients": 2,
        "models": ["mlp"],
        "codec": {"name": "delta"},
        "train": {"optimizer_state": "kept"},
        "report": {"console": False, "plots": False},
    }
    run(scenario(**changes, rounds=3), tmp_path / "host")
    monkeypatch.setattr("fedkd.experiment.build.fits", lambda *_: True)
    run(scenario(**changes, rounds=2), tmp_path / "there")
    resume(scenario(**changes, rounds=3), tmp_path / "there")
    host, there = (
        json.loads((tmp_path / name / "summary.json").read_text()) for name in ("host", "there")
    )
    assert there["knowledge_sha256"] == host["knowledge_sha256"]
    for client in range(2):
        one, other = (
            DiskStore(tmp_path / name / "states").get(client) for name in ("host", "there")
        )
        assert one is not None
        assert other is not None
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
