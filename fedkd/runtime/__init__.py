"""Execution: random streams, devices, use of several cores."""
