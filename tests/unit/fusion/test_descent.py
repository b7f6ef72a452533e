"""Learning at the server: plain SGD against PyTorch's, and weights as those of a linear layer."""

import numpy as np
import torch
from fusion_problems import law
from torch import nn

from fedkd.fusion import descend, linear_weights


@law(descend)
def test_steps_are_those_of_pytorchs_sgd_and_leave_what_they_began_with():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(7, 3, generator=generator), torch.randn(7, 2, generator=generator)
    layer = nn.Linear(3, 2)
    start = {name: tensor.detach().clone() for name, tensor in layer.named_parameters()}
    before = {name: tensor.clone() for name, tensor in start.items()}
    found, last = descend(
        start,
        lambda now, rows: (x[rows] @ now["weight"].T + now["bias"] - y[rows]).square().mean(),
        len(x),
        epochs=2,
        batch_size=3,
        learning_rate=0.1,
        stream=np.random.default_rng(5),
    )
    assert all(torch.equal(start[name], before[name]) for name in start)

    stream, optimizer = np.random.default_rng(5), torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(2):
        total = 0.0
        for rows in torch.from_numpy(stream.permutation(7)).split(3):
            optimizer.zero_grad()
            loss = (layer(x[rows]) - y[rows]).square().mean()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
    for name, tensor in layer.named_parameters():
        torch.testing.assert_close(found[name], tensor.detach())
    assert abs(last - total / 7) < 1e-5


@law(linear_weights)
def test_new_weights_lie_within_the_bound_of_pytorchs_linear_layer():
    stream = torch.Generator().manual_seed(0)
    weight, bias = linear_weights(16, 500, stream)
    assert (weight.shape, bias.shape) == ((500, 16), (500,))
    assert weight.abs().max() <= 0.25
    assert abs(weight.std().item() - 0.25 / 3**0.5) < 0.005
