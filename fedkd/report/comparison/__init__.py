"""Comparisons of several methods over seeds and settings, from their run folders.

``run_reader`` reads a folder, ``figures`` computes the figures of one run, ``statistics`` those of
several; ``tables`` and ``pictures`` show them. Not for: running anything, which
``fedkd.cli.compare`` does.
"""
