"""Local training: loops, losses, optimizers, metrics."""
