"""Language modelling: sources of text, causal models, canaries, exposure, and text as a task of the
simulator.

Token positions of public text are the samples that clients predict on. Not for: the federation
itself, which knows nothing of text.
"""
