"""Links of the documents as a reader of the site finds them."""

import sys
from types import SimpleNamespace

import pytest
import yaml
from paths import ROOT
from site_pages import LOG, mended, methods_page


@pytest.mark.parametrize(
    ("page", "text", "found"),
    [
        ("extending.md", "[cards](../strategies/README.md#knfu)", "[cards](methods.md#knfu)"),
        ("tutorials/text.md", "[a](../privacy.md#x)", "[a](../privacy.md#x)"),
        ("tutorials/text.md", "[a](../../strategies/README.md)", "[a](../methods.md)"),
        ("swing.md", "[the file](../fedkd/strategy.py)", "the file (`fedkd/strategy.py`)"),
        ("swing.md", "[fedkd/strategy.py](../fedkd/strategy.py)", "fedkd/strategy.py"),
        ("swing.md", "[a](https://arxiv.org) [b](#c)", "[a](https://arxiv.org) [b](#c)"),
        ("swing.md", '```\nrows["kl"](estimates)\n```', '```\nrows["kl"](estimates)\n```'),
    ],
)
def test_a_link_leads_to_where_a_reader_of_the_site_is(page: str, text: str, found: str) -> None:
    assert mended(text, f"docs/{page}", page, None) == found


def test_a_link_to_a_file_leads_to_the_repository_where_its_address_is_known() -> None:
    found = mended("[x](../fedkd/strategy.py)", "docs/swing.md", "swing.md", "https://host/fedkd/")
    assert found == "[x](https://host/fedkd/blob/main/fedkd/strategy.py)"


def test_a_link_to_nothing_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(LOG, "warning", lambda text, *values: warnings.append(text % values))
    mended("[x](../fedkd/none.py)", "docs/swing.md", "swing.md", None)
    assert warnings == ["docs/swing.md: there is no fedkd/none.py"]


def test_the_page_of_methods_has_a_card_for_each_with_its_settings() -> None:
    page = methods_page((ROOT / "strategies" / "README.md").read_text())
    names = sorted(p.stem for p in (ROOT / "strategies").glob("[a-z]*.py"))
    for name in names:
        assert f"[`{name}`](#{name})" in page
        assert f"### {name}\n\n`strategy={name}`" in page
    assert "[settings](../docs/settings.md#strategyknfu)" in page
    assert "settings.md#strategylocal_only" not in page  # it has none


def test_a_doctest_of_a_docstring_is_shown_as_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "griffe", SimpleNamespace(Extension=object))
    from docstring_examples import fenced

    text = "Add.\n\n>>> 1 + 1\n2\n\nMore.\n\n    formula\n"
    assert fenced(text) == ("Add.\n\n```pycon\n>>> 1 + 1\n2\n```\n\nMore.\n\n    formula\n")


def test_the_site_asks_nothing_of_the_network() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert site["strict"] is True
    assert site["theme"]["font"] is False
    names = [p if isinstance(p, str) else next(iter(p)) for p in site["plugins"]]
    assert names == ["search", "mkdocstrings"]
    assert not {"extra_javascript", "google_analytics"} & set(site)
