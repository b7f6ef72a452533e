"""Count, without a GPU, the operations that would make the host wait for one, by line of fedkd.

    python waits.py [--models mlp cnn resnet] [--together mlp] [--checkpoint 1] [--clients 2]
    python waits.py --small --models mlp vit --at-most 15       # ends with status 1 above that
    python waits.py --small --task next_tokens --privacy dp_sgd --models decoder --none-in-steps

It runs two rounds on the simulated device of tests/helpers/pretend.py, all models in one run: of
W's settings, or of next tokens of text, where a round asks about a part of the public positions. It
counts in the second one, for each model and client: tensors copied back from the device, values
that Python reads, boolean indices, and tensors copied to the device by a copy that is waited for.
Those of training steps are marked. Run it from the project's root.
"""

import argparse
import ast
import inspect
import re
import sys
import tempfile
import threading
import traceback
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
from cases import TEXT, w_like

sys.path.append("tests/helpers")
pretend: Any = import_module("pretend")

READS = {
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::equal",
    "aten::is_nonzero",
    "aten::masked_select",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::bincount",
}
"""Operations whose result, or its shape, the host waits for."""
INDEXED = {*pretend.INDEXED, "aten::index_put"}
ROUND = "the round"
"""What waits count for that are of no client: checkpoints, batches of clients, the server."""
BEGINS_STEP = r"\b(check_interrupt|before_step)\("
STEPS = {
    "optimize": "fedkd.training.loop",
    "optimize_privately": "fedkd.privacy.private_training",
    "take_in_turn": "fedkd.federation.batched_training",
}
"""Functions that take the steps of a training phase, and their modules."""


class Wait(NamedTuple):
    """Where the host waits, and for what."""

    model: str
    what: str
    line: str
    in_step: bool


class Waits:
    """Counts waits by model, kind and line, while a client of a model is at work."""

    def __init__(self) -> None:
        self.seen: Counter[Wait] = Counter()
        self.counting = False
        self.model = ROUND
        self.thread = threading.get_ident()
        self._steps = {name: lines_of_steps(name, module) for name, module in STEPS.items()}
        self._compute = pretend.compute

    def add(self, what: str) -> None:
        """Count a wait at the line of fedkd that is being executed."""
        if self.counting:
            frames = list(self.frames())
            in_step = any(
                line in self._steps.get(frame.f_code.co_name, ()) for frame, line in frames
            )
            self.seen[Wait(self.model, what, where(frames), in_step)] += 1

    def frames(self) -> Iterator[tuple[FrameType, int]]:
        """Yield the frames of fedkd and their lines, innermost first.

        A backward pass runs in a thread of its own, while the client's stands at its call.
        """
        found = list(traceback.walk_stack(inspect.currentframe()))
        if not any("/fedkd/" in frame.f_code.co_filename for frame, _ in found):
            found = list(traceback.walk_stack(sys._current_frames().get(self.thread)))
        for frame, line in found:
            if "/fedkd/" in frame.f_code.co_filename:
                yield frame, line

    def compute(self, operation: Any, *args: Any, **kwargs: Any) -> Any:
        """Execute an operation on the simulated device, and count it if the host would wait."""
        result, name = self._compute(operation, *args, **kwargs), operation._schema.name
        if name in READS:
            self.add("read")
        elif name in INDEXED and any(is_mask(index) for index in args[1]):
            self.add("boolean index")
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


def is_mask(index: Any) -> bool:
    """Return whether an index is a mask on the device, whose number of rows the host asks for."""
    return isinstance(index, pretend.Pretended) and index.dtype in (torch.bool, torch.uint8)


def lines_of_steps(name: str, module: str) -> range:
    """Return the lines, within its file, of the loop in which a function may be interrupted."""
    source, first = inspect.getsourcelines(getattr(import_module(module), name))
    loops = [
        node
        for node in ast.walk(ast.parse("".join(source)))
        if isinstance(node, ast.For) and re.search(BEGINS_STEP, ast.unparse(node))
    ]
    last = max(loops, key=lambda loop: loop.col_offset)
    assert last.end_lineno is not None, "parsed from text"
    return range(first + last.lineno - 1, first + last.end_lineno)


