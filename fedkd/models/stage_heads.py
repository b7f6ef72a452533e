"""Heads on a model's stages, for training only: the last head teaches them.

Layered self-distillation, after Dahri et al. 2025 (LSSKD, arXiv 2506.07055), reduced to its class
predictions. The model predicts as it did; the heads of its stages only help it train.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from fedkd.errors import SettingError
from fedkd.models.head_settings import Heads
from fedkd.settings.validators import at_least, positive
from fedkd.training.losses import kl


@dataclass(frozen=True, kw_only=True)
class StageHeadsSettings(Heads):
    """Heads on a model's stages (LSSKD), taught by its last head; no part of predictions.

    The local-only baseline has them too, since they are part of how a client trains by itself.
    """

    stage_label_weight: float = 1.0
    """Weight of the stages' cross entropy on labels, >= 0."""
    stage_weight: float = 1.0
    """Weight of the divergence of the stages from the last head, > 0."""
    temperature: float = 3.0
    """Temperature of that divergence, > 0."""
    stages: tuple[str, ...] | None = None
    """Names of the modules whose outputs get a head; null finds them (``find_stages``)."""

    def __post_init__(self) -> None:
        at_least(0, stage_label_weight=self.stage_label_weight)
        positive(stage_weight=self.stage_weight, temperature=self.temperature)
        if self.stages is not None and not self.stages:
            raise SettingError("stages must name at least one module; null finds them")

    def put_on(self, model: nn.Module, inputs: Float[Tensor, "n *shape"]) -> "StageHeads":
        """Return the model with a head on each stage. Raises SettingError where it has none."""
        return StageHeads(model, inputs, self)


class StageHeads(nn.Module):
    """A model with a linear head on each stage's output; it predicts as the model alone.

    A stage's output is averaged over its positions.

    Raises SettingError where there are no stages, or a named one does not put out [N, features],
    [N, channels, height, width] or [N, tokens, features]. Build it where the model is built, with
    torch's global generator seeded.
    """

    def __init__(
        self, model: nn.Module, inputs: Float[Tensor, "n *shape"], settings: StageHeadsSettings
    ) -> None:
        super().__init__()
        self.model, self.settings = model, settings
        self.stages = settings.stages or find_stages(model, inputs)
        known, kind = dict(model.named_modules()), type(model).__name__
        if not self.stages:
            raise SettingError(f"stages: {kind} has no stages that could get a head; name them")
        missing = [name for name in self.stages if name not in known]
        if missing:
            raise SettingError(f"stages: {kind} has no module {', '.join(missing)}")
        training = model.training
        with torch.no_grad(), _outputs(model.eval(), self.stages) as outputs:
            classes = model(inputs).shape[1]
        model.train(training)
        wrong = [name for name in self.stages if not _is_stage(outputs.get(name), len(inputs))]
        if wrong:
            raise SettingError(
                f"stages: {', '.join(wrong)} of {kind} must put out [N, features], [N, channels,"
                " height, width] or"
                " [N, tokens, features]"
            )
        for name in self.stages:
            _wrap(model, name)
        self.heads = nn.ModuleList(
            nn.Linear(_pooled(outputs[name]).shape[1], classes) for name in self.stages
        )

    def forward(self, inputs: Float[Tensor, "n *shape"]) -> Float[Tensor, "n C"]:
        """Return the model's logits."""
        logits: Tensor = self.model(inputs)
        return logits

    def staged(
        self, inputs: Float[Tensor, "n *shape"]
    ) -> tuple[Float[Tensor, "n C"], list[Float[Tensor, "n C"]]]:
        """Return the model's logits and those of each stage's head, first stage first."""
        with _outputs(self.model, self.stages) as outputs:
            logits = self.model(inputs)
        found = zip(self.stages, self.heads, strict=True)
        return logits, [head(_pooled(outputs[name])) for name, head in found]

    def label_logits(self, inputs: Float[Tensor, "n *shape"]) -> Float[Tensor, "n outputs"]:
        """Return the logits of all heads, side by side."""
        logits, stage_logits = self.staged(inputs)
        return torch.cat([logits, *stage_logits], dim=1)

    def label_loss(
        self, inputs: Float[Tensor, "n *shape"], labels: Int[Tensor, "n"]
    ) -> Float[Tensor, ""]:
        """Return ``layered_loss`` of a batch."""
        return layered_loss(*self.staged(inputs), labels, self.settings)

    def taught_loss(
        self,
        inputs: Float[Tensor, "n *shape"],
        loss: Callable[[Float[Tensor, "n C"]], Float[Tensor, ""]],
    ) -> Float[Tensor, ""]:
        """Return ``loss`` of the model's logits: teachers teach the last head alone."""
        return loss(self(inputs))

    def phase_parameters(self, distills: bool) -> list[nn.Parameter]:
        """Return the model's parameters; with labels, those of its stages' heads too."""
        return list(self.model.parameters() if distills else self.parameters())


