"""Prefixes of models from other libraries, as in ``timm:resnet18``, and who finds such models.

A prefix is no import path: nothing is imported but the library that it stands for. Not for: the
libraries themselves, each of which is a module in the room of what it is for.
"""

from collections.abc import Mapping

LIBRARIES: Mapping[str, str] = {
    "hf": "fedkd.models.hugging_face:HuggingFaceModels",
    "timm": "fedkd.models.timm_models:TimmModels",
    "torchvision": "fedkd.models.torchvision_models:TorchvisionModels",
    "sklearn": "fedkd.models.estimators.estimator_libraries:SklearnEstimators",
    "xgboost": "fedkd.models.estimators.estimator_libraries:XgboostEstimators",
    "lightgbm": "fedkd.models.estimators.estimator_libraries:LightgbmEstimators",
}
"""By prefix: the class of the library's models (``fedkd.models.libraries.ModelLibrary``). It is
imported when a model of the library is first named."""


def split_prefix(name: str) -> tuple[str, str] | None:
    """Return the prefix of a model's name and what is behind it; None where it has none.

    >>> split_prefix("timm:resnet18(pretrained=true)"), split_prefix("my_module:net")
    (('timm', 'resnet18(pretrained=true)'), None)
    """
    prefix, colon, rest = name.partition(":")
    return (prefix, rest) if colon and prefix in LIBRARIES else None
