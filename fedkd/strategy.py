"""What a strategy is, and what it may declare of itself.

A strategy is a class whose fields are the hyper-parameters of a method and whose ``fuse`` is its rule. Everything
else has a default, so that a rule is twenty lines: ``strategies/README.md`` shows one.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from fedkd.errors import SettingError
from fedkd.losses import LOSSES, ON_LOGITS
from fedkd.messages import Cohort, Fusion


@runtime_checkable
class Strategy(Protocol):
    """The server's rule: from the cohort's knowledge to each client's teacher.

    It may also carry, as class attributes or properties: ``knowledge`` (what clients upload: ``logits``, ``probs``
    or ``nothing``; default ``logits``), ``teaches`` (the scale of its teachers, ``probs`` or ``logits``; default
    ``probs``), ``loss`` (the distillation loss of its paper; default ``kl``) and ``needs`` (see ``Needs``).
    """

    def fuse(self, cohort: Cohort, state: Any) -> Fusion:
        """Return weights and teachers for the cohort; ``state`` is the last Fusion's, None in the first round."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a strategy cannot do without; checked before the run."""

    public_set: bool = True
    """Samples that all clients predict on."""
    public_labels: bool = False
    """Their labels, as ``cohort.public_labels``: the scenario must say ``public.labeled=true``."""
    label_counts: bool = False
    """Each client's true label counts, as ``cohort.label_counts``: a disclosure, for oracles only."""


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """What a strategy declares, with the defaults filled in."""

    knowledge: str
    teaches: str
    loss: str
    needs: Needs


def declaration(strategy: Strategy, name: str) -> Declaration:
    """Return what a strategy declares. ``name`` is for the error where that makes no sense."""
    if not callable(getattr(strategy, "fuse", None)):
        raise SettingError(
            f"strategy={name}: {type(strategy).__name__} has no method fuse(cohort, state), which returns a Fusion"
        )
    declared = Declaration(
        knowledge=getattr(strategy, "knowledge", "logits"),
        teaches=getattr(strategy, "teaches", "probs"),
        loss=getattr(strategy, "loss", "kl"),
        needs=getattr(strategy, "needs", Needs()),
    )
    for attribute, value, allowed in (
        ("knowledge", declared.knowledge, ("logits", "probs", "nothing")),
        ("teaches", declared.teaches, ("logits", "probs")),
        ("loss", declared.loss, tuple(LOSSES)),
    ):
        if value not in allowed:
            raise SettingError(
                f"strategy={name} declares {attribute} = {value!r}; it must be one of {', '.join(allowed)}"
            )
    return declared


def chosen_loss(declared: Declaration, name: str, setting: str | None) -> str:
    """Return the distillation loss: the scenario's, or the strategy's own. Raises where it cannot take the teachers."""
    loss = setting or declared.loss
    if declared.knowledge != "nothing" and loss in ON_LOGITS and declared.teaches != "logits":
        raise SettingError(
            f"distill.loss={loss} compares logits, but strategy={name} sends soft labels; use one of"
            f" {', '.join(x for x in LOSSES if x not in ON_LOGITS)}"
        )
    return loss
