"""Train under several privacy budgets, print what is claimed, and make the report.

Canaries are planted: records with another label, of which the server tries to tell which were
trained on (AUC 0.5 is guessing). One seed and few rounds show how it goes, and prove nothing.
"""

import fedkd
from fedkd.cli import privacy_report

for epsilon in (1.0, 8.0, float("inf")):
    run = fedkd.run(
        "privacy_budget",
        **{"privacy.epsilon": epsilon},
        clients=4,
        rounds=2,
        report={"wandb": "disabled", "plots": False},
        run_dir=f"runs/budget/{epsilon}",
        progress=False,
    )
    accuracy = run.summary["global_accuracy_after_distillation"]
    auc = run.summary["audit"]["auc"]
    print(f"epsilon {epsilon}: accuracy {accuracy:.3f}, attack's AUC {auc:.2f}")
    claim = run.summary["privacy"]
    print("  ", claim["text"][0] if claim["epsilon"] is not None else "nothing is claimed")

privacy_report.main(["--runs", "runs/budget", "--out", "privacy"])
