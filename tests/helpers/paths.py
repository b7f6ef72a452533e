"""Folders that tests name."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The repository."""
HELPERS = ROOT / "tests" / "helpers"
"""What tests import by name: processes that tests start need it on their path."""
