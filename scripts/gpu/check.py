# ruff: noqa: B023  (each lambda is called within its iteration of the loop)
"""Check on a GPU that fedkd computes what it computes on the CPU, repeats to the bit, and resumes.

    python check.py [--out DIR] [--budget SECONDS] [--only NAME ...]
    python check.py --dry-run          # on the CPU, to try the script

The verdict on a case is one of: ok; DIFFERS (its figures are wrong); FAILED (with the reason);
skipped (no time left, or a library is missing). The exit status is 1 if any case differs or failed.
Cases are tiny federations on embedded data: they check computation on the device, not accuracy.
"""

import argparse
import contextlib
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cases
import numpy as np
import torch
import torch.nn.functional as F
from cases import Budget, device_or_exit, differences, failures, figures, machine, synchronize, tf32

from fedkd.experiment.resume import resume
from fedkd.experiment.run import run
from fedkd.federation.batched_training import Pool, optimize_together
from fedkd.models.factory import ImageModelSpec
from fedkd.runtime.devices import deterministic
from fedkd.scenario import registry
from fedkd.scenario.scenario import Scenario
from fedkd.storage.checkpoint import CheckpointFolder
from fedkd.strategy import declaration
from fedkd.training.hyperparameters import Phase
from fedkd.training.loop import optimize
from fedkd.training.losses import kl

CLOSE = 1e-3
"""Largest relative difference of losses between CPU and GPU without TF32, after a few steps."""
EXACT = 1e-9
"""Largest difference of weights in float64, after a few steps."""
TINY: dict[str, Any] = {
    "clients": 4,
    "samples_per_client": 20,
    "models": ["mlp", "cnn"],
    "rounds": 2,
    "public": {"size": 40},
    "test": {"global_size": 50, "private_size": 20},
    "train": {"epochs": 1, "batch_size": 8},
    "distill": {"epochs": 1, "batch_size": 20},
    "strategy": "fedmd",
    "engine": {"name": "local", "workers": 1},
    "baseline": "none",
    "checkpoint": {"every": 0},
    "report": {"console": False, "plots": False},
}
TEXT: dict[str, Any] = {**cases.TEXT, **{k: TINY[k] for k in ("checkpoint", "report")}}
CANARIES = {
    "name": "form",
    "prefix": "pin ",
    "slots": "dd",
    "repeats": 6,
    "held_out": 4,
    "visit_times": 6,
}
SOFT_MEAN = {"name": "dsfl", "aggregation": "mean"}


class Differs(Exception):
    """A case ran, and its figures are wrong."""


class Skipped(Exception):
    """A case cannot run on this machine."""


class Checks:
    """Runs cases while time is left, and collects their verdicts."""

    def __init__(self, device: torch.device, budget: Budget, folder: Path, only: list[str]) -> None:
        self.device, self.budget, self.folder, self.only = device, budget, folder, only
        self.rows: list[dict[str, Any]] = []
        self._number = 0

    def case(self, name: str, call: Callable[[], str], expected: float) -> None:
        """Run a case, and print its verdict.

        Args:
            name: Of the case.
            call: Runs the case, and returns details to print. Raises Differs or Skipped.
            expected: Seconds on a GPU, about; with less time left the case is skipped.
        """
        if self.only and not any(word in name for word in self.only):
            return
        started = time.monotonic()
        if self.budget.left < expected:
            verdict, detail = "skipped", "no time left"
        else:
            try:
                verdict, detail = "ok", call()
            except Differs as difference:
                verdict, detail = "DIFFERS", str(difference)
            except Skipped as reason:
                verdict, detail = "skipped", str(reason)
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt | SystemExit):
                    raise
                verdict, detail = (
                    "FAILED",
                    f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",
                )
                traceback.print_exc(limit=-4)
        row = {
            "case": name,
            "verdict": verdict,
            "seconds": round(time.monotonic() - started, 2),
            "detail": detail,
        }
        self.rows.append(row)
        print(f"{verdict:8} {row['seconds']:6.1f} s  {name}: {detail}", flush=True)

    def run(
        self, changes: dict[str, Any], *, where: str | None = None, base: dict[str, Any] = TINY
    ) -> dict[str, Any]:
        """Run a scenario and return its figures. Raises Differs if a client failed.

        Args:
            changes: Settings that differ from ``base``.
            where: The device, or None for the checked one.
            base: The other settings.
        """
        self._number += 1
        folder = self.folder / f"run{self._number:03}"
        run(scenario(changes, where or self.device.type, base), folder)
        found = figures(folder)
        if failures(found):
            raise Differs(f"clients failed: {'; '.join(failures(found))[:300]}")
        return found


