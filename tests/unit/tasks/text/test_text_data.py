"""Vocabularies, windows and corpora."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkd.errors import SettingError
from fedkd.settings.schema import parse
from fedkd.tasks.text.corpus import embedded_corpus
from fedkd.tasks.text.text_sources import HubTexts
from fedkd.tasks.text.vocabulary import (
    Bytes,
    Characters,
    Vocabulary,
    decode,
    learn_byte_pairs,
    separator_of,
)
from fedkd.tasks.text.windows import IGNORED, windows

pytest.importorskip("tokenizers")
PAIRS = learn_byte_pairs(embedded_corpus().texts, 320)
WORDS = st.text(alphabet="abc é\n7", min_size=1, max_size=30)
VOCABULARIES = {"bytes": Bytes(), "characters": Characters("abc é\n7"), "byte pairs": PAIRS}


@pytest.mark.parametrize("name", VOCABULARIES)
@given(text=WORDS)
def test_every_vocabulary_gives_its_text_back(name, text):
    vocabulary = VOCABULARIES[name]
    tokens = vocabulary.encode(text)
    assert isinstance(vocabulary, Vocabulary)
    assert decode(vocabulary, tokens) == text
    assert all(0 <= token < separator_of(vocabulary) for token in tokens)
    assert vocabulary.token_bytes(separator_of(vocabulary)) == b""


def test_byte_pairs_are_the_same_each_time_and_shorter_than_bytes():
    again = learn_byte_pairs(embedded_corpus().texts, 320)
    assert again.tokenizer.to_str() == PAIRS.tokenizer.to_str()
    assert PAIRS.size == 320
    text = embedded_corpus().texts[0]
    assert len(PAIRS.encode(text)) < 0.6 * len(text)
    assert decode(PAIRS, PAIRS.encode("\N{SNOWMAN}")) == "\N{SNOWMAN}"


def test_a_missing_token_is_named():
    with pytest.raises(SettingError, match="no token for 'z', which is in 'a zoo'"):
        Characters("abot ").encode("a zoo")
    with pytest.raises(SettingError, match=">= 257"):
        learn_byte_pairs(["a"], 100)
    with pytest.raises(SettingError, match="each of its characters once"):
        Characters("aa")


@given(st.lists(WORDS, min_size=1, max_size=8), st.integers(2, 20))
def test_windows_predict_every_token_of_every_text_once(texts, context):
    vocabulary = VOCABULARIES["characters"]
    cut = windows(vocabulary, texts, context)
    separator = separator_of(vocabulary)
    targets = [
        token for token in cut.targets.flatten().tolist() if token not in (IGNORED, separator)
    ]
    assert targets == [token for text in texts for token in vocabulary.encode(text)]
    assert cut.inputs.shape == cut.targets.shape == (len(cut.inputs), context)
    assert cut.positions == cut.real.sum() > 0
    following = cut.real[:, :-1]
    assert (cut.inputs[:, 1:][following] == cut.targets[:, :-1][following]).all()


@given(st.lists(WORDS, min_size=1, max_size=8))
def test_a_text_that_fits_is_never_cut(texts):
    vocabulary, context = VOCABULARIES["characters"], 30
    cut = windows(vocabulary, texts, context)
    rows = [
        [*row[:1], *(t for t in targets if t != IGNORED)]
        for row, targets in zip(cut.inputs.tolist(), cut.targets.tolist(), strict=True)
    ]
    separator = separator_of(vocabulary)
    pieces = ["".join(map(chr, row)).split(chr(separator)) for row in rows]
    found = [[ord(x) for x in piece] for row in pieces for piece in row if piece]
    assert found == [vocabulary.encode(text) for text in texts]


def test_no_text_is_an_error_that_says_whose():
    with pytest.raises(SettingError, match="client 3's text is empty"):
        windows(Bytes(), ["", ""], 8, whose="client 3's text")


def test_the_embedded_corpus_is_small_repeats_and_has_natural_topics():
    corpus = embedded_corpus()
    assert corpus == embedded_corpus()
    assert corpus != embedded_corpus(seed=1)
    assert len(set(corpus.topics)) == 7
    assert 5_000 < sum(map(len, corpus.texts)) < 25_000
    assert len(set("".join(corpus.texts))) < 30


def test_a_folder_in_the_hubs_layout_is_read(tmp_path: Path):
    from datasets import Dataset

    rows = {"text": ["a fish", "", "two fish"], "author": ["cat", "cat", "dog"]}
    Dataset.from_dict(rows).to_parquet(str(tmp_path / "train.parquet"))
    found = HubTexts(path=str(tmp_path), target="author").load()
    assert (found.texts, found.class_names) == (("a fish", "two fish"), ("cat", "dog"))
    assert found.labels.tolist() == [0, 1]
    with pytest.raises(
        SettingError, match=r"data.target=topic: the columns of .* are text, author"
    ):
        HubTexts(path=str(tmp_path)).load()


def test_columns_of_texts_are_named_as_those_of_all_kinds_of_data(tmp_path: Path):
    from datasets import Dataset

    rows = {"body": ["a fish", "two fish"], "author": ["cat", "dog"], "stars": [1, 2]}
    Dataset.from_dict(rows).to_parquet(str(tmp_path / "train.parquet"))
    chosen = {"path": str(tmp_path), "target": "author"}
    found = parse(HubTexts, {**chosen, "inputs": ["body"]}, "data").load()
    assert (found.texts, list(found.columns)) == (("a fish", "two fish"), ["stars"])
    for old, new in (("text_column", "inputs"), ("topic_column", "target")):
        with pytest.raises(SettingError, match=rf"no setting 'data.{old}': it is now data.{new}"):
            parse(HubTexts, {**chosen, old: "body"}, "data")
    for inputs, complaint in (
        (("body", "stars"), r"inputs must name one column of texts, got \[body,stars\]"),
        (("stars",), "data.inputs=stars holds int64, expected texts"),
        (("author",), "data.inputs and data.target are both author"),
    ):
        with pytest.raises(SettingError, match=complaint):
            HubTexts(**chosen, inputs=inputs).load()
