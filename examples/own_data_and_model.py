"""Federate images that are in memory with a network of one's own, and keep a client's model."""

import numpy as np
import torch
from torch import nn

import fedkd

stream = np.random.default_rng(0)
labels = np.arange(800) % 4
images = stream.integers(0, 200, (800, 6, 6)).astype(np.uint8)  # noise, and a bright dot
images[np.arange(800), labels, labels] = 250


def net(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Return a small perceptron."""
    channels, height, width = input_shape
    return nn.Sequential(
        nn.Flatten(), nn.Linear(channels * height * width, 32), nn.ReLU(), nn.Linear(32, classes)
    )


run = fedkd.run(
    "digits",
    data=(images, labels),
    models=[net, "mlp"],  # in turn: clients 0 and 2 have net
    clients=4,
    public={"size": 100},
    test={"global_size": 100},
    samples_per_client=60,
    rounds=2,
    report={"plots": False},
    progress=False,
)
print(run.rounds[["round", "global_accuracy_after_distillation"]].round(3))

model = run.model(0)
torch.save(model.state_dict(), "client_0.pt")
print(f"client_0.pt holds client 0's {sum(p.numel() for p in model.parameters()):,} parameters")
