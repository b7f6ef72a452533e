"""Libraries that only some runs need, each in an extra: ``pip install 'fedkd[ray]'``.

What needs one asks for it by ``require`` before it imports it, so that a run without the library
ends with one line before anything is run.
"""

import importlib.util

from fedkd.errors import SettingError

EXTRAS = {
    "ray": "ray",
    "wandb": "wandb",
    "tensorboardX": "tensorboard",
    "mlflow": "mlflow",
    "opacus": "privacy",
    "dp_accounting": "pld",
    "tokenizers": "text",
    "timm": "timm",
    "torchvision": "torchvision",
    "transformers": "hf",
    "peft": "hf",
    "skops": "skops",
    "xgboost": "xgboost",
    "lightgbm": "lightgbm",
}
"""The extra of each library, by the name that it is imported by."""


def is_installed(library: str) -> bool:
    """Return whether a library can be imported. It is not."""
    try:
        return importlib.util.find_spec(library) is not None
    except (ImportError, ValueError):  # of a name that an import hook or a program has spoiled
        return False


def require(library: str, asked: str) -> None:
    """Raise SettingError where a library is missing, with the line that installs it.

    ``asked`` is what needs it, as in ``engine=ray``.
    """
    if not is_installed(library):
        raise not_installed(asked, library)


def not_installed(asked: str, library: str) -> SettingError:
    """Return the refusal of what needs a library that is missing."""
    return SettingError(
        f"{asked} needs {library}, which is not installed: pip install 'fedkd[{EXTRAS[library]}]'"
    )
