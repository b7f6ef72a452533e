"""Adapters by name: what of a pre-trained model a client trains, keeps and sends.

``none`` trains all of it. ``lora`` (Hu et al. 2022, arXiv 2106.09685; by peft) freezes it, and
trains small matrices beside its linear layers, and its head. The frozen part is no part of a
model's state: it is neither stored nor sent, and the modules of an architecture share its memory.
Not for: loading pre-trained models (``fedkd.models.hugging_face``).
"""

import copy
import threading
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from fedkd.errors import SettingError, one_line
from fedkd.models.factory import borrowed_global_generator
from fedkd.settings.conditions import Compatible, RunConditions
from fedkd.settings.optional_libraries import require
from fedkd.settings.validators import at_least, positive


@runtime_checkable
class Adaptable(Protocol):
    """A model with a pre-trained part that adapters go into."""

    @property
    def pretrained(self) -> nn.Module:
        """The module of the library, whose parts adapters go into."""

    @property
    def new_parameters(self) -> frozenset[str]:
        """The names in ``pretrained`` of what no weights were loaded for: they are drawn."""

    @property
    def head_parameters(self) -> frozenset[str]:
        """The names in ``pretrained`` of the head, which is trained in any case."""


@dataclass
class SharedModel:
    """The one model of an architecture whose frozen tensors all modules of it share."""

    model: nn.Module | None = None
    lock: Any = field(default_factory=threading.Lock, repr=False)

    def get(self, make: Callable[[], nn.Module]) -> nn.Module:
        """Return the model, made when it is first asked for."""
        with self.lock:
            if self.model is None:
                self.model = make()
            return self.model


@runtime_checkable
class Adapters(Compatible, Protocol):
    """Settings of adapters: a frozen value. Derive from it."""

    packages: ClassVar[tuple[str, ...]] = ()
    """The libraries that make them, whose versions figures depend on."""

    @abstractmethod
    def build(self, make: Callable[[], nn.Module], seed: int, shared: SharedModel) -> nn.Module:
        """Return a fresh module whose trained weights depend on ``seed`` alone.

        ``make`` builds the model without adapters by the global generator; ``shared`` is what the
        modules of the architecture have in common.
        """


@dataclass(frozen=True, kw_only=True)
class NoAdapters(Adapters):
    """Train all of every model."""

    def build(self, make: Callable[[], nn.Module], seed: int, shared: SharedModel) -> nn.Module:
        """Return what ``make`` makes."""
        with borrowed_global_generator(seed):
            return make()


@dataclass(frozen=True, kw_only=True)
class Lora(Adapters):
    """Train low-rank matrices beside linear layers, and the head; the rest is frozen and shared."""

    packages: ClassVar[tuple[str, ...]] = ("peft",)

    rank: int = 8
    """Rank of the matrices, >= 1."""
    alpha: float = 16.0
    """Scale of what they add, > 0: it is multiplied by alpha / rank."""
    dropout: float = 0.0
    """Share of their inputs that is dropped in training, from 0 to below 1."""
    layers: tuple[str, ...] | None = None
    """Names of linear layers, as in [query, value]; null is what peft takes for the architecture,
    and all linear layers where it knows none."""

    def __post_init__(self) -> None:
        at_least(1, rank=self.rank)
        positive(alpha=self.alpha)
        at_least(0, dropout=self.dropout)
        if self.dropout >= 1:
            raise SettingError(f"dropout must be below 1, got {self.dropout}")

    def conflict(self, conditions: RunConditions) -> str | None:
        """Return the conflict with data and heads that it is not for, and with estimators."""
        if conditions.data_kind not in ("images", "texts", "labeled texts"):
            return (
                f"adapters=lora does not go with data={conditions.name_of('data')}: it is for"
                " pre-trained models, such as models=[hf:...], of images and texts; leave it out"
            )
        if conditions.is_chosen("heads"):
            return (
                f"adapters=lora trains a model's own head, and heads={conditions.name_of('heads')}"
                " are others; leave one of them out"
            )
        return conditions.conflict_with_estimators(
            "adapters=lora freezes the weights of networks", "leave it out"
        )

    def build(self, make: Callable[[], nn.Module], seed: int, shared: SharedModel) -> nn.Module:
        """Return a module with adapters and a head of its own, and the shared frozen rest."""

        def adapted() -> nn.Module:
            with borrowed_global_generator(0):
                return self._adapt(make())

        model = _copy_sharing(shared.get(adapted))
        with borrowed_global_generator(seed):
            _draw_again(model)
        return model

    def _adapt(self, model: nn.Module) -> nn.Module:
        """Return a model with adapters in its pre-trained part; it trains these and new parts."""
        if not isinstance(model, Adaptable):
            raise SettingError(
                f"adapters=lora is for pre-trained models, models=[hf:FOLDER_OR_ID], and"
                f" {type(model).__name__} is none; leave it out"
            )
        require("peft", "adapters=lora")
        import peft

        base, new = model.pretrained, model.new_parameters
        whole = new | model.head_parameters
        known = peft.utils.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
        kind = getattr(getattr(base, "config", None), "model_type", "")
        linear = _linear_layers(base, whole)
        layers: Any = list(self.layers) if self.layers else known.get(kind) or linear
        if not layers:
            raise SettingError(
                f"adapters=lora adapts linear layers, and {type(base).__name__} has none but its"
                " head; take a transformer, or leave it out"
            )
        config = peft.LoraConfig(
            r=self.rank, lora_alpha=self.alpha, lora_dropout=self.dropout, target_modules=layers
        )
        names = [f".{name}" for name, _ in base.named_modules()]
        strange = [one for one in layers if not any(name.endswith(f".{one}") for name in names)]
        if self.layers and strange:
            raise SettingError(
                f"adapters.layers=[{','.join(strange)}] are no layers of this model; its linear"
                f" layers are {_last_words(linear)}"
            )
        try:
            with warnings.catch_warnings():  # layers of GPT-2 are transposed, and peft sees it
                warnings.simplefilter("ignore")
                peft.inject_adapter_in_model(config, base)
        except ValueError as error:
            asked = f".layers=[{','.join(layers)}]" if self.layers else "=lora"
            raise SettingError(
                f"adapters{asked}: peft does not adapt these layers of {type(base).__name__}"
                f" ({one_line(error, ())}); name others by adapters.layers, of"
                f" {_last_words(linear)}"
            ) from error
        for name, parameter in base.named_parameters():
            parameter.requires_grad_("lora_" in name or name in whole)
        hooked: Any = model  # both methods are without types
        hooked.register_state_dict_post_hook(_leave_out_frozen)
        hooked.register_load_state_dict_post_hook(_miss_no_frozen)
        return model


