"""From a model's name to a checked module, built without touching the global random state.

A factory is called with ``(input_shape, classes)`` and returns a module that maps [N, *input_shape]
to logits [N, classes]. ``input_shape`` is (channels, height, width) of images, (channels, length)
of series and (features,) of tables.
"""

import functools
import inspect
import threading
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import nn

from fedkd.errors import FitFailed, SettingError, unexpected
from fedkd.models.features import find_head
from fedkd.models.fitting import FitsItself, empty_fit_data
from fedkd.models.heads import Heads, OneHead
from fedkd.models.libraries import ModelLibrary, library
from fedkd.models.model_names import split_arguments, split_share, with_arguments
from fedkd.models.zoo import BUILT_IN, GROUPS_OF_MODELS, SERIES_ZOO, expanded
from fedkd.settings.import_paths import (
    OWN_PACKAGES,
    import_path,
    is_allowed,
    is_import_path,
    path_of,
    unknown_component,
)
from fedkd.settings.model_prefixes import split_prefix
from fedkd.settings.session_objects import is_session_name

Factory = Callable[[Any, int], nn.Module]

SHAPES = {
    1: "tables [features]",
    2: "series [channels, length]",
    3: "images [channels, height, width]",
}
"""What inputs are, by the length of their shape."""
ANY_SHAPE = ("mlp",)
"""The models of the zoo that take inputs of any shape."""

_global_generator = threading.Lock()


@contextmanager
def borrowed_global_generator(seed: int) -> Iterator[None]:
    """Run a block with torch's global generators seeded, then restore their states.

    They are the CPU's and each GPU's.

    Module constructors and dropout take no generator of their own. One block at a time, for the
    whole process.
    """
    with _global_generator:
        gpus = torch.cuda.default_generators if torch.cuda.is_initialized() else ()
        generators = (torch.default_generator, *gpus)
        before = [generator.get_state() for generator in generators]
        for generator in generators:
            generator.manual_seed(seed)
        try:
            yield
        finally:
            for generator, state in zip(generators, before, strict=True):
                generator.set_state(state)


def import_factory(path: str) -> object:
    """Return the factory at an import path, and call nothing to see what it does.

    It is a class of modules, or something callable that is annotated to return one. A function
    that does not say what it returns will do where somebody vouches for its module: the user who
    typed it, ``trust=true``, an operator. Anybody's folder may name what is in fedkd's own
    packages, so that there nothing passes without its annotation. Raises SettingError.
    """
    factory = import_path(path, what="models")
    trusted = is_session_name(path) or not is_allowed(path, OWN_PACKAGES)
    if not _makes_modules(factory, unsaid=trusted):
        raise SettingError(
            f"models: {path} must be a class of torch.nn.Module, or a function that returns one, as"
            " in def net(input_shape, classes) -> nn.Module (docs/extending.md)"
        )
    return factory


def _makes_modules(factory: Any, *, unsaid: bool) -> bool:
    """Return whether what is callable makes modules; ``unsaid`` where it does not say so."""
    while isinstance(factory, functools.partial):
        factory = factory.func
    if inspect.isclass(factory):
        return issubclass(factory, nn.Module)
    is_object = callable(factory) and not inspect.isroutine(factory)
    function = inspect.unwrap(type(factory).__call__ if is_object else factory)
    if not inspect.isfunction(function):
        return False
    raw = {"return": function.__annotations__.get("return", Any)}
    try:  # apart from its arguments, whose annotations may not be there at run time
        hint = typing.get_type_hints(
            types.SimpleNamespace(__annotations__=raw), function.__globals__
        )["return"]
    except Exception:  # an annotation is any text
        return unsaid
    if hint is Any or not inspect.isclass(hint):
        return unsaid
    return issubclass(hint, nn.Module) or (unsaid and issubclass(nn.Module, hint))


def find_factory(name: str) -> Factory:
    """Return the factory called ``name`` in the zoo, in a library, or at an import path.

    Arguments behind the name are filled in, as in ``zoo:Net(width=32)``.
    """
    path = split_arguments(name)[0]
    if path not in BUILT_IN and not is_import_path(path) and split_prefix(path) is None:
        raise unknown_component("model", path, [*BUILT_IN, *GROUPS_OF_MODELS])
    return cast(Factory, named_factory(name, BUILT_IN, "model", lambda of: of.find))


def named_factory(
    name: str,
    zoo: Mapping[str, Callable[..., nn.Module]],
    kind: str,
    find: Callable[[ModelLibrary], Callable[[str], Callable[..., nn.Module]]],
) -> object:
    """Return the factory of a model, with the arguments that its name carries.

    Args:
        name: The model's name.
        zoo: fedkd's own factories by name.
        kind: What such a model is called, for messages.
        find: Names the method of a library that finds such a factory, by what is behind its prefix.

    Raises:
        SettingError: There is no such factory, or it has no such argument.
    """
    path, arguments = split_arguments(name)
    prefixed = split_prefix(path)
    if prefixed is not None:
        prefix, inside = prefixed
        return with_arguments(find(library(prefix))(inside), arguments, path)
    if not is_import_path(path):
        if path not in zoo:
            raise unknown_component(kind, path, zoo)
        return with_arguments(zoo[path], arguments, path)
    return with_arguments(cast(Any, import_factory(path)), arguments, path)


