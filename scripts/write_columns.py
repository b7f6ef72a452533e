"""Write ``docs/columns.md`` from what the figures of a run declare.

python scripts/write_columns.py
"""

from pathlib import Path

from fedkd.report.columns import document

if __name__ == "__main__":
    (Path(__file__).parent.parent / "docs" / "columns.md").write_text(document())
