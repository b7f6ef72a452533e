"""Reports of runs: console, files, plots, W&B, and comparisons of several runs.

They are written from records. Nothing here changes a run.
"""
