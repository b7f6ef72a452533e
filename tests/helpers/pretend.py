"""A device that is not the CPU, for machines without a GPU: whole runs on it must have the CPU's
figures.

Its tensors hold tensors of the CPU, and every operation on them is done there. But as on CUDA, one
that mixes them with the CPU's own is refused, a generator must be the device's, and NumPy cannot
see them. So a run on it shows that ``device=cuda`` puts everything where it belongs; the speed,
memory and rounding of a real GPU are another matter.

The device is made known to PyTorch for good, so that it has a process of its own: ``python
pretend.py`` reads cases as JSON (a name; tiny or tiny_text; what changes in it) and writes the
figures of each on both devices.
"""

import csv
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils._mode_utils import no_dispatch
from torch.utils._pytree import tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "pretend"
INDEXED = {"aten::index", "aten::index_put_", "aten::_index_put_impl_"}
"""Operations whose first tensor, on the device, takes indices that are on the CPU, as CUDA's do."""
Tensors = tuple[torch.Tensor, ...]
DONE: Counter[str] = Counter()
"""How often each operation was done on the device."""

_library = torch.library.Library("_", "IMPL")  # what it registers ends with it


class Pretended(torch.Tensor):
    """A tensor that says it is elsewhere; ``here`` are its values."""

    here: torch.Tensor

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> "Pretended":
        context = {"dtype": here.dtype, "device": torch.device(NAME, 0), "strides": here.stride()}
        tensor = torch.Tensor._make_wrapper_subclass(cls, here.shape, **context)
        tensor.here = here
        return tensor

    def tolist(self) -> Any:  # CUDA's tensors have it; they have no .numpy(), and nor has this one
        return self.here.tolist()

    @classmethod
    def __torch_dispatch__(
        cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return compute(operation, *args, **(kwargs or {}))


class Generator(torch.Generator):
    """A generator that says where it is asked to be."""

    def __new__(cls, device: Any = "cpu") -> "Generator":
        generator = super().__new__(cls, "cpu")
        generator.context = torch.device(device)
        return generator

    @property
    def device(self) -> torch.device:
        return self.context


def gru_cell(
    inputs: torch.Tensor,
    hidden: torch.Tensor,
    state: torch.Tensor,
    input_bias: torch.Tensor | None = None,
    hidden_bias: torch.Tensor | None = None,
) -> Tensors:
    """Return the next state of gated recurrent units, and what their gradient is made of."""
    (ir, iz, i), (hr, hz, h) = (
        (gates if bias is None else gates + bias).chunk(3, dim=1)
        for gates, bias in ((inputs, input_bias), (hidden, hidden_bias))
    )
    reset, update = torch.sigmoid(ir + hr), torch.sigmoid(iz + hz)
    new = torch.tanh(i + reset * h)
    return new + update * (state - new), torch.cat([reset, update, new, state, h], dim=1)


def gru_cell_backward(grad: torch.Tensor, made_of: torch.Tensor, has_bias: bool) -> Tensors:
    """Return the gradients of both gates, of the state and of both biases."""
    reset, update, new, state, h = made_of.chunk(5, dim=1)
    of_new = grad * (1 - update) * (1 - new**2)
    of_update = grad * (state - new) * update * (1 - update)
    of_reset = of_new * h * reset * (1 - reset)
    inputs = torch.cat([of_reset, of_update, of_new], dim=1)
    hidden = torch.cat([of_reset, of_update, of_new * reset], dim=1)
    biases = (inputs.sum(dim=0), hidden.sum(dim=0)) if has_bias else (None, None)
    return inputs, hidden, grad * update, *biases


ELSEWHERE = {
    "aten::_thnn_fused_gru_cell": gru_cell,
    "aten::_thnn_fused_gru_cell_backward": gru_cell_backward,
}
"""What devices have kernels of, and the CPU has none."""


def compute(operation: Any, *args: Any, **kwargs: Any) -> Any:
    """Do an operation on the CPU; its result is where the operation's inputs are, or where it was
    asked to be."""
    theirs: list[Pretended] = []
    ours: list[torch.Tensor] = []

    def unwrapped(x: Any) -> Any:
        if isinstance(x, Pretended):
            theirs.append(x)
            return x.here
        if isinstance(x, torch.Tensor) and x.dim() > 0:  # a scalar may be anywhere
            ours.append(x)
        return x

    given, named = tree_map(unwrapped, args), tree_map(unwrapped, kwargs)
    name = operation._schema.name
    if (
        theirs
        and ours
        and name != "aten::copy_"
        and not (name in INDEXED and isinstance(args[0], Pretended))
    ):
        raise RuntimeError(
            f"{name}: expected all tensors to be on the same device, found {NAME} and cpu"
        )
    asked = named.get("device")
    if asked is not None:
        named["device"] = torch.device("cpu")
    elsewhere = torch.device(asked).type == NAME if asked is not None else bool(theirs)
    DONE[name] += elsewhere
    result = ELSEWHERE.get(name, operation)(*given, **named)
    for argument, value in zip(operation._schema.arguments, args, strict=False):
        if argument.alias_info is not None and argument.alias_info.is_write:
            if isinstance(value, Pretended) and torch.Tag.inplace_view in operation.tags:
                with no_dispatch():  # what says that it is elsewhere takes the new shape
                    operation(*args, **kwargs)
            return value if operation._schema.returns else None
    return tree_map(
        lambda x: Pretended(x) if elsewhere and isinstance(x, torch.Tensor) else x, result
    )


def register() -> torch.device:
    """Make the device known to this process, and return it."""
    _setup_privateuseone_for_python_backend(NAME)
    _library.fallback(compute, "PrivateUse1")
    original = torch.tensor

    def tensor(data: Any, *, device: Any = None, **named: Any) -> torch.Tensor:
        return original(data, **named).to(device)  # the original does not come by the fallback

    torch.tensor, torch.Generator = tensor, Generator  # type: ignore[assignment, misc]
    return torch.device(NAME)


def figures(where: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Run a case and return what it wrote, without times, and how many operations were done on the
    device."""
    import tiny
    import tiny_text

    from fedkd.experiment.run import run

    DONE.clear()
    scenario = {"tiny": tiny.scenario, "tiny_text": tiny_text.text_scenario}[where](**changes)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "run"
        run(scenario, folder)
        with (folder / "clients.csv").open(newline="") as file:
            clients = [
                {k: v for k, v in row.items() if "seconds" not in k} for row in csv.DictReader(file)
            ]
        summary = json.loads((folder / "summary.json").read_text())
    kept = {name: summary.get(name) for name in ("knowledge_sha256", "audit")}
    return {"clients": clients, **kept, "operations": sum(DONE.values())}


def refuses(call: Callable[[], object]) -> bool:
    """Whether a call raises torch's error for what a device cannot do."""
    try:
        call()
    except RuntimeError:
        return True
    return False


def main() -> None:
    """Run every case on both devices."""
    import fedkd.experiment.build
    import fedkd.flower.local_grid

    device = register()
    there, found = torch.ones(2, device=device), {}
    assert refuses(lambda: there + torch.ones(2))
    assert refuses(lambda: torch.ones(2)[there.long()])
    assert refuses(there.numpy)
    for name, where, changes in json.load(sys.stdin):
        both = found[name] = {}
        for context in (torch.device("cpu"), device):
            for module in (fedkd.experiment.build, fedkd.flower.local_grid):
                module.choose_device = lambda _, context=context: context  # type: ignore[attr-defined]
            both[context.type] = figures(where, changes)
    sys.stdout.write(f"\n{json.dumps(found)}\n")


if __name__ == "__main__":
    main()