ADAPTERS: Mapping[str, type[Adapters]] = {"none": NoAdapters, "lora": Lora}


def _last_words(paths: Sequence[str]) -> str:
    return ", ".join(sorted({path.rpartition(".")[2] for path in paths}))


def _linear_layers(base: nn.Module, new: frozenset[str]) -> list[str]:
    """Return the names of a model's linear layers but those that are new.

    PyTorch's own attention reads the weights of its layer without calling it: adapters beside that
    would never be used.
    """
    inside = {
        f"{name}.{child}"
        for name, module in base.named_modules()
        if isinstance(module, nn.MultiheadAttention)
        for child, _ in module.named_modules()
    }
    return [
        name
        for name, module in base.named_modules()
        if isinstance(module, nn.Linear) and f"{name}.weight" not in new and name not in inside
    ]


def _copy_sharing(model: nn.Module) -> nn.Module:
    """Return a copy of a model whose frozen parameters are the same memory as the model's."""
    shared = {
        id(parameter): nn.Parameter(parameter.detach(), requires_grad=False)
        for parameter in model.parameters()
        if not parameter.requires_grad
    }
    return copy.deepcopy(model, shared)


@torch.no_grad()
def _draw_again(model: Any) -> None:
    """Draw the weights of adapters and new parts again, by the global generator."""
    new = {f"pretrained.{name}" for name in model.new_parameters}
    modules: list[Any] = list(model.modules())
    adapted = [module for module in modules if hasattr(module, "reset_lora_parameters")]
    inside = {id(part) for module in adapted for part in module.modules()}
    for module in adapted:
        module.reset_lora_parameters("default", True)
    for path, module in model.named_modules():
        own = {f"{path}.{name}" for name, _ in module.named_parameters(recurse=False)}
        if own & new and id(module) not in inside and hasattr(module, "reset_parameters"):
            module.reset_parameters()


def _frozen(model: nn.Module) -> set[str]:
    """Return the names of the frozen parameters; a tied one has several, and a state each."""
    named = model.named_parameters(remove_duplicate=False)
    return {name for name, parameter in named if not parameter.requires_grad}


def _leave_out_frozen(
    model: nn.Module, state: dict[str, Tensor], prefix: str, metadata: Any
) -> None:
    """Take the frozen parameters out of a model's state; buffers, which training may move, stay.

    Args:
        model: The model.
        state: Its state, changed in place.
        prefix: How the names of its tensors begin.
        metadata: What PyTorch keeps beside it.
    """
    for name in _frozen(model):
        state.pop(f"{prefix}{name}", None)


def _miss_no_frozen(model: nn.Module, keys: Any) -> None:
    """Let a state be loaded that has no frozen parameters."""
    frozen = _frozen(model)
    keys.missing_keys[:] = [name for name in keys.missing_keys if name not in frozen]
