"""A study of disagreement-seeking augmentations on a test set of shifted images.

As in the published test (HARD, arXiv 2305.14890), the clients' models are evaluated after a run on
the balanced test set with every image shifted by up to an eighth of its sides.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from fedkd.cli.studies.plugins import BASE, MEAN, MILD
from fedkd.cli.studies.study import Study, StudyClaim, write_reports
from fedkd.cli.studies.trained import trained
from fedkd.data.shifts import shifted
from fedkd.runtime.devices import deterministic
from fedkd.runtime.seeding import numpy_stream
from fedkd.training.loop import predict

METHODS = {
    "plain": (),
    "random_view": ("distill.student_augmentation=shift",),
    "hard": ("public.augmented_views=3",),
}

SHIFTED = Study(
    name="shifted",
    title="Disagreement-seeking augmentations on a shifted test (`public.augmented_views`)",
    base=(
        *BASE,
        *MILD,
        *(f"strategy={part}" if at == 0 else part for at, part in enumerate(MEAN.split())),
    ),
    methods="",
    figures=("global_accuracy",),
    claims=(
        StudyClaim(
            "On moved images hard views beat random ones",
            "global_accuracy",
            ("hard", ""),
            ("random_view", ""),
        ),
        StudyClaim(
            "On moved images hard views beat no augmentation",
            "global_accuracy",
            ("hard", ""),
            ("plain", ""),
        ),
    ),
    remark="Accuracy on the balanced test with every image moved by up to a pixel, the same moves"
    " for all methods of a seed.",
)


def carry_out(seeds: int, out: Path) -> str:
    """Run the study, write each seed's figures, and return its report."""
    runs = [one_seed(seed) for seed in range(seeds)]
    results = {
        (name, ""): {"global_accuracy": np.array([run[name] for run in runs])} for name in METHODS
    }
    return write_reports([(SHIFTED, {"distillation": results})], out)[0]


def one_seed(seed: int, *settings: str) -> Mapping[str, float]:
    """Return each method's accuracy on the shifted test images, a mean over clients."""
    accuracies = {}
    for name, own in METHODS.items():
        context, models = trained(["baseline=none", *SHIFTED.base, *own, f"seed={seed}", *settings])
        x, y = context.global_test
        moved = shifted(x, numpy_stream(seed, "study", "shifted test"))
        with deterministic(torch.device("cpu")):
            right = [
                (predict(model, moved).argmax(dim=-1) == y).double().mean().item()
                for model in models
            ]
        accuracies[name] = float(np.mean(right))
    return accuracies
