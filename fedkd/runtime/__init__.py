"""Execution: named random streams, device selection, deterministic and parallel computation."""
