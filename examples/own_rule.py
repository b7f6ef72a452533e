"""Hold a fusion rule of one's own against KnFu, over two seeds.

Two seeds are too few for a verdict: intervals are printed, and nobody is called better.
"""

from dataclasses import dataclass

import fedkd
from fedkd.fusion import mix, row_softmax
from fedkd.messages import Cohort, Fusion


@dataclass(frozen=True, kw_only=True)
class Agree:
    """Let clients learn from those who predict as they do."""

    sharpness: float = 5.0
    """How much more a client teaches that agrees; 0 is the mean."""

    def fuse(self, cohort: Cohort, state: None) -> Fusion:
        """Return weights [K, K] and teachers [K, N, C]."""
        says = cohort.probs.flatten(1)  # [K, N * C]
        weights = row_softmax(self.sharpness * says @ says.T / cohort.probs.shape[1])
        return Fusion(weights=weights, teachers=mix(weights, cohort.probs))


for name, strategy in {"agree": Agree(sharpness=10), "knfu": "knfu"}.items():
    for seed in (0, 1):
        fedkd.run(
            "digits",
            strategy=strategy,
            seed=seed,
            clients=4,
            samples_per_client=60,
            models=["mlp"],
            rounds=3,
            report={"plots": False},
            run_dir=f"runs/rules/{name}_{seed}",
            progress=False,
        )

runs = fedkd.load("runs/rules")
print(runs.table()[["run", "global_accuracy_after_distillation"]])
print(*runs.compare("strategy").verdicts, sep="\n")