def scenario(changes: dict[str, Any], device: str, base: dict[str, Any] = TINY) -> Scenario:
    """Return a scenario: ``base`` with changed settings. Sections are merged."""
    values: dict[str, Any] = {"name": "check", **base, "device": device}
    for key, value in changes.items():
        old = values.get(key)
        if isinstance(value, dict) and isinstance(old, dict) and "name" not in value:
            values[key] = {**old, **value}
        else:
            values[key] = value
    return Scenario.parse({key: value for key, value in values.items() if value is not None})


def settings_for(name: str) -> dict[str, Any]:
    """Return the settings that a strategy needs, such as one architecture or public labels."""
    declared = declaration(registry.create("strategy", {"name": name}).value, name)
    needs = declared.needs
    # Clients that learn during private training learn from the teacher of the round before.
    changes: dict[str, Any] = {
        "strategy": name,
        "rounds": 2 if declared.kind and declared.kind.learned_by == "train" else 1,
    }
    if needs.equal_architectures or needs.features == "equal" or needs.companion:
        changes["models"] = ["mlp"]
    if needs.public_labels:
        changes["public"] = {"labeled": True}
    return changes


@contextlib.contextmanager
def nudged(seed: int) -> Iterator[None]:
    """Perturb initial weights of image models by 1e-7 of each, about its last bit."""
    original = ImageModelSpec.build

    def build(self: ImageModelSpec, *given: Any, **named: Any) -> torch.nn.Module:
        model, stream = original(self, *given, **named), torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weights in model.parameters():
                weights.mul_(1 + 1e-7 * (2 * torch.randint(2, weights.shape, generator=stream) - 1))
        return model

    ImageModelSpec.build = build  # type: ignore[method-assign]
    try:
        yield
    finally:
        ImageModelSpec.build = original  # type: ignore[method-assign]


def same_as_cpu(
    checks: Checks, changes: dict[str, Any], base: dict[str, Any] = TINY, close: float = CLOSE
) -> str:
    """Compare a run on the device, without TF32, with one on the CPU.

    Some methods make discrete choices, which a rounding error may change. If figures differ much,
    the CPU's own sensitivity is measured: the difference between runs whose initial weights differ
    in the last bit. Up to three times that is accepted.

    Args:
        checks: Runs scenarios.
        changes: Settings that differ from ``base``.
        base: The other settings.
        close: The largest relative difference of losses that is accepted at once.
    """
    with tf32(False):
        here = checks.run(changes, base=base)
    cpu = checks.run(changes, where="cpu", base=base)
    losses, accuracies = differences(cpu, here)
    said = (
        f"losses differ by {losses:.1e} of their size, accuracies by {100 * accuracies:.1f} points"
    )
    if losses <= close:
        return said
    own = 0.0
    for seed in range(4):
        with nudged(seed):
            perturbed = checks.run(changes, where="cpu", base=base)
            own = max(own, differences(cpu, perturbed)[0])
    said += f"; on the CPU, by {own:.1e} where weights start a last bit away"
    if losses > 3 * own:
        raise Differs(said)
    return said


