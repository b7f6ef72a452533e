"""The seam of heads: what is put on every client's model besides its own last layer."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from fedkd.settings.conditions import Compatible, RunConditions


@runtime_checkable
class Heads(Compatible, Protocol):
    """Settings of the heads on models: a frozen value. Derive from it."""

    @abstractmethod
    def put_on(self, model: nn.Module, inputs: Float[Tensor, "n *shape"]) -> nn.Module:
        """Return the model with the heads on it; SettingError where it cannot have them."""

    def alone(self) -> "Heads":
        """Return the heads of the local-only baseline, where clients have no teacher."""
        return self

    def for_classes(self, names: Sequence[str]) -> "Heads":
        """Return the heads of a run whose classes have these names; by default the same."""
        return self

    def content_key(self) -> str | None:
        """Return what names the files that the heads are made of; None without any."""
        return None

    def conflict(self, conditions: RunConditions) -> str | None:
        """Return the conflict of heads that have losses of their own with such a run."""
        if not conditions.takes_heads:
            return (
                f"heads does not go with data={conditions.name_of('data')}: they are put on models"
                " of images, tables and series; leave it out"
            )
        chosen = f"heads={conditions.name_of('heads')}"
        found = conditions.conflict_with_estimators(
            f"{chosen} puts layers on a network", "say heads=none, or use networks for all clients"
        )
        if found is not None or not conditions.adds_penalty:
            return found
        return (
            f"{chosen}: private training under"
            f" strategy={conditions.strategy} has a term of its own, beside which these heads'"
            " losses are not defined; use a strategy whose teachers are predictions on a public"
            " set, or heads=none"
        )
