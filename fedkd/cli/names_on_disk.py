"""Names of scenarios and strategies, read off their files: nothing of them is imported."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def scenario_names() -> list[str]:
    """Return the names of fedkd's scenarios and of those in the working folder."""
    return _stems("scenarios", "*.yaml")


def strategy_names() -> list[str]:
    """Return the names of fedkd's strategies and of those in the working folder."""
    return [name for name in _stems("strategies", "*.py") if not name.startswith("_")]


def _stems(folder: str, pattern: str) -> list[str]:
    """Return the names of files in fedkd's folder and in that of the working folder."""
    shipped = PACKAGE / folder
    if not shipped.is_dir():  # a checkout without symbolic links has it beside the package
        shipped = PACKAGE.parent / folder
    return sorted(
        {path.stem for parent in (shipped, Path(folder)) for path in parent.glob(pattern)}
    )
