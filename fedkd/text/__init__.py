"""Language modelling: corpora, causal models, canaries, exposure, and swing by token.

Token positions of public text are the samples that clients predict on. Not for: the federation itself, which knows
nothing of text.
"""
