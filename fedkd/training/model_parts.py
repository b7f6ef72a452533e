"""The parts of a model that a phase trains: frozen modules, and the head at a rate of its own.

The head is the last linear layer, the backbone all else. Not for: finding the head
(``fedkd.models.features``).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn

from fedkd.errors import SettingError
from fedkd.training.hyperparameters import BACKBONE, Phase


def frozen_modules(model: nn.Module, phase: Phase, head: str | None) -> dict[str, nn.Module]:
    """Return the modules that a phase does not train, by name, and none inside another.

    ``head`` is the name of the last linear layer.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> list(frozen_modules(model, Phase(freeze=("backbone",)), "2"))
    ['0', '1']
    """
    modules = dict(model.named_modules())
    names = {name for name in phase.frozen_names if name != BACKBONE}
    if BACKBONE in phase.freeze and head is not None:
        names |= {name for name in modules if name and name != head and not _holds(name, head)}
    outermost = [name for name in names if not any(_holds(other, name) for other in names)]
    return {name: modules[name] for name in modules if name in outermost}


def _holds(outer: str, inner: str) -> bool:
    """Return whether a module's name is that of one that holds another."""
    return inner.startswith(f"{outer}.")


def frozen_parameters(model: nn.Module, phase: Phase, head: str | None) -> list[nn.Parameter]:
    """Return the parameters that a phase does not train; ``head`` is the last linear layer."""
    if BACKBONE in phase.freeze and head is not None:
        return [p for name, p in model.named_parameters() if not _holds(head, name)]
    modules = frozen_modules(model, phase, head).values()
    return [parameter for module in modules for parameter in module.parameters()]


@contextmanager
def partly_frozen(model: nn.Module, phase: Phase, head: str | None) -> Iterator[None]:
    """Leave parts of a model untrained while the block lasts, statistics of BatchNorm included.

    Args:
        model: The model.
        phase: Says which parts.
        head: The name of its last linear layer.
    """
    if not phase.freeze:
        yield
        return
    found = frozen_parameters(model, phase, head)
    parameters = [parameter for parameter in found if parameter.requires_grad]
    modules = list(frozen_modules(model, phase, head).values())
    for parameter in parameters:
        parameter.requires_grad_(False)
    for module in modules:
        module.eval()
        vars(module)["train"] = partial(_stay, module)
    try:
        yield
    finally:
        for module in modules:
            del vars(module)["train"]
        for parameter in parameters:
            parameter.requires_grad_(True)


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    """Return a module as it is, though its model, whose ``train`` asks each module, is to train."""
    return module


def head_parameters(model: nn.Module, phase: Phase, head: str | None) -> list[nn.Parameter]:
    """Return the parameters of the head where it has a learning rate of its own, else none.

    Args:
        model: The model.
        phase: Says whether it has.
        head: The name of its last linear layer.
    """
    if phase.head_learning_rate is None or head is None:
        return []
    return list(model.get_submodule(head).parameters())


def check_parts(model: nn.Module, name: str, phase: Phase, section: str, head: str | None) -> None:
    """Raise SettingError where a model does not have the parts that a phase names.

    Args:
        model: The model.
        name: The architecture's, for errors.
        phase: The settings.
        section: That they are in.
        head: The name of the last linear layer; None where there is none.
    """
    asks = "freeze=backbone" if BACKBONE in phase.freeze else "head_learning_rate"
    if phase.asks_for_head and head is None:
        raise SettingError(
            f"{section}.{asks} needs a linear layer that puts out the logits, and {name} has none"
            " (heads of a run may be several); leave it out"
        )
    if phase.head_learning_rate is not None and not head_parameters(model, phase, head):
        raise SettingError(
            f"{section}.head_learning_rate would do nothing: the last layer of {name} is frozen;"
            " leave it out"
        )
    known = dict(model.named_modules())
    for one in phase.frozen_names:
        if one != BACKBONE and one not in known:
            top = ", ".join(key for key, _ in model.named_children())
            raise SettingError(
                f"{section}.freeze: {name} has no module {one!r}; it has {top}, and backbone is all"
                " but its last linear layer"
            )
    with partly_frozen(model, phase, head):
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise SettingError(
                f"{section}.freeze={list(phase.frozen_names)} leaves {name} untrained"
            )