def where(frames: list[tuple[FrameType, int]]) -> str:
    """Return the line of fedkd that is being executed."""
    if not frames:
        return "?"
    frame, line = frames[0]
    return f"fedkd/{frame.f_code.co_filename.rpartition('/fedkd/')[2]}:{line}"


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
        waits.model, waits.thread = context.architectures[client_id].name, threading.get_ident()
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
        "rounds": 2,
        "strategy": given.strategy,
    }
    changes |= {"batch_clients": given.together} if given.together else {}
    if given.privacy == "dp_sgd":
        changes["privacy"] = {"name": "dp_sgd", "epsilon": 8.0}
    counts = counts_of(given)
    clients, models = sum(counts.values()), [f"{name}*{count}" for name, count in counts.items()]
    return TASKS[given.task](clients, models, given.small, changes)


def of_images(clients: int, models: list[str], small: bool, changes: Any) -> dict[str, Any]:
    """Return settings like W's.

    Args:
        clients: The number of clients.
        models: Their models, with counts.
        small: Whether there are few samples.
        changes: Other settings.
    """
    if not small:
        return w_like(clients, models, tests=1000, **changes)
    # Eight steps of training and four of distillation: more than what may be waited for besides.
    few = w_like(clients, models, private=16, public=16, tests=10, **changes)
    few["data"]["train_rows"] = 16 * clients + 64
    few["train"] = {**few["train"], "batch_size": 2}
    few["distill"] = {"batch_size": 4}
    return few


def of_next_tokens(clients: int, models: list[str], small: bool, changes: Any) -> dict[str, Any]:
    """Return settings of next tokens, which ask about a third of the public positions or so.

    Args:
        clients: The number of clients.
        models: Their models, with counts.
        small: Whether there are few texts.
        changes: Other settings.
    """
    times = 1 if small else 10
    some = {
        "data": {"name": "sentences", "texts": times * max(70, 28 + 21 * clients)},
        "clients": clients,
        "models": models,
        "public": {"size": 14 * times, "per_round": 300 * times},
    }
    return {**TEXT, **some, "train": {**TEXT["train"], "epochs": 1}, **changes}


TASKS = {"images": of_images, "next_tokens": of_next_tokens}
MODELS = {"images": ["mlp", "resnet"], "next_tokens": ["gru", "decoder"]}
"""What is counted by default."""


def parsed() -> argparse.Namespace:
    """Return what the command is given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=TASKS, default="images")
    parser.add_argument("--models", nargs="+")
    parser.add_argument(
        "--together", nargs="*", default=[], help="models whose clients are trained together"
    )
    parser.add_argument("--strategy", default="fedmd")
    parser.add_argument("--privacy", choices=("none", "dp_sgd"), default="none")
    parser.add_argument("--checkpoint", type=int, default=1, help="checkpoint.every")
    parser.add_argument("--clients", type=int, default=2, help="of each model")
    parser.add_argument("--small", action="store_true", help="with few samples: a test")
    parser.add_argument("--at-most", type=float, help="waits that a client and round may have")
    parser.add_argument(
        "--none-in-steps", action="store_true", help="training steps may have none at all"
    )
    given = parser.parse_args()
    given.models = given.models or MODELS[given.task]
    return given


def main() -> None:
    """Run the command."""
    given, waits = parsed(), Waits()
    device = waits.register()
    from fedkd.errors import SettingError
    from fedkd.experiment.run import run
    from fedkd.scenario.scenario import Scenario

    watch(waits, device)
    with tempfile.TemporaryDirectory() as folder:
        try:
            run(Scenario.parse(settings_of(given)), Path(folder) / "run")
        except SettingError as error:
            sys.exit(f"waits: {error}")
    above, counts = [], counts_of(given)
    everyone = sum(counts.values())
    shared = sum(count for wait, count in waits.seen.items() if wait.model == ROUND)
    for model in (*given.models, ROUND):
        of = counts.get(model, everyone)
        own = Counter({wait: count for wait, count in waits.seen.items() if wait.model == model})
        total = sum(own.values()) / of
        print(
            f"{model}{', together' if model in given.together else ''}: {total:.1f} waits a client"
        )
        for wait, count in own.most_common(15):
            step = " in a training step" if wait.in_step else ""
            print(f"  {count / of:7.1f} {wait.what:14} {wait.line}{step}")
        whole = total + shared / everyone
        if model != ROUND and given.at_most is not None and whole > given.at_most:
            above.append(f"{model}: {whole:.1f} waits a client and round, more than allowed")
        if given.none_in_steps and any(wait.in_step for wait in own):
            above.append(f"{model}: training steps wait")
    sys.exit("\n".join(above) or None)


if __name__ == "__main__":
    main()
