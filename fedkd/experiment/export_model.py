"""Write a client's model into a folder that loads without the run: weights, a loader, a card.

Weights are a ``state_dict`` that ``torch.load(..., weights_only=True)`` reads: nothing in the
folder is unpickled as code. Where the file that defines the model imports nothing but torch, NumPy
and Python's own library, it is copied, and the folder loads without fedkd.
"""

import ast
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedkd.errors import FedkdError, SettingError
from fedkd.experiment.estimator_export import write_estimator
from fedkd.experiment.stored_run import StoredRun
from fedkd.models.fitting import FitsItself
from fedkd.settings.model_prefixes import split_prefix
from fedkd.settings.session_objects import is_session_name, module_path
from fedkd.settings.validators import user_path
from fedkd.storage.atomic_files import write_whole

if TYPE_CHECKING:
    from fedkd.models.factory import ModelSpec
    from fedkd.tasks.task import Task

WEIGHTS_FILE, LOADER, DEFINITION, CARD = "model.pt", "load_model.py", "definition.py", "README.md"
ABOUT = "about.json"
FREE = ("torch", "numpy", "math", "functools", *sys.stdlib_module_names)
"""What a definition may import and still be copied."""
ERRORS = "from fedkd.errors import SettingError"
"""The one thing of fedkd's that a copied definition may import; a ValueError takes its place."""
MODULE = "a torch.nn.Module in evaluation mode"
"""What a network's loader returns."""
FIGURES = ("personal_accuracy", "global_accuracy", "global_nll", "global_ece")


