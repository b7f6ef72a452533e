"""Help in layers, the catalog of names, and cards: nothing is printed that a class does not say."""

from pathlib import Path

import pytest

from fedkd.cli import commands
from fedkd.cli.catalog import lines_of
from fedkd.cli.commands import main
from fedkd.cli.help import CHAPTERS, manual
from fedkd.cli.help_topics import describe, text_of, usual
from fedkd.cli.options import KINDS
from fedkd.cli.strategy_card import card
from fedkd.scenario.registry import GROUPS, names

WIDTH, SCREENS = 100, 60


@pytest.fixture(autouse=True)
def keeping_no_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "LOADING", ())


def test_the_help_of_run_fits_two_screens_and_says_where_the_rest_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["run", "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= SCREENS
    assert max(map(len, lines)) <= WIDTH
    text = usual()
    for word in ("fedkd help train", "fedkd run --help=all", "fedkd list", "strategy=knfu "):
        assert word in text
    assert "clients=10" in text


def test_the_whole_help_names_its_chapters_first(capsys: pytest.CaptureFixture[str]) -> None:
    text = manual({})
    contents = text[text.index("contents (") : text.index("\n\nscenarios (")]
    assert all(chapter in contents for chapter in CHAPTERS)
    assert text.index("contents (") < 3000
    assert main(["run", "--help=all"]) == 0
    assert "\nengine=NAME" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "has", "has_not"),
    [
        (["train", "--help"], "train.momentum=null", "distill.epochs"),
        (["scenario=knfu_mnist", "--help"], "samples_per_client=200", "train.momentum"),
        (["knfu_mnist", "--help"], "partition.alpha=1.0", "train.momentum"),
        (["strategy=knfu", "--help"], "strategy.beta=10.0", "strategy=fedmd"),
        (["privacy", "--help"], "privacy=dp_sgd", "strategy="),
        (["scenarios", "--help"], "swing_text", "strategy="),
    ],
)
def test_help_prints_what_is_named_alone(given: list[str], has: str, has_not: str) -> None:
    text = text_of(given)
    assert has in text
    assert has_not not in text
    assert text.endswith("Everything else: python -m fedkd.simulate --help")


@pytest.mark.parametrize(
    ("topic", "has"),
    [
        ("distill.epochs", "distill.epochs=1\n    Passes over"),
        ("rounds", "rounds=10"),
        ("privacy.epsilon", "privacy=gaussian\n  privacy.epsilon=null"),
        ("dp_sgd", "privacy=dp_sgd"),
        ("codec=top_k", "codec=top_k"),
        ("models", "resnet"),
    ],
)
def test_a_topic_is_a_setting_or_the_name_of_anything(topic: str, has: str) -> None:
    assert has in describe(topic, {})


def test_a_name_of_two_things_tells_of_both(tmp_path: Path) -> None:
    scenario = tmp_path / "digits.yaml"
    scenario.write_text("description: Mine.\npartition: {name: iid}\nclients: 3\n")
    text = describe("digits", {"digits": scenario})
    assert "scenario=digits: Mine." in text
    assert "\n  partition=iid\n  clients=3" in text
    assert "data=digits" in text


def test_help_on_a_command_is_the_commands_own(capsys: pytest.CaptureFixture[str]) -> None:
    for name in (
        "export",
        "compare",
        "privacy-report",
        "reproduce",
        "audit",
        "list",
        "show",
        "doctor",
    ):
        with pytest.raises(SystemExit) as ended:
            main(["help", name])
        assert ended.value.code == 0
        assert f"usage: fedkd {name}" in capsys.readouterr().out
    for name in ("run", "sweep", "resume"):
        assert main(["help", name]) == 0
        assert capsys.readouterr().out.startswith(f"fedkd {name}")


@pytest.mark.parametrize("name", names("strategy"))
def test_every_strategy_has_a_card_of_what_it_sends_needs_and_takes(name: str) -> None:
    text = card(name)
    assert text.startswith(f"strategy={name}: ")
    assert f"\nclients send      {'nothing' if name == 'local_only' else ''}" in text
    assert "\npaper evaluates   " in text
    assert "None" not in text
    assert f"run    fedkd run strategy={name}" in text


def test_a_card_says_source_settings_departures_and_needs() -> None:
    assert "paper  https://arxiv.org/abs/2008.06180" in card("dsfl")
    assert "Departure from the paper: there is no server model" in card("dsfl")
    assert "strategy.era_temperature=null\n      T of entropy reduction" in card("dsfl")
    assert "clients send      probs [N, C] of public samples" in card("dsfl")
    assert "paper evaluates   after distillation" in card("dsfl")
    assert "loss              mae" in card("fedmd")
    assert "clients send      The knowledge of FedProto" in card("fedproto")
    needs = (
        "needs             One architecture for all clients, as weights that are averaged have\n"
    )
    assert f"{needs}{'':<18}Clients of one architecture start from the same weights" in card(
        "fedavg"
    )


def test_the_catalog_has_every_name_with_a_line() -> None:
    assert set(GROUPS) <= set(KINDS.values())
    for kind, setting in KINDS.items():
        lines = lines_of(kind, {"mine": Path("nowhere.yaml")})
        assert lines, kind
        assert all(lines.values()), kind
        if setting in GROUPS:
            assert list(lines) == names(setting)
    assert lines_of("data", {})["cifar10"].endswith("data.path=uoft-cs/cifar10")
    assert lines_of("strategies", {})["knfu"].startswith("KnFu (Seyedmohammadi et al. 2024")
    assert lines_of("scenarios", {"mine": Path("nowhere.yaml")}) == {"mine": "(cannot be read)"}


def test_kinds_are_found_by_either_word(capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("codecs", "codec"):
        assert main(["list", word]) == 0
        said = capsys.readouterr().out
        assert said.startswith("codecs (codec=NAME)\n  own ")
        assert "partition" not in said


def test_a_strategy_of_the_working_folder_is_listed_and_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "strategies").mkdir()
    rule = "class Mine:\n    def fuse(self, cohort, state): ..."
    text = f'"""My rule."""\nraise SystemExit\n{rule}\n'
    (tmp_path / "strategies/mine.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert lines_of("strategies", {})["mine"] == "My rule. (strategies/mine.py of this folder)"
