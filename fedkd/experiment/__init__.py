"""Whole runs: build a scenario into objects, run, resume, compare with local training,
summarize.
"""
