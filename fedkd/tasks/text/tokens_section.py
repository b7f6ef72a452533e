"""The section ``tokens``: how texts become tokens, and the vocabulary that it asks for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fedkd.errors import SettingError
from fedkd.settings.conditions import RunConditions
from fedkd.settings.meaning import setting
from fedkd.settings.schema import defaults, section_values
from fedkd.settings.validators import at_least, check_choices, only_with
from fedkd.tasks.text.vocabulary import (
    Bytes,
    Characters,
    Vocabulary,
    learn_byte_pairs,
    learn_words,
)

VocabularyName = Literal["bytes", "byte_pairs", "characters", "words"]
WITH_SIZE = {"byte_pairs": 1000, "words": 5000}
"""The vocabularies that are learned, with their size where nobody gives one."""
OF_CLASSES = ("context", "vocabulary", "vocabulary_size")
"""The settings that texts with classes know too."""


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """How texts become what a model reads; for text data only."""

    context: int = 64
    """Tokens of a window of next tokens, >= 2: texts of at most as many are never cut, and canaries
    must fit. Of a text with a class the first so many are read."""
    vocabulary: VocabularyName | None = None
    """One token a byte (257 of them), byte-pair pieces learned from public text, the characters of
    public text, or its words (for texts with classes). null is words for texts with classes and
    bytes for next tokens; a model of Hugging Face has its own."""
    vocabulary_size: int | None = None
    """Tokens of byte_pairs, >= 257, null is 1000; or of words, >= 3, null is 5000. With another
    vocabulary it is an error."""
    skip: Literal["none", "pattern", "oracle"] = "none"
    """Public positions that nobody is asked about: those whose next token is in digits, an e-mail
    address or a titled name (pattern), or those where a canary could be said (oracle, a
    measurement)."""
    label_share: float = 0.0
    """Weight of the public text's own next tokens in distillation, from 0 to below 1; the rest is
    the teacher's."""
    windows_per_text: int | None = setting(None, affects="exchange")
    """Windows that one private text may have, >= 1, where its windows are its own (dp_sgd); what is
    left of a longer one is left out. null keeps all, and takes the longest text's number for
    public."""

    def __post_init__(self) -> None:
        check_choices(self)
        at_least(2, context=self.context)
        at_least(0, label_share=self.label_share)
        if self.label_share >= 1:
            raise SettingError(
                f"label_share must be below 1, got {self.label_share}: nothing would be learned"
                " from teachers"
            )
        if self.windows_per_text is not None:
            at_least(1, windows_per_text=self.windows_per_text)
        only_with(
            self.vocabulary is None or self.vocabulary in WITH_SIZE,
            f"vocabulary={self.vocabulary}",
            vocabulary_size=self.vocabulary_size,
        )

    def conflict(self, conditions: RunConditions) -> str | None:
        """Return the conflict of a changed setting with data that it is not for."""
        if conditions.data_kind == "texts":
            return self._conflict_of_next_tokens(conditions)
        usual = defaults(Tokens)
        known = OF_CLASSES if conditions.data_kind == "labeled texts" else ()
        changed = [
            name
            for name, value in section_values(self).items()
            if value != usual[name] and name not in known
        ]
        if not changed:
            return None
        data, kind = conditions.name_of("data"), conditions.data_kind
        return f"tokens.{changed[0]} would do nothing: data={data} are {kind}"

    def _conflict_of_next_tokens(self, conditions: RunConditions) -> str | None:
        """Return the conflict with a run on next tokens."""
        if self.vocabulary == "words":
            return (
                f"tokens.vocabulary=words does not go with data={conditions.name_of('data')}: words"
                " do not give the text back, as next tokens must; say byte_pairs"
            )
        if self.vocabulary is None and self.vocabulary_size is not None:
            return "tokens.vocabulary_size needs tokens.vocabulary=byte_pairs"
        if self.windows_per_text is None or conditions.hides_single_records:
            return None
        return (
            f"tokens.windows_per_text={self.windows_per_text} would do nothing: with"
            f" privacy={conditions.name_of('privacy')} texts are packed behind one another;"
            " it is for dp_sgd"
        )


def make_vocabulary(
    tokens: Tokens, usual: VocabularyName, texts: Sequence[str], alphabet: str = ""
) -> Vocabulary:
    """Return the vocabulary that the settings name, made of public texts.

    Args:
        tokens: The settings.
        usual: The vocabulary where they name none.
        texts: The public texts.
        alphabet: Further characters that it must have.
    """
    name = tokens.vocabulary or usual
    if name == "bytes":
        return Bytes()
    if not texts:
        raise SettingError(
            f"tokens.vocabulary={name} is made of public text, and there is none: give"
            " public.size=N, or say tokens.vocabulary=bytes"
        )
    if name == "characters":
        return Characters("".join(sorted({*"".join(texts), *alphabet})))
    size = tokens.vocabulary_size or WITH_SIZE[name]
    return learn_words(texts, size) if name == "words" else learn_byte_pairs(texts, size)
