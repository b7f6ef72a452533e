"""FedDF (Lin et al. 2020, arXiv 2006.07242): average weights, then distil the ensemble."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedkd.errors import RunError
from fedkd.fusion import average_states, mean_over_clients
from fedkd.knowledge import KnowledgeType, ModelWeights, WeightsCohort
from fedkd.messages import Fusion, Predictions
from fedkd.settings.validators import at_least
from fedkd.strategy import Needs


@dataclass(frozen=True, kw_only=True)
class FedDF:
    """Distil the mean logits of *all* clients into the averaged model of each architecture.

    For every architecture a, at the server:

        w_a = sum_j n_j w_j / sum_j n_j over the clients j of that architecture
        w_a <- steps on KL(softmax(mean_j f_j(x) / T) || p_a(x)) over the public set

    Clients take the result over. Steps are those of ``distill`` (the paper: T = 1, Adam 1e-3).
    Departures: a fixed number of epochs (ours) at a fixed learning rate, where the paper anneals by
    a cosine and stops early on a validation split of the server's; the public set has no labels
    here.
    """

    evaluated_after: ClassVar[str] = "distillation"
    knowledge: ClassVar[KnowledgeType] = ModelWeights()
    needs: ClassVar[Needs] = Needs(shared_initialization=True, server_models=())

    server_epochs: int = 5
    """Passes over the public set with which the server distils each architecture every round, >=
    1."""

    def __post_init__(self) -> None:
        at_least(1, server_epochs=self.server_epochs)

    def fuse(self, cohort: WeightsCohort, state: None) -> Fusion:
        """Return the distilled weights of each architecture; all clients weigh the same."""
        server = cohort.server
        if server is None:
            raise RunError("feddf needs models of the server's own to distil into")
        logits = [
            server.predict(name, model, cohort.public_ids)
            for name, model in zip(cohort.architectures, cohort.states, strict=True)
        ]
        teacher = Predictions(
            ids=cohort.public_ids, values=mean_over_clients(torch.stack(logits)), scale="logits"
        )
        distilled: dict[str, Mapping[str, Tensor]] = {}
        metrics = {}
        for name, rows in cohort.members().items():
            sizes = torch.tensor([cohort.train_sizes[row] for row in rows], dtype=torch.float32)
            average = average_states([cohort.states[row] for row in rows], sizes / sizes.sum())
            distilled[name] = server.distill(
                name,
                average,
                teacher,
                loss="kl",
                purpose="feddf",
                round=cohort.round,
                epochs=self.server_epochs,
            )
            metrics[f"server_accuracy_{name}"] = server.accuracy(name, distilled[name])
        weights = torch.full((cohort.size, cohort.size), 1 / cohort.size)
        return Fusion(weights=weights, teachers=distilled, metrics=metrics)
