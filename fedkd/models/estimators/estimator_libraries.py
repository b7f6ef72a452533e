"""Which estimators there are, by library: ``sklearn:``, ``xgboost:``, ``lightgbm:``.

Any classifier that takes weights of rows and predicts probabilities. What fedkd decides itself (the
random state, one core) is refused as an argument. Not for: fitting (``estimator_module``).
"""

import importlib
import inspect
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from fedkd.errors import SettingError, unexpected, unknown_name
from fedkd.models.estimators.estimator_module import EstimatorModule
from fedkd.models.libraries import ModelLibrary, library, loaded
from fedkd.models.model_names import written
from fedkd.settings.optional_libraries import require

_ONE_CORE = "an estimator computes on one core, so that figures repeat; clients run side by side"
DECIDED: Mapping[str, str] = {
    "random_state": "it comes from the run's seed",
    "seed": "it comes from the run's seed",
    "n_jobs": _ONE_CORE,
    "nthread": _ONE_CORE,
    "num_threads": _ONE_CORE,
    "warm_start": "each fit begins anew",
}
"""Arguments that nobody may give, and why."""
NO_PROBABILITIES = "predicts no probabilities, which are what clients exchange"


class EstimatorLibrary(ModelLibrary):
    """A library of estimators."""

    prefix: ClassVar[str]
    """What its names begin with."""
    modules: ClassVar[tuple[str, ...]]
    """Where its classifiers stand."""
    fixed: ClassVar[Mapping[str, Any]] = {}
    """Arguments that its estimators have unless they are given others."""
    fits_itself: ClassVar[bool] = True
    takes_any_shape: ClassVar[bool] = True

    @abstractmethod
    def write(self, fitted: Any, folder: Path) -> tuple[str, str]:
        """Write an estimator; return lines that import, and lines that return its prediction.

        The latter stand in a function; ``HERE`` is the folder.
        """

    def find(self, name: str) -> Callable[..., nn.Module]:
        """Return the factory of a classifier by the name of its class. Raises SettingError."""
        _classifier(self, name)
        return partial(make_module, self.prefix, name)


@dataclass(frozen=True)
class LibraryEstimator:
    """A classifier of a library with arguments."""

    library: EstimatorLibrary
    cls: type
    arguments: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Its name with prefix and arguments."""
        return written({"name": f"{self.library.prefix}:{self.cls.__name__}", **self.arguments})

    def make(self, seed: int) -> Any:
        """Return a new estimator."""
        known = _parameters(self.cls)
        own = {"random_state": seed % 2**31, "n_jobs": 1}
        own = {name: value for name, value in own.items() if name in known}
        return self.cls(**{**self.library.fixed, **self.arguments, **own})

    def write(self, fitted: Any, folder: Path) -> tuple[str, str]:
        """Write a fitted estimator, as its library does."""
        return self.library.write(fitted, folder)


def make_module(
    prefix: str, name: str, input_shape: object, classes: int, **arguments: Any
) -> nn.Module:
    """Return an estimator that was taught nothing; SettingError where it cannot be made.

    Args:
        prefix: That of its library.
        name: The name of its class.
        input_shape: The shape of one input, of which an estimator sees the flat numbers.
        classes: C.
        **arguments: Those of the class.
    """
    where = library(prefix)
    assert isinstance(where, EstimatorLibrary), "its prefix says so"
    cls = _classifier(where, name)
    known = _parameters(cls)
    for argument in arguments:
        if argument in DECIDED:
            raise SettingError(
                f"models: leave {argument} of {prefix}:{name} out: {DECIDED[argument]}"
            )
        if argument not in known:
            free = [one for one in known if one not in DECIDED]
            raise unknown_name(f"argument of {prefix}:{name}", argument, free)
    maker = LibraryEstimator(where, cls, arguments)
    try:
        predicts = hasattr(maker.make(0), "predict_proba")
    except Exception as error:
        raise unexpected(
            SettingError(f"models: {maker.name} cannot be made: {type(error).__name__}: {error}")
        ) from error
    if not predicts:  # with these arguments
        raise SettingError(f"models: {maker.name} {NO_PROBABILITIES}; use another classifier")
    return EstimatorModule(maker, classes)


def _parameters(cls: Any) -> list[str]:
    """Return the names of a class's arguments."""
    try:
        return sorted(cls().get_params(deep=False))
    except TypeError:  # it cannot be made without some
        return sorted(set(inspect.signature(cls).parameters))


