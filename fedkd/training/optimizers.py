"""The optimizer of a phase: PyTorch's Adam, AdamW or SGD, with its state as named tensors.

The steps are PyTorch's own functions, which its optimizer classes call too, with the classes'
defaults: the bits are those of the classes. The classes would load PyTorch's compiler, 70 MB and a
second in every process, which nothing here uses. Adam on a CPU is
``fedkd.training.cpu_adam``, to the same bits. For a library that wraps a
``torch.optim.Optimizer``, ``as_torch`` makes one.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from fedkd.training import cpu_adam
from fedkd.training.hyperparameters import Phase


def is_fused(parameters: Sequence[Tensor]) -> bool:
    """Return whether Adam steps parameters in one kernel: on NVIDIA's GPUs.

    Elsewhere it would round in another way than clients one by one do.
    """
    return bool(parameters) and all(parameter.device.type == "cuda" for parameter in parameters)


class Optimizer:
    """An optimizer over the parameters that are trained; a step skips those without a gradient.

    ``state`` is empty for a parameter before its first step; ``learning_rate`` is that of the next
    step. Parameters of the head come last, and are stepped at the phase's rate for it.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        phase: Phase,
        head: Iterable[nn.Parameter] = (),
    ) -> None:
        """Start without state, with the phase's rule and settings.

        ``head`` are those of the parameters that have a rate of their own.
        """
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        last = {id(parameter) for parameter in head}
        self.parameters = sorted(trained, key=lambda parameter: id(parameter) in last)
        self.head_from = len(trained) - sum(id(parameter) in last for parameter in trained)
        self.phase = phase
        self.learning_rate = phase.learning_rate
        self.is_fused = is_fused(self.parameters)
        self.on_cpu = not self.is_fused and all(
            parameter.device.type == "cpu" for parameter in self.parameters
        )
        self.groups = self._groups()
        """The parameters of one rate by their indices, and that rate as a multiple."""
        self._state: list[dict[str, Tensor]] = [{} for _ in self.parameters]
        self._counts: dict[int, float] = {}
        """By index: steps of Adam that ``_state`` does not yet say."""

    @property
    def state(self) -> list[dict[str, Tensor]]:
        """The tensors of each parameter."""
        for i, count in self._counts.items():
            self._state[i]["step"].fill_(count)
        self._counts = {}
        return self._state

    @state.setter
    def state(self, state: list[dict[str, Tensor]]) -> None:
        self._state, self._counts = state, {}

    def zero_grad(self) -> None:
        """Remove the parameters' gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def step(self) -> None:
        """Change the parameters in place by their gradients."""
        with torch.no_grad():
            for indices, factor in self.groups:
                self._step(indices, self.learning_rate * factor)

    def _groups(self) -> list[tuple[range, float]]:
        count, rate = len(self.parameters), self.phase.head_learning_rate
        if rate is None or self.head_from == count:
            return [(range(count), 1.0)]
        own = rate / self.phase.learning_rate
        return [(range(self.head_from), 1.0), (range(self.head_from, count), own)]

    def _step(self, indices: range, learning_rate: float) -> None:
        """Step the parameters of some indices."""
        moved = [i for i in indices if self.parameters[i].grad is not None]
        parameters: list[Tensor] = [self.parameters[i] for i in moved]
        gradients = [gradient for i in moved if (gradient := self.parameters[i].grad) is not None]
        for i in moved:
            self._state[i] = self._state[i] or self._blank(self.parameters[i])
        states, phase = [self._state[i] for i in moved], self.phase
        if phase.optimizer == "sgd":
            momentum = phase.momentum or 0.0
            buffers = [state.get("momentum_buffer") for state in states]
            sgd(
                parameters,
                gradients,
                buffers,
                lr=learning_rate,
                weight_decay=phase.weight_decay,
                momentum=momentum,
                dampening=0.0,
                nesterov=False,
                maximize=False,
            )
        elif self.on_cpu:
            for i in moved:
                made = self._counts[i] if i in self._counts else self._state[i]["step"].item()
                self._counts[i] = made + 1
            cpu_adam.step_all(
                parameters,
                gradients,
                states,
                [self._counts[i] for i in moved],
                learning_rate=learning_rate,
                weight_decay=phase.weight_decay,
                decoupled=phase.optimizer == "adamw",
            )
        else:
            adam(
                parameters,
                gradients,
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                [state["step"] for state in states],
                lr=learning_rate,
                weight_decay=phase.weight_decay,
                decoupled_weight_decay=phase.optimizer == "adamw",
                beta1=cpu_adam.BETA1,
                beta2=cpu_adam.BETA2,
                eps=cpu_adam.EPSILON,
                amsgrad=False,
                maximize=False,
                foreach=None if self.is_fused else False,
                fused=self.is_fused or None,
            )

    def _home_of_steps(self, parameter: Tensor) -> torch.device:
        """Return where Adam's count of steps is: with the parameter where a kernel reads it."""
        return parameter.device if self.is_fused else torch.device("cpu")

    def _blank(self, parameter: Tensor) -> dict[str, Tensor]:
        """Return a parameter's state before its first step: zeros."""
        if self.phase.optimizer == "sgd":
            return {"momentum_buffer": torch.zeros_like(parameter)} if self.phase.momentum else {}
        return {
            "step": torch.zeros((), device=self._home_of_steps(parameter)),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }

    def tensors(self) -> dict[str, Tensor]:
        """Return the state as tensors named ``<index of the parameter>/<name>``.

        It is empty before the first step.

        >>> weight = nn.Parameter(torch.zeros(2))
        >>> optimizer = Optimizer([weight], Phase(optimizer="sgd", learning_rate=1.0, momentum=0.5))
        >>> weight.sum().backward()
        >>> optimizer.step()
        >>> {name: tensor.tolist() for name, tensor in optimizer.tensors().items()}
        {'0/momentum_buffer': [1.0, 1.0]}
        """
        return {
            f"{i}/{name}": tensor
            for i, state in enumerate(self.state)
            for name, tensor in state.items()
        }

    def blank(self) -> dict[str, Tensor]:
        """Return the state of a new optimizer, with the names of ``tensors``: zeros."""
        fresh = [self._blank(parameter.detach()) for parameter in self.parameters]
        return {
            f"{i}/{name}": tensor for i, state in enumerate(fresh) for name, tensor in state.items()
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace the state by one that ``tensors`` or ``blank`` returned.

        The tensors are copied to the parameters' device.
        """
        for name, tensor in tensors.items():
            i, _, key = name.partition("/")
            parameter = self.parameters[int(i)]
            home = self._home_of_steps(parameter) if key == "step" else parameter.device
            self.state[int(i)][key] = tensor.to(home, copy=True)

    def as_torch(self) -> torch.optim.Optimizer:
        """Return PyTorch's optimizer of the same settings and state; ``take`` is the way back."""
        rate, decay = self.phase.learning_rate, self.phase.weight_decay
        grouped = [
            {"params": [self.parameters[i] for i in indices], "lr": rate * factor}
            for indices, factor in self.groups
        ]
        made: torch.optim.Optimizer
        if self.phase.optimizer == "sgd":
            made = torch.optim.SGD(
                grouped, lr=rate, momentum=self.phase.momentum or 0.0, weight_decay=decay
            )
        elif self.phase.optimizer == "adam":
            made = torch.optim.Adam(
                grouped, lr=rate, weight_decay=decay, fused=self.is_fused or None
            )
        else:
            made = torch.optim.AdamW(
                grouped, lr=rate, weight_decay=decay, fused=self.is_fused or None
            )
        state = {i: dict(known) for i, known in enumerate(self.state) if known}
        made.load_state_dict({**made.state_dict(), "state": state})
        return made

    def take(self, stepped: torch.optim.Optimizer) -> None:
        """Replace the state by that of an optimizer that ``as_torch`` made."""
        for i, known in stepped.state_dict()["state"].items():
            self.state[i] = dict(known)
