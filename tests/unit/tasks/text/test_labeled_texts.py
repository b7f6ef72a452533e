"""Texts with classes: token ids in columns, networks that padding does not touch, public texts."""

import dataclasses
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedkd.audit.record_canaries import RecordCanaries, plant
from fedkd.data.column_sources import JsonLinesColumns
from fedkd.data.division import Division, Public
from fedkd.data.public import Same
from fedkd.data.texts import PreparedTexts, TextRows
from fedkd.errors import SettingError
from fedkd.models.heads import OneHead
from fedkd.settings.conditions import RunConditions
from fedkd.tasks.task import TaskSetup
from fedkd.tasks.text.labeled_text_task import LabeledTextTask
from fedkd.tasks.text.scipy_docs import prose
from fedkd.tasks.text.text_classifiers import TEXT_ZOO
from fedkd.tasks.text.text_specs import TextModelSpec, find_text_factory
from fedkd.tasks.text.tokens_section import Tokens
from fedkd.tasks.text.vocabulary import learn_words
from fedkd.training.hyperparameters import Phase

TEXTS = (
    *("the cat sleeps", "a cat eats fish", "the fish swims", "a fish!", "cats and fish"),
    *("the train is late", "a fast train", "trains and cars", "the car", "one car is red"),
)
LABELS = np.repeat([0, 1], 5)
ZOO = sorted(TEXT_ZOO)


def prepared(texts: tuple[str, ...] = TEXTS, key: str = "tiny-texts") -> PreparedTexts:
    encoded = [text.encode() for text in texts]
    return PreparedTexts(
        key=key,
        content=np.frombuffer(b"".join(encoded), dtype=np.uint8),
        ends=np.cumsum([len(text) for text in encoded]),
        labels=np.resize(LABELS, len(texts)),
        train_size=len(texts),
        class_names=("animals", "traffic"),
        columns={},
    )


def made_division(**changes: Any) -> Division:
    whole: dict[str, Any] = {
        "global_test": np.array([0, 9]),
        "held_back": np.array([1, 2, 6, 7]),
        "train": (np.array([3, 4, 5, 8]),),
        "test": (np.array([0]),),
        "validation": (np.arange(0),),
    }
    return Division(**{**whole, **changes})


def made(**changes: Any) -> LabeledTextTask:
    data = prepared()
    whole: dict[str, Any] = {
        "prepared": data,
        "trained_on": data,
        "division": made_division(),
        "public": Public(size=4),
        "public_source": Same(),
        "heads": OneHead(),
        "preprocessing": None,
        "tokens": Tokens(context=6),
        "text_canaries": None,
        "reference": ("bag", Phase()),
        "models": tuple(ZOO),
        "seed": 0,
        "device": torch.device("cpu"),
    }
    return LabeledTextTask.make(TaskSetup(**{**whole, **changes}))


@pytest.mark.parametrize("name", ZOO)
def test_a_text_s_logits_depend_on_its_own_tokens_alone(name):
    model = made().architecture(name).build(3).eval()
    alone = torch.tensor([[4, 2, 0]])
    padding = made().blocks[name].encoder.padding
    row = [4, 2, 0, padding, padding, padding]
    beside = torch.tensor([row, [1, 2, 3, 4, 5, 6], [padding] * 6])
    with torch.no_grad():
        assert torch.allclose(model(beside)[0], model(alone)[0], atol=1e-6)
        assert torch.isfinite(model(beside)).all()  # also of a text without a known token
        other = torch.tensor([[4, 2, 1]])
        assert not torch.allclose(model(other)[0], model(alone)[0], atol=1e-4)


