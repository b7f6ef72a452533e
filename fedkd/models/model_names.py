"""Names of models as settings write them: ``cnn``, ``zoo:Net(width=32)``, ``mlp*2``.

A name may carry arguments of its factory, as a call with keywords whose values are numbers, text,
true, false, null, or lists of these. It is read, never evaluated. The whole text is the name of the
architecture, in records too, so that two widths are two architectures. Not for: finding factories
(``fedkd.models.factory``).
"""

import ast
import functools
import inspect
import keyword
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from fedkd.errors import SettingError, unknown_name

T = TypeVar("T")
_YAML = {"true": True, "false": False, "null": None}
_RESERVED = {*_YAML, *keyword.kwlist}


def split_share(text: str) -> tuple[str, float | None]:
    """Return a model's name without its share of the clients, and the share.

    >>> split_share("mlp*2"), split_share("zoo:Net(width=32)")
    (('mlp', 2.0), ('zoo:Net(width=32)', None))
    """
    name, closed, rest = text.rpartition(")")
    before, star, share_text = rest.partition("*") if closed else text.partition("*")
    name = f"{name}){before}" if closed else before
    if not star:
        return text.strip(), None
    try:
        share = float(share_text)
    except ValueError:
        share = 0.0
    if not 0 < share < float("inf"):
        raise SettingError(f"models: the share in {text!r} must be a number > 0, as in mlp*2")
    return name.strip(), share


def written(model: Mapping[str, object]) -> str:
    """Return a model that is given as a mapping as a name with arguments and share.

    >>> written({"name": "timm:resnet18", "pretrained": True, "share": 0.3})
    'timm:resnet18(pretrained=true)*0.3'

    Raises SettingError for a mapping without a name, and for what no name can carry.
    """
    rest = dict(model)
    name, share = rest.pop("name", None), rest.pop("share", None)
    if not isinstance(name, str) or not name:
        raise SettingError(
            f"models: {dict(model)} must have a name, as in {{name: timm:resnet18, share: 0.3}}"
        )
    if share is not None and (isinstance(share, bool) or not isinstance(share, int | float)):
        raise SettingError(f"models: the share of {name} must be a number > 0, got {share!r}")
    if rest and "(" in name:
        raise SettingError(f"models: give the arguments of {name} in brackets or by name, not both")
    given = ", ".join(f"{key}={_written_value(value, name)}" for key, value in rest.items())
    text = f"{name}({given})" if given else name
    wrong = [key for key in rest if not str(key).isidentifier() or keyword.iskeyword(str(key))]
    if wrong:
        raise SettingError(f"models: {wrong[0]!r} of {name} is no argument's name")
    return text if share is None else f"{text}*{share:g}"


def _written_value(value: object, name: str) -> str:
    """Return an argument's value as ``split_arguments`` reads it; ``name`` is the model's."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(_written_value(part, name) for part in value)}]"
    for word, meant in _YAML.items():
        if value is meant:
            return word
    if isinstance(value, str):
        return value if value.isidentifier() and value not in _RESERVED else repr(value)
    if isinstance(value, int | float | dict):
        return repr(value)
    raise SettingError(
        f"models: {value!r} of {name} must be a number, text, true, false, null, or a list of these"
    )


def split_arguments(name: str, what: str = "models") -> tuple[str, dict[str, object]]:
    """Return the name of a model's factory, and the arguments that are written behind it.

    ``what`` is the setting that names it, for messages.

    >>> split_arguments("zoo:Net(width=32, act=relu, bias=false, sizes=[3,5])")
    ('zoo:Net', {'width': 32, 'act': 'relu', 'bias': False, 'sizes': [3, 5]})
    """
    factory, bracket, rest = name.partition("(")
    if not bracket:
        return name, {}
    try:
        call = ast.parse(f"f({rest}", mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise SettingError(
            f"{what}: {name!r} cannot be read, {_example(what)}; text that is no single word stands"
            " in quotes"
        ) from error
    if not isinstance(call, ast.Call) or call.args or not isinstance(call.func, ast.Name):
        raise SettingError(f"{what}: the arguments in {name!r} must have names, {_example(what)}")
    arguments: dict[str, object] = {}
    for given in call.keywords:
        if given.arg is None or given.arg in arguments:
            raise SettingError(f"{what}: {name!r} must give each argument once, {_example(what)}")
        arguments[given.arg] = _value(given.value, name, what)
    return factory.strip(), arguments


def _example(what: str) -> str:
    return f"as in {'zoo:Net(width=32)' if what == 'models' else 'dirichlet(alpha=0.1)'}"


def _value(node: ast.expr, name: str, what: str) -> object:
    """Return what an argument's value says; the model's name and setting are for messages."""
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(part, name, what) for part in node.elts]
    if isinstance(node, ast.Name):
        return _YAML.get(node.id, node.id)
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise SettingError(
            f"{what}: {ast.unparse(node)!r} in {name!r} must be a number, text, true, false, null,"
            " or a list of these"
        ) from error


def with_arguments(factory: Callable[..., T], arguments: Mapping[str, Any], name: str) -> Any:
    """Return a factory with arguments of its own filled in; SettingError for one it does not have.

    Args:
        factory: The factory, whose first two arguments are fedkd's.
        arguments: By name.
        name: The model's name, for messages.
    """
    if not arguments:
        return factory
    known = list(inspect.signature(factory).parameters.values())[2:]
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known)
    names = [p.name for p in known if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    for argument in arguments:
        if argument not in names and not open_ended:
            raise unknown_name(f"argument of {name}", argument, names)
    return functools.partial(factory, **arguments)
