"""What the documents name exists."""

import re
import tomllib

import pytest
import yaml
from paths import ROOT

import fedkd
from fedkd.settings.reply_limits import DTYPES, LIMITS, ReplyLimits
from fedkd.settings.schema import documentation

DOCUMENTS = [
    "README.md",
    "CHANGELOG.md",
    "CODE_OF_CONDUCT.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "strategies/README.md",
    *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md"))),
]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_and_link_leads_somewhere(document: str) -> None:
    text = (ROOT / document).read_text()
    paths = set(re.findall(r"`((?:fedkd|strategies|scenarios|tests|scripts|docs)/[\w/.]*)`", text))
    written = ("strategies/my_rule.py", "strategies/X.py", "strategies/mine.py")
    paths -= {*written, "scenarios/mine.yaml"}  # those that the reader writes
    missing = [path for path in sorted(paths) if not (ROOT / path).exists()]
    folder = (ROOT / document).parent
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    missing += [link for link in links if not (folder / link).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_scenario_and_choice_that_is_named_exists(document: str) -> None:
    from fedkd.cli.arguments import scenario_files
    from fedkd.scenario.registry import GROUPS, names
    from fedkd.settings.renamed import CHOICES

    text = (ROOT / document).read_text()
    for name in re.findall(r"\bscenario=([a-z0-9_]+)", text):
        assert name in {*scenario_files(), "mine"}, name
    for group in GROUPS:
        for name in re.findall(rf"(?<![\w.]){group}=([a-z_0-9]+)(?![\w.:])", text):
            renamed = [old for of_group, old in CHOICES if of_group == group]
            assert name in {*names(group), *renamed, "my_rule", "mine"}, f"{group}={name}"


def test_the_page_of_columns_is_what_the_figures_declare() -> None:
    from fedkd.report.columns import document

    assert (ROOT / "docs/columns.md").read_text() == document()


def test_the_page_of_settings_is_what_the_classes_declare() -> None:
    from write_settings import document

    written = (ROOT / "docs/settings.md").read_text()
    assert written == document(), "python scripts/write_settings.py writes it anew"


def test_every_column_of_a_run_is_explained() -> None:
    from fedkd.federation.round_records import ClientRecord, RoundRecord
    from fedkd.report.columns import document
    from fedkd.report.record_rows import client_row, round_row

    client = ClientRecord(client_id=0, architecture="mlp", status="ok", train_size=1)
    columns = {
        *client_row(client, 1),
        *round_row(RoundRecord(round=1, clients=(client,), seconds=0), None),
    }
    assert columns <= set(re.findall(r"`(\w+)`", document()))


def test_the_document_on_security_has_every_limit_of_a_clients_message() -> None:
    text = (ROOT / "docs" / "security.md").read_text()
    for name, meaning in documentation(ReplyLimits).items():
        assert f"| {meaning} | {getattr(LIMITS, name):,} |" in text
    for name in DTYPES:
        assert f"`{name}`" in text


def test_the_version_is_the_same_wherever_it_stands() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert project["version"] == citation["version"] == fedkd.__version__
    assert [author["name"] for author in citation["authors"]] == [
        author["name"] for author in project["authors"]
    ]


def test_the_workflow_runs_what_is_said_to_be_supported() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    job = workflow["jobs"]["run"]
    assert {"run": "bash .ci/run"}.items() <= job["steps"][-1].items()
    nightly = yaml.safe_load((ROOT / ".github/workflows/nightly.yml").read_text())
    assert nightly["jobs"]["run"]["steps"][-1]["run"] == "make nightly"
    assert job["strategy"]["matrix"] == {
        "os": ["ubuntu-latest", "macos-latest"],
        "python": ["3.11", "3.12", "3.13"],
    }
