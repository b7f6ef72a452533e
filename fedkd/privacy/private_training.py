"""One phase of private training: DP-SGD in the stead of ``training.loop.optimize``.

Opacus' hooks take each sample's gradient and its ``DPOptimizer`` clips, sums and adds our noise;
sampling, steps, batch size and accounting are fixed here, since ``PrivacyEngine`` derives them from
a data loader and starts a new account each time. The model is never wrapped, pickled or copied:
hooks are put on and taken off again. (One unpickled ``DPOptimizer`` breaks every later one in its
process, and a wrapped module carries raw gradients along.) Not for: distillation on public data,
which needs no noise, and losses that couple samples or act on weights directly (a proximal term):
what does not flow through a sample's forward pass has no part in the step.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from fedkd.errors import SettingError
from fedkd.privacy.dp_sgd_history import StepHistory
from fedkd.privacy.sampling_schedule import Schedule
from fedkd.runtime.devices import sent
from fedkd.settings.optional_libraries import require

LEFT_ON_MODULES = (
    "activations",
    "max_batch_len",
    "ft_compute_sample_grad",
    "autograd_grad_sample_hooks",
)
LEFT_ON_PARAMETERS = (
    "grad_sample",
    "summed_grad",
    "_forward_counter",
    "_current_grad_sample",
    "_norm_sample",
)
"""What Opacus puts on a model, and may leave there when a phase is ended in the middle."""


def optimize_privately(
    model: nn.Module,
    size: int,
    batch_loss: Callable[[Int[Tensor, "batch"]], Float[Tensor, ""]],
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    *,
    noise_multiplier: float,
    clip_norm: float,
    batches: np.random.Generator,
    noise: np.random.Generator,
    history: StepHistory,
    before_step: Callable[[int], None] = lambda step: None,
) -> float | None:
    """Train ``model`` by DP-SGD; return the mean loss over the samples met, if any.

    ``batch_loss`` maps indices below ``size`` to the *mean* loss of those samples. Every step
    samples each index with an own coin from ``batches``, clips each sample's gradient to
    ``clip_norm`` in L2, adds noise of ``noise_multiplier * clip_norm`` from ``noise`` to the sum,
    and divides by the expected batch size. A step whose sample is empty is noise alone, and is
    counted. ``history`` grows by every step whose noise was drawn, even where ``before_step``
    or the loss then raises: store it then too. The loss is private, for the researcher only.
    SettingError where the model cannot be trained so.

    Args:
        model: The model, trained in place.
        size: Number of samples.
        batch_loss: Maps indices below ``size`` to the mean loss of those samples.
        optimizer: The optimizer of the parameters that are trained.
        schedule: Sample rate, steps and expected batch size.
        noise_multiplier: Deviation of the noise over ``clip_norm``.
        clip_norm: L2 norm that a sample's gradient is shortened to.
        batches: The stream of Poisson samples.
        noise: The stream of noise.
        history: The steps so far, to which these are added.
        before_step: Called with the number of the step, from 0; may raise.
    """
    refuse_shared_statistics(model)
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    device = parameters[0].device
    from fedkd.privacy.stream_optimizer import StreamDPOptimizer

    total, met = torch.zeros((), device=device), 0
    model.train()
    with _sample_gradients(model):
        private = StreamDPOptimizer(
            optimizer,
            stream=noise,
            noise_multiplier=noise_multiplier,
            max_grad_norm=clip_norm,
            expected_batch_size=schedule.expected_batch_size,
        )
        private.attach_step_hook(lambda _: history.add(noise_multiplier, schedule.sample_rate))
        for step, chosen in enumerate(poisson_samples(size, schedule, batches, device)):
            before_step(step)
            private.zero_grad(set_to_none=True)
            if len(chosen):
                loss = batch_loss(chosen)
                loss.backward()
                total += loss.detach() * len(chosen)
                met += len(chosen)
            for parameter in parameters:
                if (
                    parameter.grad_sample is None
                ):  # nobody was sampled, or the forward pass does not use it
                    parameter.grad_sample = parameter.new_zeros(len(chosen), *parameter.shape)
            private.step()
        private.zero_grad(set_to_none=True)
    return total.item() / met if met else None


def poisson_samples(
    size: int, schedule: Schedule, stream: np.random.Generator, device: torch.device
) -> tuple[Int[Tensor, "batch"], ...]:
    """Return the Poisson sample of each step, sent to a device in one copy.

    Args:
        size: Number of samples.
        schedule: Sample rate and steps.
        stream: The stream of coins.
        device: Where the samples are.
    """
    drawn = [poisson_sample(size, schedule.sample_rate, stream) for _ in range(schedule.steps)]
    if not drawn:
        return ()
    return torch.split(sent(torch.cat(drawn), device), [len(each) for each in drawn])


def poisson_sample(size: int, rate: float, stream: np.random.Generator) -> Int[Tensor, "batch"]:
    """Return a Poisson sample of the indices below ``size``, which may be empty.

    Each is in it by a coin of its own, of probability ``rate``.

    >>> poisson_sample(4, 1.0, np.random.default_rng(0)).tolist()
    [0, 1, 2, 3]
    """
    return torch.from_numpy(np.flatnonzero(stream.random(size) < rate))


def refuse_shared_statistics(model: nn.Module, name: str = "this model") -> None:
    """Raise SettingError for layers that mix samples or store statistics of them.

    Those would leave unprotected.
    """
    for path, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            what = "BatchNorm"
        elif (
            isinstance(module, nn.modules.instancenorm._InstanceNorm) and module.track_running_stats
        ):
            what = "InstanceNorm with running statistics"
        else:
            continue
        raise SettingError(
            f"models: {name} has {what} ({path or 'itself'}), which mixes samples and keeps their"
            " statistics: dp_sgd"
            " cannot train it; use GroupNorm(min(8, C), C)"
        )


def check_sample_gradients(
    model: nn.Module,
    inputs: Num[Tensor, "n *shape"],
    name: str = "this model",
    outputs: Callable[[Num[Tensor, "n *shape"]], Float[Tensor, "n *rows outputs"]] | None = None,
) -> None:
    """Raise SettingError unless Opacus finds the gradient of each single sample.

    Compared with samples one by one.

    ``outputs`` makes of inputs what the training's loss is made of; it is the model's forward if it
    is not given. To be called once for each architecture, with a few (random) inputs. Leaves
    weights and buffers as they are. Catches what no list of layers does: parameters used without a
    batch dimension, in-place changes, buffers.

    Args:
        model: The model, left as it is.
        inputs: A few random inputs.
        name: The architecture, for the message.
        outputs: Maps inputs to what the loss is made of; the model's forward by default.
    """
    refuse_shared_statistics(model, name)
    outputs = outputs or model
    was_training = model.training
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
    before = {key: buffer.clone() for key, buffer in model.named_buffers()}
    if _draws(lambda: outputs(inputs)):
        _without_functional_dropout(model)
    trainable = {key: p for key, p in model.named_parameters() if p.requires_grad}
    # Squared outputs have no minimum that many samples share by chance.
    losses = [_probe(outputs(one[None])) for one in inputs]
    alone = [
        torch.autograd.grad(loss, list(trainable.values()), allow_unused=True) for loss in losses
    ]
    try:
        with _sample_gradients(model):
            (_probe(outputs(inputs)) / len(inputs)).backward()
            found: dict[str, Tensor | None] = {
                key: getattr(p, "grad_sample", None) for key, p in trainable.items()
            }
    except SettingError:
        raise
    except Exception as error:
        raise SettingError(
            f"models: dp_sgd cannot find the gradients of single samples in {name}:"
            f" {type(error).__name__}: {error};"
            " are there changes in place (ReLU(inplace=True))?"
        ) from error
    finally:
        model.zero_grad(set_to_none=True)
        model.train(was_training)
    changed = [key for key, buffer in model.named_buffers() if not torch.equal(buffer, before[key])]
    if changed:
        raise SettingError(
            f"models: {name} changes its buffer {changed[0]} in training, which dp_sgd does not"
            " protect"
        )
    for index, key in enumerate(trainable):
        expected = torch.stack(
            [torch.zeros_like(trainable[key]) if g[index] is None else g[index] for g in alone]
        )
        sampled = found[key]
        got = torch.zeros_like(expected) if sampled is None else sampled
        size = expected.abs().max()
        if got.shape != expected.shape or not torch.allclose(
            got, expected, rtol=1e-2, atol=1e-3 * size.item() + 1e-7
        ):
            raise SettingError(
                f"models: dp_sgd cannot find the gradients of single samples in {name}: those of"
                f" {key} come out wrong;"
                " is it used without a batch dimension?"
            )


def _without_functional_dropout(model: nn.Module) -> None:
    """Put all of a model but what is trained itself, which Opacus looks at, into evaluation mode.

    Dropout that is a function inside a module, as in attention, is then left out: single samples
    could not be compared with it.
    """
    for module in model.modules():
        module.training = any(p.requires_grad for p in module.parameters(recurse=False))


def _draws(act: Callable[[], object]) -> bool:
    """Return whether something draws from the global generator, whose state stays as it was."""
    state = torch.get_rng_state()
    with torch.no_grad():
        act()
    found = not torch.equal(state, torch.get_rng_state())
    torch.set_rng_state(state)
    return found


def _probe(logits: Tensor) -> Tensor:
    return F.softplus(logits).square().flatten(1).sum(dim=1).sum()


@contextmanager
def _sample_gradients(model: nn.Module) -> Iterator[None]:
    """Let every backward pass leave each sample's gradient on the parameters.

    Afterwards nothing of it is left.
    """
    require("opacus", "privacy=dp_sgd")
    from fedkd.privacy.sample_gradients import SampleGradients

    # Private samples never require gradients of their own, so the hooks are meant to fire so.
    warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)
    try:
        hooks = SampleGradients(model, loss_reduction="mean")
    except NotImplementedError as error:
        raise SettingError(f"models: dp_sgd cannot train this model: {error}") from error
    try:
        yield
    finally:
        hooks.cleanup()
        for owner, names in (
            *((module, LEFT_ON_MODULES) for module in model.modules()),
            *((parameter, LEFT_ON_PARAMETERS) for parameter in model.parameters()),
        ):
            for name in names:
                if name in vars(owner):
                    delattr(owner, name)