@pytest.mark.parametrize("name", ZOO)
def test_a_network_of_texts_ends_in_a_linear_layer_and_is_made_by_its_seed(name):
    spec = made().architecture(name)
    traits = spec.probe(features=True)
    assert traits.features == 64 * (1 + (name == "text_cnn"))
    first, again, other = (
        nn.utils.parameters_to_vector(spec.build(s).parameters()) for s in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_rows_are_words_of_public_text_cut_and_filled_up():
    task = made()
    vocabulary = learn_words([TEXTS[i] for i in (1, 2, 6, 7)], 5000)
    ids, labels = task.training_set(np.array([3, 5]), (0,))
    separator, unknown = vocabulary.size - 1, vocabulary.size - 2
    assert vocabulary.encode("a FISH zebra") == [*vocabulary.encode("a fish"), unknown]
    assert ids[0].tolist() == [*vocabulary.encode("a fish!"), *[separator] * 3]
    assert labels.tolist() == [0, 1]
    assert made(tokens=Tokens(context=2)).test_set(np.array([5]))[0].tolist() == [
        vocabulary.encode("the train")
    ]
    assert task.label_counts(np.array([3, 4, 5]), (0,)) == (2, 1)
    assert task.public_labels.tolist() == [0, 0, 1, 1]
    assert torch.equal(task.ask(torch.tensor([2])).inputs, task.public_inputs[2:3])


@dataclass(frozen=True)
class Letters:
    """A second way to make ids of texts: the letters' places in the alphabet, filled up with 0."""

    size, padding, key = 30, 0, "letters"

    def encode_all(self, texts: Any, most: int) -> list[list[int]]:
        return [[1 + (ord(c) - 97) % 29 for c in text][:most] for text in texts]

    def describe(self) -> dict[str, object]:
        return {"letters": 30}


def test_every_model_reads_the_columns_of_its_own_tokenizer(monkeypatch):
    from fedkd.tasks.text import labeled_text_task

    usual = labeled_text_task._encoder
    monkeypatch.setattr(
        labeled_text_task,
        "_encoder",
        lambda model, *rest: Letters() if model == "text_cnn" else usual(model, *rest),
    )
    both = made()
    assert both.public_inputs.shape == (4, 12)
    spec = both.architecture("text_cnn")
    assert spec.arguments == ((30, 6, 0), 2)
    bag, cnn = both.architecture("bag").build(0).eval(), spec.build(0).eval()
    words, letters = both.public_inputs[:, :6], both.public_inputs[:, 6:]
    assert letters[3].tolist() == [1 + (ord(c) - 97) % 29 for c in "trains"]
    assert torch.equal(bag(both.public_inputs), bag.head(torch.relu(bag.hidden(_mean(bag, words)))))
    moved = both.public_inputs.clone()
    moved[:, :6] = 0
    assert torch.equal(cnn(both.public_inputs), cnn(moved))


def _mean(bag: Any, ids: torch.Tensor) -> torch.Tensor:
    real = (ids != bag.padding)[..., None]
    return (bag.embedding(ids) * real).sum(1) / real.sum(1)


@dataclass(frozen=True)
class Elsewhere:
    """Another source of texts."""

    task = "labeled_texts"

    def content_key(self) -> str:
        return "elsewhere"

    def load(self) -> TextRows:
        texts = tuple(f"public text number {i}" for i in range(6))
        return TextRows(texts, np.zeros(6, dtype=np.int64), 6, ("none",), {})


def test_public_texts_may_be_of_another_source_in_part():
    task = made(public=Public(size=4, foreign_share=0.5, reserved=4), public_source=Elsewhere())
    assert task.public_size == len(task.public_inputs) == 4
    assert task.public_labels.tolist() == [-1] * 4
    assert task.parts[1].prepared.text(0).startswith("public text")
    with pytest.raises(SettingError, match="public_data has 6 training texts, but 9"):
        made(public=Public(size=9, reserved=4), public_source=Elsewhere())


def test_an_empty_public_text_is_said_to_be_of_the_public_set(tmp_path: Path) -> None:
    (tmp_path / "few.jsonl").write_text('{"text": "a b"}\n{"text": ""}\n')
    few = JsonLinesColumns(path=str(tmp_path / "few.jsonl"), kind="labeled_texts")
    with pytest.raises(SettingError, match=r"^public_data: few.jsonl, row 2, column 'text'"):
        made(public=Public(size=9, reserved=4), public_source=few)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"corruption": "blur"}, "public.corruption does not go with data=x: it is for images"),
        ({"components": {"data": "x", "public_data": "noise"}}, "public_data=noise"),
    ],
)
def test_what_is_for_images_is_refused(changes, said):
    ordinary = RunConditions(components={"data": "x"}, data_kind="labeled texts")
    assert said in str(LabeledTextTask.conflict(dataclasses.replace(ordinary, **changes)))
    assert LabeledTextTask.conflict(ordinary) is None


def test_settings_of_next_tokens_are_refused_and_those_of_words_are_not():
    of_classes = RunConditions(components={"data": "x"}, data_kind="labeled texts")
    assert Tokens(context=9, vocabulary="words", vocabulary_size=9).conflict(of_classes) is None
    assert "tokens.skip would do nothing" in str(Tokens(skip="pattern").conflict(of_classes))
    of_tokens = RunConditions(components={"data": "x"}, data_kind="texts")
    assert "words do not give the text back" in str(Tokens(vocabulary="words").conflict(of_tokens))
    with pytest.raises(SettingError, match=r"made of public text, and there is none"):
        made(
            division=Division(*(np.arange(0),) * 2, *((np.arange(2),),) * 3), public=Public(size=0)
        )


def test_an_audit_plants_other_labels_in_texts_and_no_other_texts():
    data, division = prepared(), made_division(train=(np.array([3, 4, 5, 8]),))
    canaries = RecordCanaries(per_client=2)
    altered, _, candidates = plant(data, division, canaries, seed=0)
    task = made(trained_on=altered)
    assert task.test_set(candidates.rows)[1].tolist() == (1 - LABELS[candidates.rows]).tolist()
    assert torch.equal(task.test_set(candidates.rows)[0], made().test_set(candidates.rows)[0])
    with pytest.raises(SettingError, match=r"audit.kind=blank is not for texts"):
        plant(data, division, replace(canaries, kind="blank"), seed=0)


def test_models_of_something_else_and_wrong_networks_are_refused():
    with pytest.raises(SettingError, match=r"mlp is a model of images.*take models of bag"):
        find_text_factory("mlp")
    with pytest.raises(SettingError, match=r"gru is a model of next tokens"):
        find_text_factory("gru")
    wide = dataclasses.replace(made().architecture("bag"), name="text_transformer(width=10)")
    with pytest.raises(SettingError, match=r"text_transformer\(width=10, heads=4\): heads must"):
        wide.build(0)
    spec = TextModelSpec("text_cnn(filters=3)", made().blocks["bag"], 6, 2)
    assert spec.probe(features=True).features == 6


def test_only_prose_is_taken_of_a_docstring():
    long = "One of these sentences is long enough to be taken as prose here."
    said = f"Short.\n\n{long}\n\nParameters\n----------\na : {long}\n\nNotes\n-----\nAlso, {long}\n"
    assert prose(said) == [long, f"Also, {long}"]
    assert prose(f"{long} :math:`x`\n\n.. note:: {long}\n\n>>> {long}") == []
