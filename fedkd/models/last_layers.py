"""The last layers of a model, by names that models of several architectures share."""

from collections.abc import Sequence


def last_layers(names: Sequence[str], head: str, count: int) -> dict[str, str]:
    """Return the tensors of the last ``count`` layers, by the names under which they travel.

    ``names`` are those of a model's state, in its order; ``head`` is the last layer's.

    >>> last_layers(["stem.weight", "2.weight", "2.bias", "4.weight"], "4", 2)
    {'2.weight': '2.weight', '2.bias': '2.bias', '1.weight': '4.weight'}
    """
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
    chosen = layers[: layers.index(head) + 1][-count:]
    from_end = {layer: len(chosen) - i for i, layer in enumerate(chosen)}
    found = {}
    for name in names:
        layer, _, tensor = name.rpartition(".")
        if layer in from_end:
            found[f"{from_end[layer]}.{tensor}"] = name
    return found
