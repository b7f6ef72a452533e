"""What Flower bundles of a checkout has all that the apps import."""

import io
import zipfile

from flwr.cli.build import build_fab_from_files
from paths import ROOT


def test_the_bundle_has_fedkd_and_the_folders_beside_it() -> None:
    """Flower follows no link: ``fedkd`` finds the folders beside it (``test_strategy_files``)."""
    folders = ("fedkd", "strategies", "scenarios")
    paths = [p for name in folders for p in (ROOT / name).rglob("*") if p.is_file()]
    kept = [p for p in paths if not p.is_symlink() and "__pycache__" not in p.parts]
    files = {p.relative_to(ROOT).as_posix(): p for p in (*kept, ROOT / "pyproject.toml")}
    with zipfile.ZipFile(io.BytesIO(build_fab_from_files(files)[0])) as bundle:
        inside = set(bundle.namelist())
    wanted = [name for name in files if name.endswith((".py", ".yaml"))]
    assert set(wanted) <= inside
    assert "strategies/knfu.py" in inside
    assert not [name for name in inside if name.startswith("fedkd/strategies")]
