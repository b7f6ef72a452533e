"""Do the views on which teacher and student disagree most help on images that are moved?

The published test of disagreement-seeking augmentations (HARD, arXiv 2305.14890) is a shifted one:
after a run, its clients' models answer the balanced test set with every image moved by up to an
eighth of its sides.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from plugins import BASE, MEAN, MILD
from studies import Claim, Study, write_report
from trained import trained

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
        Claim(
            "On moved images hard views beat random ones",
            "global_accuracy",
            ("hard", ""),
            ("random_view", ""),
        ),
        Claim(
            "On moved images hard views beat no augmentation",
            "global_accuracy",
            ("hard", ""),
            ("plain", ""),
        ),
    ),
    remark="Accuracy on the balanced test with every image moved by up to a pixel, the same moves"
    " for all methods of a"
    " seed.",
)


def carry_out(seeds: int, out: Path) -> str:
    """Run the study, write every seed's figures, and return its report."""
    runs = [one_seed(seed) for seed in range(seeds)]
    results = {
        (name, ""): {"global_accuracy": np.array([run[name] for run in runs])} for name in METHODS
    }
    return write_report(SHIFTED, results, seeds, out)


def one_seed(seed: int, *settings: str) -> Mapping[str, float]:
    """Return each method's accuracy on the moved test images, a mean over clients."""
    found = {}
    for name, own in METHODS.items():
        context, models = trained(["baseline=none", *SHIFTED.base, *own, f"seed={seed}", *settings])
        x, y = context.global_test
        moved = shifted(x, numpy_stream(seed, "study", "shifted test"))
        with deterministic(torch.device("cpu")):
            right = [
                (predict(model, moved).argmax(dim=-1) == y).double().mean().item()
                for model in models
            ]
        found[name] = float(np.mean(right))
    return found