def _classes(where: EstimatorLibrary) -> Iterator[tuple[str, type]]:
    """Return the classifiers of a library by name, module by module."""
    from sklearn.base import ClassifierMixin

    for module in map(importlib.import_module, where.modules):
        for name in getattr(module, "__all__", dir(module)):
            found = getattr(module, name, None)
            if inspect.isclass(found) and issubclass(found, ClassifierMixin):
                yield name, found


def _classifier(where: EstimatorLibrary, name: str) -> type:
    """Return a classifier that can learn from soft labels, by name. Raises SettingError."""
    shown = f"{where.prefix}:{name}"
    loaded(where.package, f"models={shown}")
    found = next((cls for known, cls in _classes(where) if known == name), None)
    if found is None:
        usable = [known for known, cls in _classes(where) if _lacks(cls) is None]
        raise unknown_name(f"classifier of {where.package}", name, usable)
    lacks = _lacks(found)
    if lacks is not None:
        raise SettingError(f"models: {shown} {lacks}; use another classifier")
    return found


def _lacks(cls: Any) -> str | None:
    """Return what keeps a classifier from taking part; None if nothing does."""
    if not hasattr(cls, "predict_proba"):
        return NO_PROBABILITIES
    if "sample_weight" not in inspect.signature(cls.fit).parameters:
        return "takes no weights of rows (sample_weight), by which it would learn from soft labels"
    return None


class SklearnEstimators(EstimatorLibrary):
    """Classifiers of scikit-learn."""

    package, prefix = "sklearn", "sklearn"
    modules = tuple(
        f"sklearn.{name}"
        for name in (
            *("ensemble", "tree", "linear_model", "naive_bayes", "svm", "neural_network"),
            *("discriminant_analysis", "gaussian_process", "neighbors"),
        )
    )

    def write(self, fitted: Any, folder: Path) -> tuple[str, str]:
        """Write it by skops, whose files hold no code, and name the types that a reader trusts."""
        require("skops", f"the export of an estimator of {self.package}")
        import skops.io

        path = folder / "model.skops"
        skops.io.dump(fitted, path)
        trusted = skops.io.get_untrusted_types(file=path)
        return (
            "import skops.io",
            f'    trusted = {trusted!r}\n    return skops.io.load(HERE / "model.skops",'
            " trusted=trusted).predict_proba",
        )


class XgboostEstimators(EstimatorLibrary):
    """Classifiers of XGBoost."""

    package, prefix, modules = "xgboost", "xgboost", ("xgboost",)
    fixed: ClassVar[Mapping[str, Any]] = {"verbosity": 0}

    def write(self, fitted: Any, folder: Path) -> tuple[str, str]:
        """Write it as XGBoost's own JSON."""
        fitted.save_model(folder / "model.json")
        return (
            "import xgboost",
            f"    estimator = xgboost.{type(fitted).__name__}()\n"
            '    estimator.load_model(HERE / "model.json")\n    return estimator.predict_proba',
        )


class LightgbmEstimators(EstimatorLibrary):
    """Classifiers of LightGBM."""

    package, prefix, modules = "lightgbm", "lightgbm", ("lightgbm",)
    fixed: ClassVar[Mapping[str, Any]] = {
        "verbose": -1,
        "deterministic": True,
        "force_row_wise": True,
    }

    def write(self, fitted: Any, folder: Path) -> tuple[str, str]:
        """Write it as LightGBM's own text."""
        fitted.booster_.save_model(folder / "model.txt")
        return (
            "import lightgbm",
            '    return lightgbm.Booster(model_file=HERE / "model.txt").predict',
        )
