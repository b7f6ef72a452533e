"""Client models: a small zoo by name, and any factory of a ``torch.nn.Module`` by import path."""
