"""Fusion methods, one file each, found by the file's name; `README.md` has a card for each."""
