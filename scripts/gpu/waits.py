"""Count, without a GPU, the operations that would make the host wait for one, by line of fedkd.

    python waits.py [--models mlp cnn resnet] [--together] [--checkpoint 1] [--clients 2]

It runs two rounds of W's settings on the simulated device of tests/helpers/pretend.py, and counts
in the second one, for each client: tensors copied to the device and back (each is a wait, since the
host's memory is not pinned), and values that Python reads. Boolean indices wait too, and are not
counted. Run it from the project's root.
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
seen: Counter[tuple[str, str]] = Counter()
counting = False
original = pretend.compute


def where() -> str:
    """Return the line of fedkd that is being executed."""
    frames = (f for f in reversed(traceback.extract_stack(limit=40)) if "/fedkd/" in f.filename)
    frame = next(frames, None)
    return (
        "?" if frame is None else f"fedkd/{frame.filename.rpartition('/fedkd/')[2]}:{frame.lineno}"
    )


def watched(operation: Any, *args: Any, **kwargs: Any) -> Any:
    """Execute an operation on the simulated device, and count it if the host would wait."""
    result, name = original(operation, *args, **kwargs), operation._schema.name
    if not counting:
        return result
    if name in READS:
        seen["read", where()] += 1
    elif name in ("aten::_to_copy", "aten::copy_"):
        source, target = (args[1], args[0]) if name == "aten::copy_" else (args[0], result)
        there = [isinstance(tensor, pretend.Pretended) for tensor in (source, target)]
        if there[0] != there[1]:
            seen["to the host" if there[0] else "to the device", where()] += 1
    return result


def register() -> torch.device:
    """Register the simulated device, with every operation counted."""
    pretend.compute = watched
    pretend.Pretended.__torch_dispatch__ = classmethod(
        lambda cls, operation, types, args=(), kwargs=None: watched(
            operation, *args, **(kwargs or {})
        )
    )
    device: torch.device = pretend.register()
    return device


def main() -> None:
    """Run the command."""
    global counting
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["mlp", "resnet"])
    parser.add_argument(
        "--together", action="store_true", help="train each model's clients together"
    )
    parser.add_argument("--checkpoint", type=int, default=1, help="checkpoint.every")
    parser.add_argument("--clients", type=int, default=2, help="of each model")
    given = parser.parse_args()
    device = register()
    import fedkd.experiment.build
    import fedkd.flower.local_grid
    from fedkd.experiment.run import run
    from fedkd.report.folder import RunFolder
    from fedkd.scenario.scenario import Scenario

    for module in (fedkd.experiment.build, fedkd.flower.local_grid):
        module.choose_device = lambda _: device  # type: ignore[attr-defined]
    add_round = RunFolder.add_round

    def after_round(self: RunFolder, row: Any, *rest: Any) -> None:
        global counting
        add_round(self, row, *rest)
        counting = row["round"] == 1

    RunFolder.add_round = after_round  # type: ignore[assignment,method-assign]
    for model in given.models:
        seen.clear()
        changes: dict[str, Any] = {
            "checkpoint": {"every": given.checkpoint},
            "report": {"console": False, "plots": False},
        }
        changes |= {"batch_clients": [model]} if given.together else {}
        with tempfile.TemporaryDirectory() as folder:
            run(
                Scenario.parse(w_like(given.clients, [model], rounds=2, tests=1000, **changes)),
                Path(folder) / "run",
            )
        counting = False
        total = sum(seen.values()) / given.clients
        print(
            f"{model}{', together' if given.together else ''}: {total:.0f} waits a client and round"
        )
        for (what, line), count in seen.most_common(15):
            print(f"  {count / given.clients:7.1f} {what:14} {line}")


if __name__ == "__main__":
    main()
