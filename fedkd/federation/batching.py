"""Which clients are trained several at once, and how, as a run has settled it.

Not for: the choice (``fedkd.federation.batched_clients``), the training
(``fedkd.federation.batched_training``).
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How clients of one architecture are trained together, by the names of architectures."""

    models: frozenset[str] = frozenset()
    """Those whose clients are trained several at once."""
    products: frozenset[str] = frozenset()
    """Those of them whose convolutions are products of matrices then
    (``fedkd.models.product_convolutions``)."""
    graphs: frozenset[str] = frozenset()
    """Those of them whose steps a GPU replays as graphs (``fedkd.federation.step_graphs``)."""
    fixed: bool = False
    """Whether batches depend on all clients' sizes alone, whatever the workers: on GPUs, where sums
    round otherwise with the clients of a batch."""
