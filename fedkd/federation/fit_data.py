"""What a client's model has been taught, where it is fitted as a whole: tensors in its memory.

Of private rows and public labels only whether they were learned is remembered; of a teacher its
public samples, soft labels and their weights. The rows themselves come from the client's data when
the model is fitted. Not for: when anything is learned (``fedkd.federation.fitted_steps``).
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fedkd.models.fitting import FitData, FitsItself, empty_fit_data
from fedkd.runtime.capabilities import offers
from fedkd.runtime.seeding import torch_seed

if TYPE_CHECKING:
    from fedkd.federation.context import ClientContext

FITTED_TO = "fitted to "
"""How the names begin of what a client's model is fitted to: ``fitted to private``, ``fitted to
public labels``, ``fitted to ids``, ``fitted to probs``, ``fitted to weights``."""


def teach(
    model: nn.Module, context: "ClientContext", client_id: int, state: Mapping[str, Tensor]
) -> None:
    """Make a model that of a client's state, where it is fitted as a whole.

    Args:
        model: The module.
        context: What clients share.
        client_id: Whose data it is fitted to.
        state: The client's state or memory.
    """
    if not offers(model, FitsItself):
        return
    own = {n.removeprefix(FITTED_TO): t for n, t in state.items() if n.startswith(FITTED_TO)}
    seed = torch_seed(context.seed, "client", client_id, "estimator")
    model.learn(partial(fit_data_of, context, client_id, own) if own else None, seed)


def fit_data_of(
    context: "ClientContext", client_id: int, remembered: Mapping[str, Tensor]
) -> FitData:
    """Return what a client's model is fitted to.

    Args:
        context: What clients share.
        client_id: The client.
        remembered: What it is fitted to, by name.
    """
    context, labeled = context.seen_by(client_id), []
    if "private" in remembered:
        labeled.append(context.training_set(client_id))
    if "public labels" in remembered:
        labeled.append(context.task.public_set())
    found = empty_fit_data(context.public_inputs.shape[1:], context.task.classes)
    if labeled:
        inputs, labels = (torch.cat(parts).cpu() for parts in zip(*labeled, strict=True))
        found = replace(found, inputs=inputs, labels=labels)
    if "ids" not in remembered:
        return found
    return replace(
        found,
        taught_inputs=context.public_inputs_of(remembered["ids"]).cpu(),
        probs=remembered["probs"],
        weights=remembered["weights"],
        taught_weight=context.distillation.soft_label_weight or 1.0,
    )
