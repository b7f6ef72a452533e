"""A study of learned aggregation for an unseen client, against the mean of predictions.

It asks Meta-DMoE's question (arXiv 2210.03885) of ``strategies/learned.py``: of K clients that
trained alone, an aggregator is fitted on the labeled public set with the predictions of all but
one, and predicts the private test samples of that one from the others' predictions. Each client is
left out once. No client learns from the predictions.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedkd.cli.studies.plugins import BASE, SKEWED
from fedkd.cli.studies.study import Study, StudyClaim, write_reports
from fedkd.cli.studies.trained import trained
from fedkd.messages import Cohort
from fedkd.runtime.devices import deterministic
from fedkd.strategies.learned import Learned, initial_weights, shares_of
from fedkd.training.loop import predict

ROUNDS = 5
"""Rounds of the aggregator's training."""

UNSEEN = Study(
    name="unseen",
    title="A learned aggregator on an unseen client (`strategies/learned.py`)",
    base=(*BASE, *SKEWED, "strategy=local_only", "public.labeled=false", "report.console=false"),
    methods="",
    figures=("personal_accuracy",),
    claims=(
        StudyClaim(
            "On a client that it never met, the learned aggregator is above uniform",
            "personal_accuracy",
            ("learned", ""),
            ("uniform", ""),
        ),
    ),
    remark="Accuracy of the fused predictions of nine clients, which trained alone, on the private"
    " test samples of the tenth; a mean over who is left out. The aggregator is fitted on the"
    " public set's labels, without the tenth.",
)


def carry_out(seeds: int, out: Path) -> str:
    """Run the study, write each seed's figures, and return its report."""
    runs = [one_seed(seed) for seed in range(seeds)]
    results = {
        (name, ""): {"personal_accuracy": np.array([run[name] for run in runs])} for name in runs[0]
    }
    return write_reports([(UNSEEN, {"training": results})], out)[0]


def one_seed(seed: int, *settings: str) -> Mapping[str, float]:
    """Return the accuracy of uniform and of learned shares on clients left out, the means."""
    context, models = trained(["baseline=none", *UNSEEN.base, f"seed={seed}", *settings])
    with deterministic(torch.device("cpu")):
        public = torch.stack(
            [context.task.ask().predict(model).softmax(dim=-1) for model in models]
        )
        accuracies = []
        for left_out in range(len(models)):
            others = [client for client in range(len(models)) if client != left_out]
            x, y = context.task.test_set(context.division.test[left_out])
            private = torch.stack([predict(models[i], x).softmax(dim=-1) for i in others])
            labels = context.task.public_labels
            accuracies.append(accuracies_of(public[others], labels, private, y))
    uniform, learned = zip(*accuracies, strict=True)
    return {"uniform": float(np.mean(uniform)), "learned": float(np.mean(learned))}


def accuracies_of(
    public: Tensor, public_labels: Tensor, private: Tensor, private_labels: Tensor
) -> tuple[float, float]:
    """Return the accuracies of the mean and of an aggregator's mixture on private samples.

    Args:
        public: The clients' soft labels of public samples [K, N, C], to fit the aggregator.
        public_labels: Labels of public samples [N].
        private: The clients' soft labels of private samples [K, M, C].
        private_labels: Labels of private samples [M].
    """
    clients, rule, weights = tuple(range(len(public))), Learned(), initial_weights()
    for round_number in range(1, ROUNDS + 1):
        cohort = Cohort(
            round=round_number,
            client_ids=clients,
            public_ids=torch.arange(len(public_labels)),
            values=public,
            scale="probs",
        )
        weights = dict(rule.learn(weights, public.double().transpose(0, 1), public_labels, cohort))
    probs = private.double().transpose(0, 1)
    shares = shares_of(weights, probs, torch.ones(probs.shape[:2], dtype=torch.bool))
    mixture = torch.einsum("nk,nkc->nc", shares, probs)
    return _accuracy(private.mean(dim=0), private_labels), _accuracy(mixture, private_labels)


def _accuracy(probs: Tensor, labels: Tensor) -> float:
    return float((probs.argmax(dim=-1) == labels).double().mean())
