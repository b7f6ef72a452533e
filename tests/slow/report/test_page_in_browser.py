"""The pages in a real browser: nothing is fetched, all is reached by key, axe finds no fault."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import stored
from chromium import Chromium, chromium, chromium_here

from fedkd.report.pages.run_page import write_run_page

AXE = "FEDKD_AXE"
"""The variable that names a file of axe-core, ``axe.min.js``."""
RULES = "['wcag2a','wcag2aa','wcag21a','wcag21aa','wcag22aa','best-practice']"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    summary = {
        "privacy": {
            "claims": [
                {"unit": "record", "adversary": "server", "epsilon": 2.0, "delta": 1e-5},
                {"unit": "record", "adversary": "clients", "delta": 1e-5, "reason": "raw"},
            ]
        },
        "audit": {
            "auc": 0.95,
            "by_adversary": {"server": {"auc": 0.95, "auc_low": 0.89, "auc_high": 1.0}},
        },
    }
    return write_run_page(stored.write_run(tmp_path_factory.mktemp("r") / "run", summary=summary))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    if chromium_here() is None:
        pytest.skip("there is no Chromium here")
    with chromium(tmp_path_factory.mktemp("chromium")) as found:
        yield found


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (1200, True), (390, False)])
def test_a_page_fits_its_width_and_has_its_colors(
    browser: Chromium, page: Path, width: int, dark: bool
) -> None:
    browser.show(page, width=width, dark=dark)
    assert browser.run("document.documentElement.scrollWidth") == width
    background = browser.run("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)")
    assert browser.run("performance.getEntriesByType('resource').length") == 0
    assert browser.run("document.querySelectorAll('figure svg').length") == 6
    shown = "[...document.querySelectorAll('figure svg')].every(s => s.clientHeight > 100)"
    assert browser.run(shown)
    assert browser.picture().startswith(b"\x89PNG")


def test_a_page_is_reached_by_key(browser: Chromium, page: Path) -> None:
    browser.show(page)
    reached = []
    for _ in range(60):
        browser.press_tab()
        reached.append(browser.run("document.activeElement.tagName"))
    assert {"A", "SUMMARY", "DIV"} <= set(reached)
    assert browser.run("document.querySelector('.skip').textContent") == "Skip to the report"


@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_no_fault(browser: Chromium, page: Path, dark: bool) -> None:
    path = Path(os.environ.get(AXE, "node_modules/axe-core/axe.min.js"))
    if not path.is_file():
        pytest.skip(f"there is no axe-core: npm install axe-core, or {AXE}=.../axe.min.js")
    browser.call("Page.setBypassCSP", enabled=True)
    browser.show(page, dark=dark)
    browser.run("document.querySelectorAll('details').forEach(d => { d.open = true })")
    browser.run(path.read_text() + ";0")
    script = f"axe.run(document, {{runOnly: {RULES}}}).then(r => r.violations.map(v => v.id))"
    assert browser.run(script) == []
