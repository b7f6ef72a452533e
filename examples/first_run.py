"""Run KnFu on digits, and look at what came of it."""

import fedkd

run = fedkd.run(
    "digits",
    strategy="knfu",
    seed=1,
    clients=4,
    samples_per_client=60,
    models=["mlp", "cnn"],  # given to clients in turn
    rounds=3,
    report={"plots": False},  # else pictures are in the run's folder, too
    progress=False,
)

print("Accuracy on all classes alike, after each round, and gain over training alone:")
figures = run.rounds[["global_accuracy_after_distillation", "global_gain_after_distillation"]]
print(figures.round(3))

print("\nWho taught whom in the last round (row: learner, column: teacher):")
print(run.weights[-1].round(2))

last = run.clients[run.clients["round"] == 3]
print("\nClient by client:")
print(last[["client", "architecture", "train_size", "personal_accuracy_after_distillation"]])

run.plot("accuracy").savefig("accuracy.png")
print(f"\naccuracy.png is drawn; everything else is in {run.folder}")
