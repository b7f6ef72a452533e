"""Client models: built-in ones by name, and any factory of a ``torch.nn.Module`` by import path."""
