"""Language modelling as a task of the simulator.

Here are sources of text, vocabularies, causal models, canaries and their exposure. Token positions
of public text are the samples that clients predict on. Not for: the federation itself, which knows
nothing of text.
"""
