"""Runs side by side: what several methods came to over seeds and settings, read from their run
folders alone.

``finished`` reads a folder, ``figures`` makes numbers of one run, ``statistics`` of several,
``tables`` and ``pictures`` show them. Nothing here runs anything (``scripts/compare.py`` does) or
knows a strategy.
"""