def export(
    run: StoredRun | str | Path,
    client: int,
    target: str | Path | None = None,
    *,
    trust: bool = False,
) -> Path:
    """Write a client's model with its last stored weights into a folder, and return the folder.

    ``model.pt`` (a ``state_dict``), ``load_model.py`` (``load()`` returns the module), where it can
    be copied ``definition.py``, ``about.json`` and a card, ``README.md``. Of an estimator a file of
    its library's own takes the place of ``model.pt``, and ``load()`` returns what predicts
    probabilities.

    Args:
        run: The run, or its folder.
        client: The client's number, from 0.
        target: The folder, new or empty; None is ``exports/client_N`` in the run's folder.
        trust: Whether the run may name what is not fedkd's, which is then imported.

    Raises:
        SettingError: There is no such client, no state was kept, or the folder holds something.
    """
    import torch

    from fedkd.models.libraries import whole_name

    stored = run if isinstance(run, StoredRun) else StoredRun(run, trust=trust)
    kind = stored.experiment.context.kind
    if kind is not None and not kind.predicts_alone:
        raise SettingError(
            f"{stored.folder}: clients of strategy={stored.experiment.scenario.strategy.name}"
            " predict by more than their model (prototypes, or a second model), so that its"
            " figures are not those of what would be exported"
        )
    model = stored.model(client)
    folder = (
        stored.folder / "exports" / f"client_{client}"
        if target is None
        else user_path(str(target), "target")
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise SettingError(f"{folder} is not empty; give another folder for the export")
        context = stored.experiment.context
        about, definition, loaded = _about(stored, client), None, MODULE
        if isinstance(model, FitsItself):
            loader, needs = write_estimator(model, folder, context.task.classes)
            loaded = "has predict_proba(inputs [n, d])"
        else:
            torch.save(
                {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()},
                folder / WEIGHTS_FILE,
            )
            definition, loader = _definition_and_loader(
                context.architectures[client], context.task, stored
            )
            needs = "fedkd, or the module that the run had" if definition is None else "torch alone"
            if split_prefix(about["model"]):
                needs = f"fedkd, and what `{whole_name(about['model'])}` names"
        if definition is not None:
            write_whole(folder / DEFINITION, [definition.encode()])
        write_whole(folder / LOADER, [loader.encode()])
        write_whole(folder / ABOUT, [(json.dumps(about, indent=2) + "\n").encode()])
        write_whole(folder / CARD, [_card(about, needs, loaded).encode()])
    except OSError as error:
        raise FedkdError(f"{folder} cannot be written: {error.strerror}") from error
    return folder


def _about(stored: StoredRun, client: int) -> dict[str, Any]:
    """Return what the card says, as plain values."""
    experiment, summary = stored.experiment, stored.summary
    context, settings = experiment.context, stored.config
    rows = stored.clients
    last = rows[rows["client"] == client].iloc[-1]
    names = [f"{name}_after_{point}" for name in FIGURES for point in ("distillation", "training")]
    privacy = summary.get("privacy") or {}
    covered = privacy.get("layer") == "model" and privacy.get("epsilon") is not None
    return {
        "client": client,
        "model": context.architectures[client].name,
        "round": int(last["round"]),
        "status": summary["status"],
        "scenario": settings["name"],
        "strategy": settings["strategy"],
        "data": settings["data"],
        "seed": settings["seed"],
        "classes": list(context.prepared.class_names),
        "train_size": int(last["train_size"]),
        "preprocessing": dict(context.seen_by(client).task.preprocessing()),
        "figures": {
            name: float(last[name]) for name in names if name in last and last[name] == last[name]
        },
        "privacy": " ".join(privacy.get("text", []))
        if covered
        else "Nothing is claimed for this model: it was trained on private data without protection"
        f" of its weights (privacy={settings['privacy']['name']}).",
        "versions": summary.get("versions", {}),
    }


def _definition_and_loader(
    architecture: "ModelSpec", task: "Task", stored: StoredRun
) -> tuple[str | None, str]:
    """Return the file that defines the model, where it can be copied, and the loader.

    Args:
        architecture: Of the client.
        task: The run's, which finds factories by name.
        stored: The run.
    """
    from fedkd.models.libraries import whole_name

    given: tuple[object, ...] | None = getattr(architecture, "arguments", None)
    if given is None:  # a task of one's own makes its models itself
        return None, _by_hand(f"the task of the run makes {architecture.name}")
    name, arguments = architecture.name, ", ".join(repr(one) for one in given)
    if is_session_name(name) or name.startswith("__main__:"):
        return None, _by_hand("the run got this model's function from a Python session or script")
    is_bare = getattr(architecture, "is_bare", True)
    module, _, function = (module_path(task.factory(name)) or "").partition(":")
    definition = _copied(module) if module and is_bare else None
    if definition is not None:
        return definition, _LOADER.format(
            imports=f"from {DEFINITION.removesuffix('.py')} import {function} as factory",
            make=f"    return factory({arguments})",
        )
    kind, maker = type(task), getattr(architecture, "maker", None)
    if maker is None:
        imports = f"from {kind.__module__} import {kind.__qualname__}"
        made = f"{kind.__qualname__}.factory({whole_name(name)!r})({arguments})"
    else:
        imports = f"from {maker.__module__} import {maker.__qualname__}"
        made = f"{maker.__qualname__}({whole_name(name)!r}, {arguments})"
    adapters = stored.config.get("adapters", {"name": "none"})
    if adapters["name"] != "none":
        imports += "\nfrom fedkd.models.adapters import SharedModel"
        imports += "\nfrom fedkd.scenario.registry import create"
        make = f'    adapters = create("adapters", {adapters!r}).value\n'
        make += f"    return adapters.build(lambda: {made}, 0, SharedModel())"
        return None, _LOADER.format(imports=f"\n{imports}", make=make)
    make = f"    model = {made}\n"
    if not is_bare:
        imports += "\nfrom fedkd.scenario.registry import create"
        make += f'    heads = create("heads", {stored.config["heads"]!r}).value\n'
        names = list(stored.experiment.context.prepared.class_names)
        make += f"    heads = heads.for_classes({names!r})\n"
        make += f"    model = heads.put_on(model, torch.zeros(2, *{given[0]!r}))\n"
    return None, _LOADER.format(imports=f"\n{imports}", make=f"{make}    return model")


def _by_hand(said: str) -> str:
    """Return the loader of a module that one must build oneself."""
    error = f'"{said}; build the module yourself, and use load_into(module)"'
    return _LOADER.format(imports="", make=f"    raise RuntimeError({error})")


def _copied(module: str) -> str | None:
    """Return the source of a module that imports nothing but torch and Python's own library."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return None
    text = Path(file).read_text(encoding="utf-8")
    free = text.replace(ERRORS, "SettingError = ValueError")
    for node in ast.walk(ast.parse(free)):
        names = (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or "."]
            if isinstance(node, ast.ImportFrom) and node.level == 0
            else ["."]
            if isinstance(node, ast.ImportFrom)
            else []
        )
        if any(name.partition(".")[0] not in FREE for name in names):
            return None
    return free


_LOADER = '''"""Load the model of this folder: ``load()`` returns it in evaluation mode.

    python load_model.py      prints what it is made of
"""

from pathlib import Path

import torch
{imports}

HERE = Path(__file__).parent


def make():
    """Return the module with initial weights."""
{make}


def load_into(module):
    """Return a module with the weights of this folder, in evaluation mode."""
    state = torch.load(HERE / "model.pt", map_location="cpu", weights_only=True)
    module.load_state_dict(state)
    return module.eval()


def load():
    """Return the model."""
    return load_into(make())


if __name__ == "__main__":
    print(load())
'''


def _card(about: Mapping[str, Any], needs: str, loaded: str) -> str:
    """Return the card: what the model is, what it takes, how good it is, what is claimed.

    ``needs`` is what must be installed, ``loaded`` what the loader returns.
    """
    prepared = about["preprocessing"]
    figures = "\n".join(f"| {name} | {value:.4f} |" for name, value in about["figures"].items())
    classes = ", ".join(about["classes"])
    takes = "See `about.json`."
    if "mean" in prepared:
        takes = (
            f"Images of shape {prepared['input_shape']} (channels, height, width):"
            f" `(pixel / {prepared['scale']} - mean) / std` with mean {prepared['mean']} and std"
            f" {prepared['std']}, those of public images."
        )
    elif "in_words" in prepared:
        takes = f"{prepared['in_words']} `about.json` has the figures, of {prepared['fitted_to']}."
    elif "tokens" in prepared:
        takes = (
            f"Token ids [N, L] with L up to {prepared['context']}; `about.json` has each token's"
            " UTF-8 in hexadecimal, the last is the separator. It puts out logits of next tokens."
        )
    return f"""# Client {about["client"]} of {about["scenario"]}

A model `{about["model"]}` after round {about["round"]} of a federated distillation with strategy
`{about["strategy"]["name"]}` (data `{about["data"]["name"]}`, seed {about["seed"]}, run
{about["status"]}).

```python
from load_model import load

model = load()  # {loaded}
```

It needs {needs}.

Takes: {takes}

Classes, in the order of its outputs: {classes}

Trained on {about["train_size"]} private samples of this client; its figures in that round (shares
from 0 to 1, `nll` in nats; `global` is the balanced test set, `personal` its own distribution):

| figure | value |
| --- | --- |
{figures}

Privacy: {about["privacy"]}
"""