def repeats(
    checks: Checks, changes: dict[str, Any], base: dict[str, Any] = TINY, other: Any = None
) -> str:
    """Run a scenario twice, and check that figures are equal to the bit.

    Args:
        checks: Runs scenarios.
        changes: Settings that differ from ``base``.
        base: The other settings.
        other: Settings of the second run that must not change figures.
    """
    one, two = checks.run(changes, base=base), checks.run({**changes, **(other or {})}, base=base)
    if one != two:
        losses, accuracies = differences(one, two)
        raise Differs(
            f"not the same bits: losses differ by {losses:.1e},"
            f" accuracies by {100 * accuracies:.1f} points"
        )
    return "the same bits"


def resumes(
    checks: Checks,
    changes: dict[str, Any],
    base: dict[str, Any] = TINY,
    where: str | None = None,
) -> str:
    """Interrupt a run before its last checkpoint, resume it, and compare with a whole run.

    Args:
        checks: Says on which device.
        changes: Settings that differ from ``base``.
        base: The other settings.
        where: The device to go on with, or None for the same, where figures must be equal.
    """
    asked = scenario({**changes, "rounds": 3, "checkpoint": {"every": 1}}, checks.device.type, base)
    whole, parts = checks.folder / "whole", checks.folder / "parts"
    for folder in (whole, parts):
        with contextlib.suppress(FileNotFoundError):
            subprocess.run(["rm", "-rf", str(folder)], check=True)
    run(asked, whole)
    save = CheckpointFolder.save

    def failing(self: CheckpointFolder, round_number: int, *rest: Any, **named: Any) -> None:
        if round_number == 3:
            raise KeyboardInterrupt
        save(self, round_number, *rest, **named)

    CheckpointFolder.save = failing  # type: ignore[method-assign]
    try:
        run(asked, parts)
    except KeyboardInterrupt:
        pass
    finally:
        CheckpointFolder.save = save  # type: ignore[method-assign]
    resume(asked if where is None else on(asked, where), parts)
    if where is not None:
        with tf32(False):
            losses, _ = differences(figures(whole), figures(parts))
        if losses > CLOSE:
            raise Differs(f"losses differ by {losses:.1e} where the {where} goes on")
        return f"goes on with device={where}; losses differ by {losses:.1e}"
    if figures(whole) != figures(parts):
        losses, _ = differences(figures(whole), figures(parts))
        raise Differs(f"a resumed run has other figures: losses differ by {losses:.1e}")
    return "a resumed run has the figures of the uninterrupted one, to the bit"


def on(asked: Scenario, device: str) -> Scenario:
    """Return a scenario on another device."""
    return Scenario.parse({**asked.to_dict(), "device": device})


def trained(
    name: str, device: torch.device, dtype: torch.dtype, soft: bool, together: bool
) -> list[torch.Tensor]:
    """Train three clients of unequal sizes for two epochs, and return their weights on the CPU.

    Args:
        name: The architecture.
        device: Where to train.
        dtype: Of all tensors.
        soft: Whether labels are soft.
        together: Whether clients are trained in batched calls.
    """
    architecture, sizes = ImageModelSpec(name, (1, 8, 8), 5), (7, 20, 12)
    stream = torch.Generator().manual_seed(0)
    model = architecture.build(0).to(device, dtype)
    starts = [
        {n: v.to(device, dtype) for n, v in architecture.build(i).state_dict().items()}
        for i in range(3)
    ]
    x = [
        torch.randn(size, 1, 8, 8, generator=stream, dtype=torch.float64).to(device, dtype)
        for size in sizes
    ]
    rows = [torch.randn(size, 5, generator=stream, dtype=torch.float64) for size in sizes]
    y = [r.softmax(-1).to(device, dtype) if soft else r.argmax(-1).to(device) for r in rows]
    loss = (lambda logits, target: kl(logits, target, 2.0)) if soft else F.cross_entropy
    phase, streams = Phase(batch_size=4, epochs=2), [np.random.default_rng(i) for i in range(3)]
    if together:
        states = {n: torch.stack([start[n] for start in starts]) for n in starts[0]}
        optimize_together(
            model, states, sizes, Pool.of_each(x), Pool.of_each(y), loss, phase, streams
        )
        return [v.to("cpu", torch.float64) for _, v in sorted(states.items())]
    found: list[dict[str, torch.Tensor]] = []
    for start, mine, target, own in zip(starts, x, y, streams, strict=True):
        model.load_state_dict(start)

        def batch_loss(batch: torch.Tensor, mine: Any = mine, target: Any = target) -> torch.Tensor:
            return loss(model(mine[batch]), target[batch])

        optimize(model, len(mine), batch_loss, phase, own)
        found.append(
            {n: v.to("cpu", torch.float64, copy=True) for n, v in model.state_dict().items()}
        )
    return [torch.stack([state[n] for state in found]) for n in sorted(found[0])]


