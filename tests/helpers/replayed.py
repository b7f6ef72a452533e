"""A recorder of operations on the CPU that behaves as a CUDA graph does.

What a call did is done again by ``replay``: the same operations, on the same memory, with the same
numbers, whatever Python would decide now. While it records, nothing is computed to stay, and a
value that Python reads is refused.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tape(TorchDispatchMode):
    """Keeps the operations within the context, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[Any, Any, Any, Any]] = []
        self.before: dict[int, tuple[Tensor, Tensor]] = {}
        """By storage: the memory that was written into, and its values before."""

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if operation in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default):
            raise RuntimeError(f"{operation} makes the host wait, which no graph can")
        for given, value in zip(operation._schema.arguments, args, strict=False):
            if given.alias_info is not None and given.alias_info.is_write:
                for tensor in tensors_of(value):
                    storage = tensor.untyped_storage()
                    whole = torch.empty(0, dtype=tensor.dtype).set_(
                        storage, 0, (len(storage) // tensor.element_size(),)
                    )
                    self.before.setdefault(storage.data_ptr(), (whole, whole.clone()))
        found = operation(*args, **kwargs)
        self.done.append((operation, args, kwargs, found))
        return found

    def undo(self) -> None:
        for whole, before in self.before.values():
            whole.copy_(before)

    def replay(self) -> None:
        with torch.no_grad():
            for operation, args, kwargs, found in self.done:
                again = operation(*args, **kwargs)
                for kept, new in zip(tensors_of(found), tensors_of(again), strict=True):
                    if kept.data_ptr() != new.data_ptr():
                        kept.copy_(new)


def tensors_of(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def record_on_cpu(call: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """As ``fedkd.federation.step_graphs.record``."""
    tape = Tape()
    with tape:
        found = call()
    tape.undo()
    return tape.replay, found
