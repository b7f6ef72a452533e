"""Fresh models that a client fits beside its own and forgets, such as teachers that vote."""

import contextlib
from collections.abc import Callable
from dataclasses import replace

from jaxtyping import Float, Int
from torch import Tensor

from fedkd.federation.local_update import LocalUpdate
from fedkd.models.factory import borrowed_global_generator
from fedkd.models.fitting import FitsItself, empty_fit_data
from fedkd.models.heads import phase_parameters
from fedkd.runtime.seeding import torch_seed
from fedkd.training.loop import optimize, predict
from fedkd.training.model_parts import head_parameters, partly_frozen
from fedkd.training.optimizers import Optimizer
from fedkd.training.precision import in_precision


def fitted(
    update: LocalUpdate, inputs: Tensor, labels: Int[Tensor, "n"], purpose: str, epochs: int
) -> Callable[[Tensor], Float[Tensor, "N C"]]:
    """Return the logits, on the CPU, of a fresh model of a client's architecture.

    Args:
        update: The client's update, whose settings of private training hold.
        inputs: The samples to fit it to.
        labels: Their labels.
        purpose: Names its random streams.
        epochs: Passes over the samples.
    """
    context, info = update.context, update.info
    path = update.stream_path(purpose)
    seed = torch_seed(context.seed, *path, "weights")
    model = context.architectures[update.client_id].build(seed).to(context.device)
    model = in_precision(model, context.precision, context.device)
    if isinstance(model, FitsItself):
        empty = empty_fit_data(inputs.shape[1:], context.task.classes)
        data = replace(empty, inputs=inputs.cpu(), labels=labels.cpu())
        model.learn(lambda: data, seed)
        return lambda of: predict(model, of).cpu()
    phase = replace(context.training, optimizer_state="fresh")
    inputs, labels = inputs.to(context.device), labels.to(context.device)
    borrowed = borrowed_global_generator(torch_seed(context.seed, *path, "dropout"))
    with (
        borrowed if info.draws_randomness else contextlib.nullcontext(),
        partly_frozen(model, phase, info.head),
    ):
        parameters = phase_parameters(model, distills=False)
        optimize(
            model,
            len(labels),
            lambda batch: context.task.training_loss(model, inputs[batch], labels[batch]),
            phase,
            update.stream(f"{purpose} batches"),
            epochs=epochs,
            optimizer=Optimizer(parameters, phase, head_parameters(model, phase, info.head)),
            check_interrupt=update.check_interrupt,
        )
    return lambda of: predict(model, of).cpu()
