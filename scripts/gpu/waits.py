"""Count, without a GPU, the operations that would make the host wait for one, by line of fedkd.

    python waits.py [--models mlp cnn resnet] [--together mlp] [--checkpoint 1] [--clients 2]
    python waits.py --small --models mlp vit --at-most 15       # ends with status 1 above that

It runs two rounds of W's settings on the simulated device of tests/helpers/pretend.py, all models
in one run, and counts in the second one, for each model and client: tensors copied back from the
device, values that Python reads, and tensors copied to the device by a copy that is waited for.
Boolean indices wait too, and are not counted. Run it from the project's root.
"""

import argparse
import sys
import tempfile
import traceback
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from cases import w_like

sys.path.append("tests/helpers")
pretend: Any = import_module("pretend")

READS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero"}
ROUND = "the round"
"""What waits count for that are of no client: checkpoints, batches of clients, the server."""


class Waits:
    """Counts waits by model, kind and line, while a client of a model is at work."""

    def __init__(self) -> None:
        self.seen: Counter[tuple[str, str, str]] = Counter()
        self.counting = False
        self.model = ROUND
        self._compute = pretend.compute

    def add(self, what: str) -> None:
        """Count a wait at the line of fedkd that is being executed."""
        if self.counting:
            self.seen[self.model, what, where()] += 1

    def compute(self, operation: Any, *args: Any, **kwargs: Any) -> Any:
        """Execute an operation on the simulated device, and count it if the host would wait."""
        result, name = self._compute(operation, *args, **kwargs), operation._schema.name
        if name in READS:
            self.add("read")
        elif name in ("aten::_to_copy", "aten::copy_"):
            source, target = (args[1], args[0]) if name == "aten::copy_" else (args[0], result)
            there = [isinstance(tensor, pretend.Pretended) for tensor in (source, target)]
            waits_not = kwargs.get("non_blocking") or (
                name == "aten::copy_" and args[2:] == (True,)
            )
            if there[0] and not there[1]:
                self.add("to the host")
            elif there[1] and not there[0] and not waits_not:
                self.add("to the device")
        return result

    def register(self) -> torch.device:
        """Register the simulated device, with every operation counted."""
        pretend.compute, listed = self.compute, pretend.Pretended.tolist

        def tolist(tensor: Any) -> Any:
            self.add("read")
            return listed(tensor)

        pretend.Pretended.tolist = tolist
        pretend.Pretended.__torch_dispatch__ = classmethod(
            lambda cls, operation, types, args=(), kwargs=None: self.compute(
                operation, *args, **(kwargs or {})
            )
        )
        device: torch.device = pretend.register()
        return device


def where() -> str:
    """Return the line of fedkd that is being executed."""
    frames = (f for f in reversed(traceback.extract_stack(limit=40)) if "/fedkd/" in f.filename)
    frame = next(frames, None)
    return (
        "?" if frame is None else f"fedkd/{frame.filename.rpartition('/fedkd/')[2]}:{frame.lineno}"
    )


def watch(waits: Waits, device: torch.device) -> None:
    """Let runs compute on the device, and waits be counted for the client at work."""
    from fedkd.report.folder import RunFolder

    for name in ("fedkd.experiment.build", "fedkd.flower.local_grid"):
        module: Any = import_module(name)
        module.choose_device = lambda _: device
    app: Any = import_module("fedkd.flower.client_app")
    add_round, take_part = RunFolder.add_round, app.take_part

    def after_round(self: RunFolder, row: Any, *rest: Any) -> None:
        add_round(self, row, *rest)
        waits.counting = row["round"] == 1

    def watched(context: Any, client_id: int, download: Any) -> Any:
        waits.model = context.architectures[client_id].name
        try:
            return take_part(context, client_id, download)
        finally:
            waits.model = ROUND

    RunFolder.add_round = after_round  # type: ignore[assignment,method-assign]
    app.take_part = watched


def counts_of(given: argparse.Namespace) -> dict[str, int]:
    """Return how many clients each model has: at least two of those that are trained together."""
    return {
        m: max(2, given.clients) if m in given.together else given.clients for m in given.models
    }


def settings_of(given: argparse.Namespace) -> dict[str, Any]:
    """Return the scenario's settings."""
    changes: dict[str, Any] = {
        "checkpoint": {"every": given.checkpoint},
        "report": {"console": False, "plots": False},
    }
    changes |= {"batch_clients": given.together} if given.together else {}
    counts = counts_of(given)
    clients, models = sum(counts.values()), [f"{name}*{count}" for name, count in counts.items()]
    if not given.small:
        return w_like(clients, models, rounds=2, tests=1000, **changes)
    # Eight steps of training and four of distillation: more than what may be waited for besides.
    few = w_like(clients, models, private=16, public=16, rounds=2, tests=10, **changes)
    few["data"]["train_rows"] = 16 * clients + 64
    few["train"] = {**few["train"], "batch_size": 2}
    few["distill"] = {**few["distill"], "batch_size": 4}
    return few


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["mlp", "resnet"])
    parser.add_argument(
        "--together", nargs="*", default=[], help="models whose clients are trained together"
    )
    parser.add_argument("--checkpoint", type=int, default=1, help="checkpoint.every")
    parser.add_argument("--clients", type=int, default=2, help="of each model")
    parser.add_argument("--small", action="store_true", help="with few samples: a test")
    parser.add_argument("--at-most", type=float, help="waits that a client and round may have")
    given = parser.parse_args()
    waits = Waits()
    device = waits.register()
    from fedkd.experiment.run import run
    from fedkd.scenario.scenario import Scenario

    watch(waits, device)
    with tempfile.TemporaryDirectory() as folder:
        run(Scenario.parse(settings_of(given)), Path(folder) / "run")
    above, counts = [], counts_of(given)
    everyone = sum(counts.values())
    shared = sum(count for key, count in waits.seen.items() if key[0] == ROUND)
    for model in (*given.models, ROUND):
        of = counts.get(model, everyone)
        own = {key[1:]: count for key, count in waits.seen.items() if key[0] == model}
        total = sum(own.values()) / of
        print(
            f"{model}{', together' if model in given.together else ''}: {total:.1f} waits a client"
        )
        for (what, line), count in sorted(own.items(), key=lambda item: -item[1])[:15]:
            print(f"  {count / of:7.1f} {what:14} {line}")
        whole = total + shared / everyone
        if model != ROUND and given.at_most is not None and whole > given.at_most:
            above.append(f"{model}: {whole:.1f} waits a client and round, more than allowed")
    sys.exit("\n".join(above) or None)


if __name__ == "__main__":
    main()