@runtime_checkable
class ModelSpec(Protocol):
    """What a client's model is built from."""

    @property
    def name(self) -> str:
        """The model's name, or the import path of its factory."""

    def build(self, seed: int) -> nn.Module:
        """Return a fresh module whose initial weights depend on ``seed`` alone."""

    def example(self, count: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """Return inputs that a model takes: random ones, or without a generator the simplest."""

    def probe(self, *, features: bool) -> "ModelInfo":
        """Return what a trial of the model shows; SettingError where it does not fit its task.

        ``features`` asks for its head and the width of what that takes.
        """


@dataclass(frozen=True)
class ImageModelSpec:
    """The specification of an image model: its factory, input shape and number of classes."""

    name: str
    input_shape: tuple[int, ...]
    classes: int
    heads: Heads = field(default_factory=OneHead)
    """What is put on the model beside its own last layer."""

    @property
    def without_heads(self) -> "ImageModelSpec":
        """The same without further heads."""
        return replace(self, heads=OneHead())

    @property
    def arguments(self) -> tuple[object, ...]:
        """What the factory is called with."""
        return self.input_shape, self.classes

    @property
    def is_bare(self) -> bool:
        """Whether the factory's module is the model: it has no further heads."""
        return self.without_heads == self

    def build(self, seed: int) -> nn.Module:
        """Return a fresh module whose initial weights depend on ``seed`` alone.

        The weights below its heads do not depend on the heads.
        """
        factory = find_factory(self.name)
        check_shape(self.name, self.input_shape)
        with borrowed_global_generator(seed):
            model: object = factory(self.input_shape, self.classes)
            if not isinstance(model, nn.Module):
                raise SettingError(
                    f"models: {self.name} must return a torch.nn.Module, got {type(model).__name__}"
                )
            if ":" in path_of(self.name):
                model.register_forward_hook(_logits_of)
            return self.heads.put_on(model, torch.zeros(2, *self.input_shape))

    def example(self, count: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """Return ``count`` images of zeros, or of normal noise."""
        shape = (count, *self.input_shape)
        return torch.zeros(shape) if generator is None else torch.randn(shape, generator=generator)

    def probe(self, *, features: bool) -> "ModelInfo":
        """Return the module function's ``probe`` of the model."""
        return probe(self, features=features)


def check_shape(name: str, input_shape: tuple[int, ...]) -> None:
    """Raise SettingError for a model of the zoo or a library that does not take such inputs."""
    path = path_of(name)
    prefixed = split_prefix(path)
    if is_import_path(path) or (prefixed and library(prefixed[0]).takes_any_shape):
        return  # a factory of one's own takes what it likes
    length = 2 if path in SERIES_ZOO else 3
    if path not in ANY_SHAPE and len(input_shape) != length:
        fitting = [*ANY_SHAPE, *(SERIES_ZOO if len(input_shape) == 2 else ())]
        raise SettingError(
            f"models: {path} is for {SHAPES[length]}, and these are {SHAPES[len(input_shape)]} of"
            f" shape {list(input_shape)}; use {' or '.join(fitting)}, or a function of your own"
            " (docs/extending.md)"
        )


def _logits_of(model: nn.Module, inputs: object, output: object) -> object:
    """Return the logits in what a model puts out, as those of transformers; None for a tensor."""
    return None if isinstance(output, torch.Tensor) else getattr(output, "logits", None)


@dataclass(frozen=True)
class ModelInfo:
    """What a trial of a model shows: its size, and whether its training draws random numbers.

    The numbers are those of torch's global generator.

    ``head`` is the name of the linear layer that puts out the logits, ``features`` the width of
    what it takes; both are None for a model that ends otherwise, and where nobody asked.
    """

    parameters: int
    draws_randomness: bool
    head: str | None = None
    features: int | None = None
    fits_itself: bool = False
    """Whether it is fitted as a whole, without gradients (``fedkd.models.fitting``)."""
    sums_to_one: bool = False
    """Whether rows of outputs are probabilities, as after a softmax, where logits are expected."""


def probe(architecture: ImageModelSpec, *, features: bool = False) -> ModelInfo:
    """Build a model, run one batch through it, and return its size and traits.

    Its head and the width of its features are looked for only where ``features`` matter.

    Raises SettingError where the factory fails, returns no module, or the output is not [N,
    classes].
    """
    where = f"models: {architecture.name}"
    if architecture.without_heads != architecture:
        probe(architecture.without_heads)  # what is wrong without heads is said first
    model = built_on_trial(architecture)
    if isinstance(model, FitsItself):
        return probe_fit(model, where, architecture.input_shape, architecture.classes)
    return image_traits(model, architecture, features=features)


def image_traits(model: nn.Module, spec: ImageModelSpec, *, features: bool) -> ModelInfo:
    """Run two images through a model that ``spec`` describes, and return its size and traits."""
    shape, classes = spec.input_shape, spec.classes
    return traits_of(
        model,
        spec.example(2),
        (2, classes),
        where=f"models: {spec.name}",
        takes="a batch",
        maps=f"[N, {', '.join(map(str, shape))}] to logits [N, C] with C = {classes}; for N = 2",
        features=features,
    )


def built_on_trial(architecture: ModelSpec) -> nn.Module:
    """Return a fresh model; SettingError, which names it, where it cannot be built."""
    try:
        return architecture.build(seed=0)
    except SettingError:
        raise
    except Exception as error:
        said = f"models: {architecture.name} could not be built: {type(error).__name__}: {error}"
        raise unexpected(SettingError(said)) from error


def traits_of(
    model: nn.Module,
    batch: torch.Tensor,
    expected: tuple[int, int],
    *,
    where: str,
    takes: str,
    maps: str,
    features: bool,
) -> ModelInfo:
    """Run one batch through a model that is trained by gradients, and return its size and traits.

    Raises SettingError where it fails, or its output is of another shape.

    Args:
        model: The model.
        batch: Inputs.
        expected: The shape of their logits.
        where: What errors begin with.
        takes: What the batch is called.
        maps: What it must map, and how the outputs of two inputs are spoken of.
        features: Whether its head and the width of its features are looked for.
    """
    with borrowed_global_generator(0):
        before = torch.get_rng_state()
        try:
            logits = model.train()(batch)
        except Exception as error:
            raise unexpected(
                SettingError(
                    f"{where} fails on {takes} of shape {list(batch.shape)}:"
                    f" {type(error).__name__}: {error}"
                )
            ) from error
        draws_randomness = not torch.equal(before, torch.get_rng_state())
    shape = tuple(getattr(logits, "shape", ())) or type(logits).__name__
    if shape != expected:
        raise SettingError(f"{where} must map {maps} it returned {shape}")
    if not any(p.requires_grad for p in model.parameters()):
        raise SettingError(f"{where} has no trainable parameter")
    head = None
    if features:
        with borrowed_global_generator(0), torch.no_grad():
            head = find_head(model.eval(), batch)
    layer = model.get_submodule(head) if head is not None else None
    return ModelInfo(
        parameters=sum(p.numel() for p in model.parameters()),
        draws_randomness=draws_randomness,
        head=head,
        features=layer.in_features if isinstance(layer, nn.Linear) else None,
        sums_to_one=sums_to_one(logits),
    )


def probe_fit(
    model: nn.Module, where: str, input_shape: tuple[int, ...], classes: int
) -> ModelInfo:
    """Fit a model to a few rows of noise, and return its traits; SettingError where that fails.

    Args:
        model: It.
        where: What errors begin with.
        input_shape: The shape of one input.
        classes: C.
    """
    assert isinstance(model, FitsItself), "asked before"
    noise = torch.Generator().manual_seed(0)
    inputs = torch.randn(2 * classes, *input_shape, generator=noise)
    labels = torch.arange(2 * classes) % classes
    few = replace(empty_fit_data(input_shape, classes), inputs=inputs, labels=labels)
    model.learn(lambda: few, 0)
    try:
        model(inputs[:2])
    except FitFailed as error:
        raise SettingError(str(error)) from error
    except Exception as error:
        raise unexpected(
            SettingError(f"{where} cannot predict: {type(error).__name__}: {error}")
        ) from error
    return ModelInfo(parameters=0, draws_randomness=False, fits_itself=True)


def sums_to_one(outputs: torch.Tensor) -> bool:
    """Return whether all rows of outputs are at least 0 and sum to 1.

    >>> sums_to_one(torch.tensor([[0.2, 0.8]])), sums_to_one(torch.tensor([[-1.0, 2.0]]))
    (True, False)
    """
    sums = outputs.sum(dim=-1)
    return bool((outputs >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-4)


def assign(models: tuple[str, ...], clients: int) -> tuple[str, ...]:
    """Return each client's model by name, those of a group by their own.

    Names are taken in turn; ``name*share`` gives explicit shares of the clients.

    Shares are split by largest remainder and laid out in the order of the list, so that ``mlp*7,
    cnn*7, resnet*6`` over 20 clients is seven, seven and six.

    >>> assign(("mlp", "cnn"), 3)
    ('mlp', 'cnn', 'mlp')
    >>> assign(("mlp*3", "cnn*1"), 4)
    ('mlp', 'mlp', 'mlp', 'cnn')
    """
    if not models:
        raise SettingError("models must name at least one model")
    shares = [split_share(model) for model in expanded(models)]
    given = [share is not None for _, share in shares]
    if not any(given):
        return tuple(shares[i % len(shares)][0] for i in range(clients))
    if not all(given):
        raise SettingError(
            f"models: give every model a share (name*share) or none, got {', '.join(models)}"
        )
    exact = [share * clients / sum(s for _, s in shares if s) for _, share in shares if share]
    counts = [int(x) for x in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
    for i in by_remainder[: clients - sum(counts)]:
        counts[i] += 1
    return tuple(
        name for (name, _), count in zip(shares, counts, strict=True) for _ in range(count)
    )
