"""The page of a run: what it says, that it stands alone, and that it trusts nothing of a folder."""

import re
from pathlib import Path
from typing import Any

import pytest
import stored
from parsed_pages import Page, check_alone

from fedkd.errors import Damaged, SettingError
from fedkd.report.pages.privacy_in_words import audit_in_words, claims_in_words
from fedkd.report.pages.run_page import run_page, write_run_page

HOSTILE = "<script>alert(1)</script>\" onload='x' {{ 7*7 }} $\\frac$ \x1b[31m\u202e"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return run_page(stored.write_run(tmp_path_factory.mktemp("runs") / "one"))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the pictures, which take the time."""
    nothing: dict[str, list[Any]] = {n: [] for n in ("accuracy", "gain", "weights", "partition")}
    monkeypatch.setattr("fedkd.report.pages.run_page._pictures", lambda facts: nothing)


def test_a_page_stands_alone(page: str) -> None:
    check_alone(page)
    assert page.lstrip().startswith("<!doctype html>")
    policies = [m.get("content") for m in Page(page).named("meta") if "http-equiv" in m]
    assert policies
    assert str(policies[0]).startswith("default-src 'none'")


def test_a_page_has_landmarks_headings_and_named_tables(page: str) -> None:
    found = Page(page)
    assert found.named("html")[0]["lang"] == "en"
    assert [len(found.named(tag)) for tag in ("h1", "main", "nav", "header")] == [1, 1, 1, 1]
    assert len(found.named("table")) == len(found.named("caption")) > 4
    assert all(cell.get("scope") in ("row", "col") for cell in found.named("th"))
    assert all(svg.get("aria-label") for svg in found.named("svg"))
    anchors = {a["href"] for a in found.named("a")}
    assert anchors <= {f"#{attributes.get('id')}" for _, attributes in found.elements}


def test_a_page_says_what_the_run_came_to(page: str) -> None:
    text = Page(page).text
    assert (
        "After distillation, knfu beats local training by 21.0 points on the clients' own"
        " distributions (95 % interval +18.5 to +23.5; 3 of 3 clients are better off, 0 worse)."
    ) in text
    assert "After training, knfu is 0.0 points" in text
    assert "Clients send logits." in text
    assert "600 B" in text
    assert "1.2 kB" in text
    assert "No protection is claimed against anybody: raw predictions." in text
    assert "fedkd run --config config.yaml" in text
    assert "itself 90%" in text


def test_pictures_take_their_colors_from_the_page(page: str) -> None:
    assert len(Page(page).named("svg")) == 6
    assert "var(--blue)" in page
    assert "var(--gray)" in page
    assert not re.search(r"#01020[34]|#0072b2;|#555555", page.partition("</style>")[2])


@pytest.mark.parametrize("drawn", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_what_a_folder_holds_is_text(
    drawn: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if not drawn:
        request.getfixturevalue("undrawn")
    found = stored.records()
    client = found[0].clients[0].with_figures({"status": "rejected", "reason": HOSTILE})
    object.__setattr__(found[0], "clients", (client, *found[0].clients[1:]))
    plan = stored.plan(
        strategy=HOSTILE,
        title=HOSTILE,
        class_names=("$x", HOSTILE),
        warnings=(HOSTILE,),
        architectures=(HOSTILE, "a", "b"),
        exchanged=HOSTILE,
    )
    folder = stored.write_run(
        tmp_path / "<script>alert(2)<",
        summary={"privacy": {"reason": HOSTILE}, "versions": {HOSTILE: HOSTILE}},
        found=found,
        of=plan,
        settings={**stored.SETTINGS, "description": HOSTILE, "name": HOSTILE},
    )
    text = run_page(folder)
    check_alone(text)
    assert "alert(1)" in text
    assert "<script" not in text
    assert "{{ 7*7 }}" in text
    assert not {"\x1b", "\u202e"} & set(text)


def test_nothing_that_a_folder_names_is_imported(
    undrawn: None, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')\n")
    folder = stored.write_run(
        tmp_path / "run",
        settings={
            **stored.SETTINGS,
            "strategy": {"name": "evil:Evil"},
            "data": {"name": "evil:Data"},
            "models": ["evil:net"],
        },
    )
    assert "evil:Data" in run_page(folder)
    (folder / "config.yaml").write_text("!!python/object/apply:os.system ['touch boom']\n")
    with pytest.raises(Damaged, match="not those that a run writes"):
        run_page(folder)
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("status", ["running", "interrupted", "failed"])
def test_a_run_that_is_not_finished_says_so(undrawn: None, status: str, tmp_path: Path) -> None:
    folder = stored.write_run(tmp_path / "run", summary={"status": status})
    assert f"Status: {status}." in Page(run_page(folder)).text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("summary.json", "{"),
        ("summary.json", "[]"),
        ("rounds.jsonl", "{}\n"),
        ("clients.csv", "a\n1\n"),
        ("plan.json", "{}"),
        ("plan.json", "[1]"),
        ("weights.npy", "x"),
        ("audit.json", "[3]"),
    ],
)
def test_a_damaged_file_is_named_or_its_run(
    undrawn: None, name: str, content: str, tmp_path: Path
) -> None:
    folder = stored.write_run(tmp_path / "run")
    (folder / name).write_text(content)
    with pytest.raises(Damaged, match="run"):
        run_page(folder)


def test_a_run_of_before_plans_has_a_page_too(undrawn: None, tmp_path: Path) -> None:
    folder = stored.write_run(tmp_path / "run")
    (folder / "plan.json").unlink()
    assert "stored no counts by class" in Page(run_page(folder)).text


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="no run's folder"):
        write_run_page(tmp_path)


def test_claims_say_what_they_mean_and_against_whom() -> None:
    claim = {"unit": "record", "adversary": "server", "epsilon": 2.0, "delta": 1e-5}
    said = claims_in_words({"claims": [claim, {**claim, "epsilon": None, "reason": "raw"}]})
    assert "by a factor of at most 7.39" in said[0].text
    assert said[0].tone == "good"
    assert said[1].text == "Against the server nothing is claimed: raw"
    assert claims_in_words({"claims": [{**claim, "epsilon": 40.0}]})[0].tone == "open"


@pytest.mark.parametrize(
    ("entry", "tone", "said"),
    [
        ({"auc": 0.95, "auc_low": 0.89, "auc_high": 1.0}, "bad", "this run leaks"),
        ({"auc": 0.55, "auc_low": 0.45, "auc_high": 0.65}, "open", "no proof of safety"),
        ({"auc": None, "auc_low": None}, "open", "no attack that could be measured"),
    ],
)
def test_an_audit_says_whether_a_run_leaks(entry: dict[str, Any], tone: str, said: str) -> None:
    found = audit_in_words({"by_adversary": {"clients": entry}}, planted=True)
    assert found[0].tone == tone
    assert said in found[0].text


def test_an_audit_says_what_becomes_of_the_claim() -> None:
    def last(**entry: Any) -> str:
        whole = {"auc": 0.9, "auc_low": 0.8, "auc_high": 1.0, "claimed_epsilon": 1.0, **entry}
        return audit_in_words({"by_adversary": {"server": whole}}, planted=False)[-1].text

    assert "refutes the claim" in last(verdict="VIOLATION", lower_bound=2.0)
    assert "does not refute" in last(verdict="consistent (power unknown)", lower_bound=0.5)
    assert "cannot judge" in last(verdict="uninformative")
    assert "Nothing is claimed" in last(verdict="no claim", lower_bound=0.5)
