"""Data sets, partitions and public sets: prepared once, memory-mapped, split by named random
streams.
"""
