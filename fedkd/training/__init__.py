"""Local training of one model: loop, losses, optimizers, metrics."""
