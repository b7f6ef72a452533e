"""Data sets, their partition among clients, and public sets.

Data sets are prepared once and memory-mapped; named random streams divide them.
"""
