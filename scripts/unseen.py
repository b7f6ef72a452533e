"""Is a learned aggregator better than the plain mean for a client that it never met?

Meta-DMoE's question (arXiv 2210.03885), asked of ``strategies/learned.py`` directly: of K clients
that trained alone, an aggregator is fitted on the labeled public set with the predictions of all
but one, and answers the private test samples of that one from the others' predictions. Each client
is left out once. Nobody learns from the answers.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from plugins import BASE, SKEWED
from studies import Claim, Study, write_report
from torch import Tensor
from trained import trained

from fedkd.messages import Cohort
from fedkd.runtime.devices import deterministic
from fedkd.training.loop import predict
from strategies.learned import Learned, initial_weights, shares_of

ROUNDS = 5
"""Rounds of the aggregator's steps, as many as clients train for."""

UNSEEN = Study(
    name="unseen",
    title="A learned aggregator on an unseen client (`strategies/learned.py`)",
    base=(*BASE, *SKEWED, "strategy=local_only", "public.labeled=false", "report.console=false"),
    methods="",
    figures=("personal_accuracy",),
    claims=(
        Claim(
            "On a client that it never met, the learned aggregator is above uniform",
            "personal_accuracy",
            ("learned", ""),
            ("uniform", ""),
        ),
    ),
    remark="Accuracy of the fused predictions of nine clients, which trained alone, on the private"
    " test samples of the"
    " tenth; a mean over who is left out. The aggregator is fitted on the public set's labels,"
    " without the tenth.",
)


def carry_out(seeds: int, out: Path) -> str:
    """Run the study, write every seed's figures, and return its report."""
    runs = [one_seed(seed) for seed in range(seeds)]
    results = {
        (name, ""): {"personal_accuracy": np.array([run[name] for run in runs])} for name in runs[0]
    }
    return write_report(UNSEEN, results, seeds, out)


def one_seed(seed: int, *settings: str) -> Mapping[str, float]:
    """Return the accuracy of uniform and of learned shares on clients left out: means over
    clients.
    """
    context, models = trained(["baseline=none", *UNSEEN.base, f"seed={seed}", *settings])
    with deterministic(torch.device("cpu")):
        public = torch.stack(
            [context.task.ask().predict(model).softmax(dim=-1) for model in models]
        )
        found = []
        for left_out in range(len(models)):
            others = [client for client in range(len(models)) if client != left_out]
            x, y = context.task.test_set(context.division.test[left_out])
            asked = torch.stack([predict(models[client], x).softmax(dim=-1) for client in others])
            found.append(answers_right(public[others], context.task.public_labels, asked, y))
    uniform, learned = zip(*found, strict=True)
    return {"uniform": float(np.mean(uniform)), "learned": float(np.mean(learned))}


def answers_right(
    public: Tensor, labels: Tensor, asked: Tensor, truth: Tensor
) -> tuple[float, float]:
    """Return the accuracy of the mean, and of the mixture of an aggregator fitted on public
    samples.

    ``public`` [K, N, C] and ``asked`` [K, M, C] are soft labels of the same clients, ``labels``
    [N], ``truth`` [M].
    """
    clients, rule, weights = tuple(range(len(public))), Learned(), initial_weights()
    for round_number in range(1, ROUNDS + 1):
        cohort = Cohort(
            round=round_number,
            client_ids=clients,
            public_ids=torch.arange(len(labels)),
            values=public,
            scale="probs",
        )
        weights = dict(rule.learn(weights, public.double().transpose(0, 1), labels, cohort))
    probs = asked.double().transpose(0, 1)
    shares = shares_of(weights, probs, torch.ones(probs.shape[:2], dtype=torch.bool))
    mixture = torch.einsum("nk,nkc->nc", shares, probs)
    return _accuracy(asked.mean(dim=0), truth), _accuracy(mixture, truth)


def _accuracy(probs: Tensor, truth: Tensor) -> float:
    return float((probs.argmax(dim=-1) == truth).double().mean())
