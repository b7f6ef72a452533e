"""Studies that ``fedkd reproduce`` carries out: their settings, claims and reports."""
