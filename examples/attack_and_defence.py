"""Let two of five clients lie, with the mean and with the median at the server."""

import fedkd

lies = {"attacks": {"name": "sign_flip", "fraction": 0.4, "strength": 10.0}}
cases = {
    "nobody lies, mean": {},
    "nobody lies, median": {"robust": "median"},
    "two lie, mean": lies,
    "two lie, median": {**lies, "robust": "median"},
}
for name, settings in cases.items():
    run = fedkd.run(
        "digits",
        strategy={"name": "dsfl", "aggregation": "mean"},
        models=["mlp"],
        samples_per_client=60,
        clients=5,
        rounds=2,
        baseline="none",
        report={"plots": False},
        progress=False,
        **settings,
    )
    accuracy = run.summary["global_accuracy_after_distillation"]
    print(f"{name:<20} accuracy of honest clients, all classes alike: {accuracy:.3f}")
