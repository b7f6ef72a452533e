"""What only some runs need is left out of a plain installation, and named where it is missing."""

import sys
import tomllib

import pytest
from paths import ROOT

from fedkd.errors import SettingError
from fedkd.flower.ray_grid import Ray
from fedkd.privacy.distributions import prv_epsilon
from fedkd.privacy.release_plan import check_accountant
from fedkd.privacy.renyi import sampled_gaussian_cost
from fedkd.settings.optional_libraries import EXTRAS, is_installed, require
from fedkd.tasks.text.vocabulary import learn_byte_pairs

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OPTIONAL = PROJECT["optional-dependencies"]
OF_ONE_TORCH = {"timm", "torchvision"}
"""What ``all`` leaves out: they are installed beside one version of torch alone."""


def named(requirement: str) -> str:
    """Return the import name of a requirement's package, near enough."""
    package = requirement.partition("[")[0].partition(">")[0]
    return {"mlflow-skinny": "mlflow"}.get(package, package.replace("-", "_"))


def test_each_library_is_in_its_extra_alone_and_all_has_them_all() -> None:
    extras = {name for name in OPTIONAL if name not in ("all", "dev", "docs")}
    assert set(EXTRAS.values()) == extras
    listed = (name for name in OPTIONAL if name in extras - OF_ONE_TORCH - {"xgboost"})
    assert OPTIONAL["all"] == [f"fedkd[{','.join(listed)}]"]
    assert "fedkd[all]" in OPTIONAL["dev"]
    core = {named(requirement) for requirement in PROJECT["dependencies"]}
    for library, extra in EXTRAS.items():
        assert library in map(named, OPTIONAL[extra])
        assert library not in core


@pytest.mark.parametrize("library", EXTRAS)
def test_a_missing_library_is_named_with_its_install_line(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if library not in OF_ONE_TORCH:
        assert is_installed(library)
        require(library, "the test")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(SettingError) as error:
        require(library, "the test")
    install = f"pip install 'fedkd[{EXTRAS[library]}]'"
    assert str(error.value) == f"the test needs {library}, which is not installed: {install}"


def test_what_needs_one_asks_for_it_before_it_imports_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("ray", "opacus", "dp_accounting", "tokenizers"):
        monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(SettingError, match=r"^engine=ray needs ray"), Ray().session():
        pass
    with pytest.raises(SettingError, match=r"^privacy=dp_sgd needs opacus"):
        sampled_gaussian_cost(1.0, 0.1)
    with pytest.raises(SettingError, match=r"^accountant=prv needs opacus"):
        prv_epsilon([(1.0, 0.1, 1)], 1e-5)
    with pytest.raises(SettingError, match=r"^accountant=pld needs dp_accounting"):
        check_accountant("pld")
    with pytest.raises(SettingError, match=r"^a vocabulary of byte pairs needs tokenizers"):
        learn_byte_pairs(["text"], 300)