def layered_loss(
    logits: Float[Tensor, "n C"],
    stage_logits: Sequence[Float[Tensor, "n C"]],
    labels: Int[Tensor, "n"],
    settings: StageHeadsSettings,
) -> Float[Tensor, ""]:
    """Return the loss of private training with the heads of stages.

        CE(f) + mean over stages s of
            (stage_label_weight CE(f_s) + stage_weight T^2 KL(softmax(f / T) || f_s))

    The last head only teaches: the divergence sends no gradient into it. Without stages it is the
    cross entropy; the divergence is zero where every stage predicts as the last head. The paper's
    heads tell classes and rotations of the input apart, and it also draws features of stages
    together; both are left out here, and the weights and the temperature are ours.

    Args:
        logits: The last head's logits f [n, C].
        stage_logits: Each stage's logits f_s [n, C].
        labels: The labels [n].
        settings: Weights and temperature T.

    >>> flat = torch.zeros(1, 2)
    >>> settings = StageHeadsSettings(stage_label_weight=0.5)
    >>> layered_loss(flat, [flat, flat], torch.tensor([1]), settings) / torch.tensor(2.0).log()
    tensor(1.5000)
    """
    loss = F.cross_entropy(logits, labels)
    if not stage_logits:
        return loss
    target = (logits.detach() / settings.temperature).softmax(dim=-1)
    terms = [
        settings.stage_label_weight * F.cross_entropy(stage, labels)
        + settings.stage_weight * kl(stage, target, settings.temperature)
        for stage in stage_logits
    ]
    return loss + torch.stack(terms).mean()


def find_stages(model: nn.Module, inputs: Float[Tensor, "n *shape"]) -> tuple[str, ...]:
    """Return the names of a model's stages, in the order of their computation.

    A stage is a member of an ``nn.Sequential`` that is no part of another stage, has parameters in
    more than one dimension (so that it is no mere normalization), and puts out a batch; the one
    that makes the logits is none.

    >>> layers = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> find_stages(layers, torch.zeros(1, 1, 2, 2))
    ('1',)
    """
    members: list[str] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{stage}.") for stage in members)
        parent = model.get_submodule(name.rpartition(".")[0])
        learns = not isinstance(module, nn.Sequential) and any(
            p.ndim > 1 for p in module.parameters()
        )
        if (
            name
            and learns
            and not inside
            and isinstance(parent, nn.Sequential)
            and not isinstance(module, nn.Sequential)
        ):
            members.append(name)
    training = model.training
    with torch.no_grad(), _outputs(model.eval(), members) as outputs:
        logits = model(inputs)
    model.train(training)
    return tuple(
        n
        for n, output in outputs.items()
        if output is not logits and _is_stage(output, len(inputs))
    )


@contextmanager
def _outputs(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Collect the outputs of a model's modules by name while the block lasts.

    They come in the order of their computation.
    """
    found: dict[str, Any] = {}

    def keep(name: str) -> Any:
        return lambda _, __, output: found.__setitem__(name, output)

    hooks = [model.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _wrap(model: nn.Module, name: str) -> None:
    """Put a layer that is a stage by itself into a container of its own, so that it is ``name.0``.

    What a forward hook on the layer would find lies before the point where hooks on its backward
    pass, which DP-SGD needs, take its gradient: the stage's head would be missing from that. What a
    container puts out lies behind it.
    """
    parent, _, child = name.rpartition(".")
    stage = model.get_submodule(name)
    if not list(stage.children()):
        setattr(model.get_submodule(parent), child, nn.Sequential(stage))


def _is_stage(output: Any, batch: int) -> bool:
    """Whether a head can be put on this output."""
    return isinstance(output, Tensor) and output.ndim in (2, 3, 4) and len(output) == batch


def _pooled(output: Float[Tensor, "n *positions"]) -> Float[Tensor, "n d"]:
    """Return outputs averaged over positions: images over pixels, sequences over tokens.

    [N, channels, height, width] and [N, tokens, features] are averaged, [N, features] stay.
    """
    if output.ndim == 4:
        return output.mean(dim=(2, 3))
    return output.mean(dim=1) if output.ndim == 3 else output
