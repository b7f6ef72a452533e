"""Models and strategies that tests name by import path, as a user's own would be."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from fedkd.fusion import mix, uniform_weights
from fedkd.messages import Cohort, Fusion
from fedkd.strategy import Needs


def linear(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(input_shape[0] * input_shape[1] * input_shape[2], classes)
    )


def dropping(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), linear(input_shape, classes)[1])


def with_batch_norm(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    flat = input_shape[0] * input_shape[1] * input_shape[2]
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(flat), nn.Linear(flat, classes))


def one_class_too_many(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return linear(input_shape, classes + 1)


class _Diverged(nn.Module):
    """A model whose logits are NaN in evaluation: training it looks normal, its upload is not."""

    def __init__(self, input_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.inner = linear(input_shape, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.inner(x)
        return logits if self.training else logits * torch.nan


def diverged(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return _Diverged(input_shape, classes)


class _Raising(nn.Module):
    """A model that raises once it is evaluated."""

    def __init__(self, input_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.inner = linear(input_shape, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            raise RuntimeError("this model cannot be evaluated")
        logits: torch.Tensor = self.inner(x)
        return logits


def raising(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return _Raising(input_shape, classes)


@dataclass(frozen=True, kw_only=True)
class Mean:
    """The plain mean of soft labels, personal by name only."""

    scale: float = 1.0
    """Does nothing but be a setting."""

    def fuse(self, cohort: Cohort, state: Any) -> Fusion:
        weights = uniform_weights(cohort.size)
        return Fusion(weights=weights, teachers=mix(weights, cohort.probs))


class Plain:
    """A strategy that is no dataclass and has a setting without a default."""

    def __init__(self, power: int, note: str = "none") -> None:
        self.power = power

    def fuse(self, cohort: Cohort, state: Any) -> Fusion:
        return Mean().fuse(cohort, state)


@dataclass(frozen=True, kw_only=True)
class Labeled(Mean):
    """A strategy that cannot do without the labels of the public set."""

    needs: ClassVar[Needs] = Needs(public_labels=True)

    def fuse(self, cohort: Cohort, state: Any) -> Fusion:
        assert cohort.public_labels is not None
        teachers = nn.functional.one_hot(cohort.public_labels, cohort.values.shape[2]).float()
        return Fusion(weights=uniform_weights(cohort.size), teachers=teachers)


@dataclass(frozen=True, kw_only=True)
class Broken:
    """A strategy that returns logits where it promised soft labels."""

    def fuse(self, cohort: Cohort, state: Any) -> Fusion:
        return Fusion(weights=uniform_weights(cohort.size), teachers=cohort.logits)


@dataclass(frozen=True, kw_only=True)
class Hoarding(Mean):
    """A strategy whose state is a module, which no checkpoint takes."""

    def fuse(self, cohort: Cohort, state: Any) -> Fusion:
        fusion = super().fuse(cohort, state)
        return Fusion(
            weights=fusion.weights, teachers=fusion.teachers, state={"models": [nn.Linear(1, 1)]}
        )


class OfItsOwn(BaseException):
    """What ``except Exception`` does not catch."""


class _Fragile(nn.Module):
    """A model that does what the file named by FEDKD_TEST_TRIGGER says, once, when it is trained
    next."""

    def __init__(self, input_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.inner = linear(input_shape, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            _do(_taken(Path(os.environ.get("FEDKD_TEST_TRIGGER", "nowhere"))))
        logits: torch.Tensor = self.inner(x)
        return logits


def _taken(path: Path) -> str:
    """Return what the file says to the one process that takes it; two that read it at once would
    both fail."""
    mine = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.rename(mine)
    except FileNotFoundError:
        return ""
    what = mine.read_text()
    mine.unlink()
    return what


def _raise(error: BaseException) -> None:
    raise error


DEEDS: dict[str, Callable[[], object]] = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda: sys.exit(3),
    "interrupt": lambda: _raise(KeyboardInterrupt()),
    "generator exit": lambda: _raise(GeneratorExit()),
    "of its own": lambda: _raise(OfItsOwn("neither")),
    "thread": lambda: threading.Thread(target=time.sleep, args=(600,), name="left").start(),
    "child": lambda: subprocess.Popen([sys.executable, "-c", "import time; time.sleep(20)"]),
    "hard exit": lambda: os._exit(3),
    "raise": lambda: _raise(RuntimeError("as the test wants")),
    "memory": lambda: torch.empty(2**50),
    "hang": lambda: time.sleep(600),
    "slow": lambda: time.sleep(5.0),
}
"""What a fragile client can be made to do."""


def _do(what: str) -> None:
    if what in DEEDS:
        DEEDS[what]()


def fragile(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return _Fragile(input_shape, classes)


def deadly(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return _Deadly(input_shape, classes)


class _Deadly(_Fragile):
    """A model that ends the process that trains it, unless it is only tried out."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and len(x) > 2:
            os._exit(4)
        return super().forward(x)