def steps_agree(device: torch.device, name: str) -> str:
    """Compare float64 training: CPU with device, and clients together with one by one."""
    worst = {"cpu": 0.0, "together": 0.0}
    for soft in (False, True):
        with deterministic(torch.device("cpu")):
            cpu = trained(name, torch.device("cpu"), torch.float64, soft, together=False)
        with deterministic(device):
            alone = trained(name, device, torch.float64, soft, together=False)
            together = trained(name, device, torch.float64, soft, together=True)
        for key, one, other in (("cpu", cpu, alone), ("together", alone, together)):
            worst[key] = max(
                [worst[key], *((a - b).abs().max().item() for a, b in zip(one, other, strict=True))]
            )
    said = (
        f"weights differ by {worst['cpu']:.0e} from the CPU's,"
        f" by {worst['together']:.0e} from those trained together"
    )
    if max(worst.values()) > EXACT:
        raise Differs(said)
    return said


def together_as_alone(checks: Checks, changes: dict[str, Any]) -> str:
    """Compare clients trained together with one by one, and check that batching was used."""
    worker: Any = import_module("fedkd.flower.process_clients")
    original, raised, calls = worker.train_batch, list[str](), 0

    def watched(*given: Any) -> None:
        nonlocal calls
        try:
            original(*given)
            calls += len(given[1]) > 1
        except Exception as error:
            raised.append(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
            raise

    worker.train_batch = watched
    try:
        with tf32(False):
            together = checks.run(changes)
    finally:
        worker.train_batch = original
    if raised or not calls:
        raise Differs(
            "clients were to be trained together, and were not:"
            f" {raised[:1] or 'no call was batched'}"
        )
    with tf32(False):
        alone = {"batch_clients": "never", "product_convolutions": "auto", "step_graphs": "never"}
        losses, _ = differences(checks.run({**changes, **alone}), together)
    if losses > CLOSE:
        raise Differs(f"losses differ by {losses:.1e} from those of clients trained one by one")
    return (
        f"{calls} batched calls; losses differ by {losses:.1e} from those of clients trained one"
        " by one"
    )


def command(checks: Checks) -> str:
    """Run the command in a process of its own, then resume the finished run."""
    folder = checks.folder / "command"
    small = "clients=3 rounds=1 samples_per_client=40 public.size=40 test.global_size=50"
    small += " baseline=none engine.workers=1"
    base = [sys.executable, "-m", "fedkd.simulate"]
    first = [
        *base,
        "scenario=digits",
        f"device={checks.device.type}",
        f"run_dir={folder}",
        *small.split(),
    ]
    for given in (first, [*base, f"resume={folder}"]):
        done = subprocess.run(given, capture_output=True, text=True, timeout=180)
        if done.returncode:
            raise Differs(
                f"{' '.join(given[1:4])} ended with {done.returncode}: {done.stderr.strip()[-300:]}"
            )
    device = json.loads((folder / "summary.json").read_text())["device"]
    return f"runs and resumes; summary.json says device={device!r}"


def on_ray(checks: Checks) -> str:
    """Run on two Ray workers that share the GPU, and compare with the local engine."""
    if find_spec("ray") is None:
        raise Skipped("ray is not installed")
    changes = {"models": ["mlp"], "rounds": 1}
    two_workers = {"name": "ray", "workers": 2}
    one = checks.run(changes)
    two = checks.run({**changes, "engine": two_workers})
    device = json.loads((checks.folder / f"run{checks._number:03}" / "summary.json").read_text())[
        "device"
    ]
    if one["clients"] != two["clients"]:
        raise Differs(
            "other figures than the local engine's: losses differ by"
            f" {differences(one, two)[0]:.1e}"
        )
    shares = {"mlp": 0.5, "cnn": 0}
    mixed = {"name": "ray", "workers": 2, "gpus_per_client": shares}
    checks.run({"models": ["mlp", "cnn"], "rounds": 1, "engine": mixed})
    chosen = {"models": ["mlp"], "clients": 6, "rounds": 1, "batch_clients": ["mlp"]}
    local = checks.run(chosen)
    if local["clients"] != checks.run({**chosen, "engine": two_workers})["clients"]:
        raise Differs("clients that are trained together have other figures with two workers")
    return (
        f"two workers have the local engine's figures, together too; a model without a part of the"
        f" GPU runs; summary.json says device={device!r}"
    )


def swing_text(checks: Checks) -> str:
    """Run a shortened ``swing_text``, and return the exposure of its secrets."""
    import yaml

    values = yaml.safe_load(Path("scenarios/swing_text.yaml").read_text())
    values["data"]["texts"], values["public"]["size"] = 140, 30
    values["test"]["global_size"] = 28
    values["train"]["epochs"], values["distill"]["epochs"] = 4, 2
    values |= {k: TINY[k] for k in ("engine", "baseline", "checkpoint", "report")}
    values["privacy"] = "swing"
    values.pop("description", None)
    exposure = checks.run({}, base=values)["exposure"]
    means = {name: round(e["inserted"]["mean"], 1) for name, e in exposure["by_adversary"].items()}
    return f"ran; mean exposure in bits {means} of {exposure['ceiling']:.1f}"


def all_cases(checks: Checks, dry_run: bool) -> None:
    """Run all cases, the most important first."""
    numeric_cases(checks, dry_run)
    batching_cases(checks, dry_run)
    private_training_cases(checks)
    engine_and_resume_cases(checks, dry_run)
    if not dry_run:  # the study's own tests run it on the CPU
        checks.case("swing_text", lambda: swing_text(checks), 25)
    component_cases(checks, dry_run)
    checks.case("TF32", lambda: with_tf32(checks, dry_run), 4)
    if not dry_run:  # starts of processes, half a minute; the tests have the same on the CPU
        checks.case("the command", lambda: command(checks), 25)
        checks.case("ray, two workers on one GPU", lambda: on_ray(checks), 75)


def numeric_cases(checks: Checks, dry_run: bool) -> None:
    """Compare models with the CPU, and two runs with one another."""
    names = ("mlp",) if dry_run else ("mlp", "cnn", "resnet", "vit")
    for name in names:
        checks.case(f"float64 steps, {name}", lambda: steps_agree(checks.device, name), 3)
    for name in names:
        checks.case(f"same as the CPU, {name}", lambda: same_as_cpu(checks, {"models": [name]}), 3)
    checks.case("same as the CPU, text", lambda: same_as_cpu(checks, {}, TEXT), 4)
    for name in names:
        checks.case(f"repeats, {name}", lambda: repeats(checks, {"models": [name]}), 3)
    for name in ("decoder",) if dry_run else ("gru", "decoder"):
        models = {"models": [f"cases:small_{name}"]}
        checks.case(f"repeats, {name}", lambda: repeats(checks, models, TEXT), 3)
    checks.case("repeats, dropout", lambda: repeats(checks, {"models": ["cases:dropout_mlp"]}), 2)


def batching_cases(checks: Checks, dry_run: bool) -> None:
    """Compare clients trained together with clients trained one by one."""
    names = ["mlp"] if dry_run else ["mlp", "cnn", "resnet", "vit"]
    changes = {"models": names, "clients": 2 * len(names), "batch_clients": names}
    checks.case("together repeats", lambda: repeats(checks, changes), 4)
    checks.case("together as one by one", lambda: together_as_alone(checks, changes), 4)
    threads = {"engine": {"name": "local", "workers": 3}}
    checks.case("together, 3 threads as 1", lambda: repeats(checks, changes, other=threads), 4)
    checks.case("together resumes", lambda: resumes(checks, changes), 6)
    convolving = ["cnn"] if dry_run else ["cnn", "resnet"]
    products = {**changes, "models": convolving, "batch_clients": convolving}
    products["product_convolutions"] = convolving
    checks.case("products as one by one", lambda: together_as_alone(checks, products), 4)
    if dry_run:
        return
    graphs = {**changes, "step_graphs": names}
    checks.case("replayed steps repeat", lambda: repeats(checks, graphs), 6)
    checks.case("replayed steps as one by one", lambda: together_as_alone(checks, graphs), 6)
    checks.case("replayed steps resume", lambda: resumes(checks, graphs), 8)


def private_training_cases(checks: Checks) -> None:
    """Check DP-SGD on images and on text."""
    dp_sgd = {"name": "dp_sgd", "epsilon": 8}
    images = {"models": ["mlp"], "strategy": SOFT_MEAN, "privacy": dp_sgd}
    text = {"models": ["cases:small_decoder"], "strategy": "dsfl", "privacy": dp_sgd}
    checks.case("dp_sgd repeats", lambda: repeats(checks, images), 3)
    checks.case("dp_sgd as on the CPU", lambda: same_as_cpu(checks, images), 3)
    checks.case("dp_sgd on text", lambda: same_as_cpu(checks, text, TEXT), 4)


def engine_and_resume_cases(checks: Checks, dry_run: bool) -> None:
    """Compare numbers of threads, and resumed runs with uninterrupted ones."""
    images = {"models": ["mlp", "cnn"] if dry_run else ["mlp", "cnn", "resnet"]}
    threads = {"engine": {"name": "local", "workers": 8}}
    checks.case("8 threads as 1", lambda: repeats(checks, images, other=threads), 3)
    kept = {"train": {"optimizer_state": "kept"}, "distill": {"optimizer_state": "kept"}}
    in_memory = {"models": ["mlp", "cnn"], **kept, "participation": 0.75}
    on_disk = {"models": ["mlp" if dry_run else "resnet"], "client_store": "disk"}
    checks.case("resume", lambda: resumes(checks, in_memory), 4)
    checks.case("resume, files", lambda: resumes(checks, on_disk), 4)
    dropping = {"models": ["cases:dropout_mlp"]}
    checks.case("resume, dropout", lambda: resumes(checks, dropping), 4)
    exact = {"models": ["mlp"], "precision": "fp32"}
    checks.case("resume on the CPU", lambda: resumes(checks, exact, where="cpu"), 4)


def component_cases(checks: Checks, dry_run: bool) -> None:
    """Compare every strategy, head and mechanism with the CPU; in a dry run a few of them."""
    every = 4 if dry_run else 1
    changes: dict[str, Any]
    for name in registry.names("strategy")[::every]:
        changes = settings_for(name)
        checks.case(f"strategy {name}", lambda: same_as_cpu(checks, changes), 2)
    for heads, models in (("dual", ["mlp", "cnn"]), ("self_distillation", ["cnn", "resnet"])):
        if dry_run and heads != "dual":
            continue
        changes = {"heads": heads, "models": models, "rounds": 1}
        checks.case(f"heads={heads}", lambda: same_as_cpu(checks, changes), 2)
    others: dict[str, dict[str, Any]] = {
        "gate and margins": {
            "distill": {"confidence_gate": True, "margin_weights": True, "loss": "kl"}
        },
        "relation, moved": {"distill": {"relational_weight": 0.5, "student_augmentation": "shift"}},
        "codec delta": {"codec": {"name": "delta"}},
        "audit": {"models": ["mlp"], "audit": {"name": "canaries", "per_client": 4}},
    }
    for name, changes in others.items():
        checks.case(name, lambda: same_as_cpu(checks, changes), 2)
    for name in ("gaussian", "laplace", "krr", "central_gaussian", "gnmax", "swing")[::every]:
        privacy = {"name": name} if name == "swing" else {"name": name, "epsilon": 8}
        changes = {"models": ["mlp"], "strategy": SOFT_MEAN, "privacy": privacy, "rounds": 1}
        # A release may depend on one comparison with a threshold: it is only roughly the CPU's.
        checks.case(f"privacy={name}", lambda: same_as_cpu(checks, changes, close=0.5), 2)
    secrets = {"text_canaries": CANARIES, "strategy": SOFT_MEAN, "privacy": "swing"}
    checks.case("canaries in text, swing", lambda: repeats(checks, secrets, TEXT), 5)


def with_tf32(checks: Checks, dry_run: bool) -> str:
    """Return the difference that TF32 in convolutions, PyTorch's default, makes; judge nothing."""
    changes = {"models": ["cnn"] if dry_run else ["cnn", "resnet"], "rounds": 2}
    cpu = checks.run(changes, where="cpu")
    with tf32(True):
        losses, accuracies = differences(cpu, checks.run(changes))
    return (
        f"with TF32 losses differ by {losses:.1e} from the CPU's,"
        f" accuracies by {100 * accuracies:.1f} points"
    )


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("gpu_results"), help="folder of the results"
    )
    parser.add_argument(
        "--budget", type=float, default=200, help="seconds; cases that would go beyond are skipped"
    )
    parser.add_argument(
        "--only", nargs="*", default=[], help="cases whose name holds one of these words"
    )
    parser.add_argument("--dry-run", action="store_true", help="on the CPU")
    given = parser.parse_args()
    device = device_or_exit("check", given.dry_run)
    given.out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with warnings.catch_warnings(record=True) as seen, tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("default")
        os.environ.setdefault("FEDKD_CACHE", str(Path(folder) / "cache"))
        checks = Checks(device, Budget(given.budget), Path(folder), given.only)
        all_cases(checks, given.dry_run)
    messages = sorted({" ".join(str(w.message).split())[:240] for w in seen})
    relevant = [
        m
        for m in messages
        if any(word in m.lower() for word in ("determinis", "batching rule", "cublas"))
    ]
    about = machine(device)
    if device.type == "cuda":
        gc.collect()
        synchronize(device)
        about["peak_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
        about["still_allocated_mib"] = round(torch.cuda.memory_allocated() / 2**20)
    bad = [row for row in checks.rows if row["verdict"] in ("DIFFERS", "FAILED")]
    (given.out / "check.json").write_text(
        json.dumps({"machine": about, "cases": checks.rows, "warnings": messages}, indent=1)
    )
    print(f"\n{about}")
    print(
        "warnings of what may not repeat, or is slow under vmap:",
        *(relevant or ["none"]),
        sep="\n  ",
    )
    counts = {
        v: sum(row["verdict"] == v for row in checks.rows)
        for v in ("ok", "DIFFERS", "FAILED", "skipped")
    }
    print(f"{counts} in {time.monotonic() - started:.0f} s")
    for row in bad:
        print(f"  {row['verdict']} {row['case']}: {row['detail']}")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
