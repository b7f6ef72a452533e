"""Whole runs: build a scenario, run it, resume, compare with local training, sum up."""
