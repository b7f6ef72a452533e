"""The seam of models from other libraries: a prefix before the name chooses one.

A library is one class and one line of ``fedkd.settings.model_prefixes``. Arguments behind a model's
name are filled in for it, as for any factory. Not for: one's own factories, which have import paths
(``fedkd.models.factory``).
"""

import difflib
import hashlib
import importlib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast, runtime_checkable

import torch
from torch import nn

from fedkd.errors import SettingError
from fedkd.models.model_names import split_arguments, split_share
from fedkd.settings.import_paths import imported
from fedkd.settings.model_prefixes import LIBRARIES, split_prefix
from fedkd.settings.optional_libraries import require

if TYPE_CHECKING:
    from fedkd.models.factory import ModelSpec


@runtime_checkable
class ModelLibrary(Protocol):
    """Models of one library. Derive from it."""

    package: ClassVar[str]
    """The name that the library is imported by."""
    takes_any_shape: ClassVar[bool] = False
    """Whether its models take any numbers, rather than images alone."""
    fits_itself: ClassVar[bool] = False
    """Whether its models are fitted as a whole (``fedkd.models.fitting``)."""

    @abstractmethod
    def find(self, name: str) -> Callable[..., nn.Module]:
        """Return the factory of a model by the library's own name, without prefix and arguments.

        It is called with the shape of one input, the number of classes and the arguments that are
        written behind the name. Make it of a function of a module by ``functools.partial``, so that
        caches know it again in another process. Raises SettingError for an unknown model, or where
        the library is missing.
        """

    def find_classifier(self, name: str) -> Callable[..., nn.Module]:
        """Return the factory of a classifier of texts; SettingError where there are none.

        It is called with (the tokenizer's size, the longest text, the padding token) and the number
        of classes.
        """
        raise self._has_none(name, "texts")

    def find_language_model(self, name: str) -> Callable[..., nn.Module]:
        """Return the factory of a model of next tokens; SettingError where there are none.

        It is called with the tokenizer's size and the longest text.
        """
        raise self._has_none(name, "next tokens")

    def tokenizer(self, name: str) -> Any:
        """Return the tokenizer of a model of texts, as classes and as next tokens need it.

        It is a ``fedkd.tasks.text.encoded_texts.TextEncoder`` and a ``Vocabulary``.
        """
        raise self._has_none(name, "texts")

    def is_pretrained(self, arguments: Mapping[str, object]) -> bool:
        """Return whether a model with such arguments begins with weights that were learned."""
        return False

    def _has_none(self, name: str, what: str) -> SettingError:
        return SettingError(
            f"models: {name} is of {self.package}, which has no models of {what} here; take"
            " models=[hf:FOLDER_OR_ID]"
        )

    def content_key(self, name: str) -> str | None:
        """Return a key of a model's files, where it is of files that may change; None if not."""
        return None

    def whole_name(self, name: str) -> str:
        """Return the name by which a model is found from any folder; by default as it is."""
        return name

    def spec(self, name: str, input_shape: tuple[int, ...], classes: int) -> "ModelSpec | None":
        """Return the specification of a model that needs its own; None for that of its task.

        Args:
            name: The model's whole name, with prefix and arguments.
            input_shape: The shape of one input.
            classes: C.
        """
        return None


@cache
def library(prefix: str) -> ModelLibrary:
    """Return the library behind a prefix."""
    module, _, cls = LIBRARIES[prefix].partition(":")
    return cast(ModelLibrary, getattr(importlib.import_module(module), cls)())


def own_spec(name: str, input_shape: tuple[int, ...], classes: int) -> "ModelSpec | None":
    """Return the specification that a model's library has for it; None for that of its task.

    Args:
        name: The model's whole name.
        input_shape: The shape of one input.
        classes: C.
    """
    found = split_prefix(name)
    return None if found is None else library(found[0]).spec(name, input_shape, classes)


def library_versions(names: Iterable[str], others: Iterable[str] = ()) -> dict[str, str]:
    """Return the version of each library that models are from, by the library's name.

    ``others`` are libraries that change these models.
    """
    packages = {library(found[0]).package for name in names if (found := split_prefix(name))}
    packages |= set(others)
    return {
        package: str(getattr(importlib.import_module(package), "__version__", "unknown"))
        for package in sorted(packages)
    }


def model_contents(specs: Iterable["ModelSpec"]) -> dict[str, str]:
    """Return a key of the files or the weights that models begin with, by the models' names.

    A model of files has the key of these; another one that begins with weights that were learned,
    wherever its library has them from, a hash of these. Others have none.
    """
    found = {}
    for spec in {spec.name: spec for spec in specs}.values():
        path, arguments = split_arguments(spec.name)
        if (prefixed := split_prefix(path)) is None:
            continue
        made_by = library(prefixed[0])
        key = made_by.content_key(prefixed[1])
        if key is None and made_by.is_pretrained(arguments):
            key = _weights_hash(spec.build(seed=0))
        if key is not None:
            found[spec.name] = key
    return dict(sorted(found.items()))


def _weights_hash(model: nn.Module) -> str:
    """Return a hash of a model's parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def whole_name(name: str) -> str:
    """Return the name of a model, with its arguments, by which it is found from any folder."""
    path = split_arguments(name)[0]
    found = split_prefix(path)
    if found is None:
        return name
    return f"{found[0]}:{library(found[0]).whole_name(found[1])}{name.removeprefix(path)}"


def fitted_models(models: Iterable[str]) -> tuple[str, ...]:
    """Return those of a setting's models that are fitted as a whole, by name without share."""
    names = dict.fromkeys(split_share(model)[0] for model in models)
    prefixes = {name: split_prefix(name) for name in names}
    return tuple(n for n, found in prefixes.items() if found and library(found[0]).fits_itself)


def unknown_model(package: str, name: str, names: Iterable[str], listed_by: str) -> SettingError:
    """Return the error for a model that a library, which may have very many, does not have.

    Args:
        package: The library.
        name: The model's name.
        names: Those that it has.
        listed_by: What in Python lists them.
    """
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
    return SettingError(f"unknown model of {package} {name!r}{hint} {listed_by} lists all")


def loaded(package: str, asked: str) -> Any:
    """Return a library's module; SettingError where it is missing or cannot be imported.

    ``asked`` is what needs it, as in ``models=timm:resnet18``.
    """
    require(package, asked)
    return imported(package, asked)
