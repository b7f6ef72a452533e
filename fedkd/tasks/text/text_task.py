"""Text as a task: token positions are samples, next tokens classes, windows examples.

The public text is cut into windows once; its positions that have a target are the public ids 0 .. N
- 1. Models predict on whole windows, and only the positions asked about travel or teach. Clients'
texts may hold canaries, and the public text then visits their context. Vocabulary and detectors'
reference model are made of public text alone.
"""

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fedkd.data.division import Public
from fedkd.data.texts import PreparedTexts
from fedkd.errors import SettingError
from fedkd.models.adapters import Adapters, NoAdapters
from fedkd.models.libraries import library
from fedkd.models.model_names import split_arguments
from fedkd.privacy.mechanisms import Detector, Hints
from fedkd.runtime.seeding import numpy_stream, torch_seed
from fedkd.settings.conditions import RunConditions
from fedkd.settings.measuring_points import MeasuringPoint, column
from fedkd.settings.model_prefixes import split_prefix
from fedkd.tasks.task import Evaluation, Examples, Task, TaskSetup
from fedkd.tasks.text.asked_positions import PREDICTION_ROWS, AskedPositions, rows_at
from fedkd.tasks.text.detectors import compare_scores, mark, mark_contexts
from fedkd.tasks.text.language_models import (
    LanguageModelSpec,
    find_language_factory,
)
from fedkd.tasks.text.private_texts import PrivateTexts
from fedkd.tasks.text.public_texts import public_parts
from fedkd.tasks.text.secrets import Secrets, plant
from fedkd.tasks.text.text_canaries import CanaryFormat, alphabet_of
from fedkd.tasks.text.tokens import next_token_logits
from fedkd.tasks.text.tokens_section import Tokens, make_vocabulary
from fedkd.tasks.text.vocabulary import Vocabulary
from fedkd.tasks.text.windows import IGNORED, Windows, windows
from fedkd.training.loop import optimize
from fedkd.training.metrics import FLOOR, calibration_error


@dataclass(frozen=True, kw_only=True, eq=False)
class TextTask(Task):
    """A prepared data set of texts with its vocabulary, public windows and secrets."""

    prepared: PreparedTexts
    vocabulary: Vocabulary
    context: int
    public: Windows
    private: PrivateTexts
    positions: Int[Tensor, "N"]
    """The cell of each public position in the flattened windows, on the host."""
    secrets: Secrets | None
    reference: Any
    """The name of the architecture of a reference model that learns public text, and how."""
    seed: int
    device: torch.device
    label_share: float = 0.0
    """Weight of the public text's own next tokens in distillation."""
    adapters: Adapters = field(default_factory=NoAdapters)
    _known: dict[Any, Any] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    data_kind: ClassVar[str] = "texts"
    examples: ClassVar[str] = "windows"
    dealt: ClassVar[str] = "texts"
    has_classes: ClassVar[bool] = False
    has_reference: ClassVar[bool] = True
    record: ClassVar[str] = "text"

    @classmethod
    def conflict(cls, conditions: RunConditions) -> str | None:
        """Return the conflict with settings that are for images."""
        data = conditions.name_of("data")
        noise = conditions.components.get("public_data") == "noise"
        for name, is_given, why in (
            ("public_data=noise", noise, "it draws numbers, and texts are words"),
            ("public.corruption", conditions.corruption is not None, "it is for images"),
            ("public.augmented_views", conditions.augmented_views > 1, "text cannot be moved"),
            (
                "distill.student_augmentation",
                conditions.student_augmentation != "none",
                "text cannot be moved",
            ),
        ):
            if is_given:
                return f"{name} does not go with data={data}: {why}; leave it out"
        if conditions.features is not None:
            return (
                f"strategy={conditions.strategy} needs the features of models, which language"
                " models here do not give"
            )
        return None

    @classmethod
    def factory(cls, name: str) -> Any:
        """Return the function behind a language model's name."""
        return find_language_factory(name)

    @classmethod
    def make(cls, setup: TaskSetup) -> "TextTask":
        """Return the task of a run (``make_text_task``)."""
        if not isinstance(setup.prepared, PreparedTexts):
            raise SettingError("this data set holds images, and its task is texts")
        return make_text_task(setup, setup.prepared)

    @property
    def planted(self) -> Secrets | None:
        """The canaries."""
        return self.secrets

    @property
    def classes(self) -> int:
        """V, the number of tokens."""
        return self.vocabulary.size

    @property
    def public_size(self) -> int:
        """N, the public positions that have a next token."""
        return len(self.positions)

    @property
    def public_inputs(self) -> Int[Tensor, "n L"]:
        """The public windows."""
        return self.public.inputs

    @property
    def public_labels(self) -> Int[Tensor, "N"]:
        """The next token at each public position."""
        return rows_at(self.positions, self.public.targets)

    @property
    def public_sequences(self) -> Int[Tensor, "N"]:
        """The window that each public position is in."""
        return self.positions // self.public.inputs.shape[1]

    def preprocessing(self) -> Mapping[str, object]:
        """Return the context and each token's UTF-8 in hexadecimal; the last is the separator.

        Of a model's own tokenizer it says where that is.
        """
        own = getattr(self.vocabulary, "describe", None)
        if own is not None:
            return {"context": self.context, **own()}
        tokens = [self.vocabulary.token_bytes(t).hex() for t in range(self.vocabulary.size)]
        return {"context": self.context, "tokens": tokens}

    def architecture(self, name: str, *, without_heads: bool = False) -> LanguageModelSpec:
        """Return the architecture for this vocabulary and context."""
        return LanguageModelSpec(name, self.vocabulary.size, self.context, self.adapters)

    def training_set(self, rows: np.ndarray, owners: Sequence[int]) -> Examples:
        """Return windows of the rows' texts with the canaries of ``owners`` among them."""
        found = self._private(rows, owners)[0]
        return found.inputs, found.targets

    def group_size(self, rows: np.ndarray, owners: Sequence[int]) -> tuple[int, bool]:
        """Return the most windows that a text has of its own, and whether a setting bounds them."""
        return self._private(rows, owners)[1], self.private.most is not None

    def test_set(self, rows: np.ndarray) -> Examples:
        """Return windows of the rows' texts."""
        cut = partial(windows, self.vocabulary, self.prepared.texts(rows), self.context)
        made: Windows = self._once(
            ("test", rows.tobytes()), lambda: cut(whose="the test text").to(self.device)
        )
        return made.inputs, made.targets

    def public_set(self) -> Examples:
        """Return the public windows and their next tokens."""
        return self.public.inputs, self.public.targets

    def label_counts(self, rows: np.ndarray, owners: Sequence[int]) -> tuple[int, ...]:
        """Return how often each token is the next one in a training set."""
        targets = self.training_set(rows, owners)[1]
        found: tuple[int, ...] = self._once(
            ("counts", rows.tobytes(), tuple(owners)), lambda: _token_counts(targets, self.classes)
        )
        return found

    def logits(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """Return the logits [b, L, V] of each next token."""
        return next_token_logits(model, inputs)

    def loss(self, logits: Tensor, targets: Tensor) -> Float[Tensor, ""]:
        """Return the cross-entropy in nats with next tokens: the mean over windows of means.

        A window's loss depends on no other window, as the gradients of single examples must under
        DP-SGD.
        """
        each = F.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none"
        )
        counts = (targets != IGNORED).sum(dim=1).clamp(min=1)
        return (each.view(targets.shape).sum(dim=1) / counts).mean()

    def evaluate(self, model: nn.Module, examples: Examples) -> Evaluation:
        """Return accuracy, likelihood and calibration over all positions that have a next token."""
        model.eval()
        right, confidence, surprisal = [], [], []
        with torch.no_grad():
            for logits, following in _at_real_positions(model, examples):
                log_probs = torch.log_softmax(logits, dim=-1)
                best = log_probs.max(dim=-1)
                surprisal.append(-log_probs.gather(1, following[:, None]).squeeze(1))
                right.append(best.indices == following)
                confidence.append(best.values.exp())
        is_right, bits = torch.cat(right), torch.cat(surprisal).to(torch.float64)
        means = is_right.to(torch.float64).mean(), bits.clamp(max=-math.log(FLOOR)).mean()
        accuracy, nll = torch.stack(means).tolist()
        return Evaluation(
            accuracy=accuracy,
            nll=nll,
            calibration=partial(
                calibration_error, torch.cat(confidence).to(torch.float64), is_right
            ),
            predictions=partial(_next_tokens, model, examples),
        )

    def exposures(self, model: nn.Module, client_id: int, whose: str) -> tuple[float, ...] | None:
        """Return the exposures in bits of a client's secrets, or its peers', to a model.

        Those of the controls follow. None where there are no such secrets.
        """
        if self.secrets is None:
            return None
        return self.secrets.to_client(model, client_id, own=whose == "own_model")

    def ask(self, ids: Int[Tensor, "N"] | None = None) -> AskedPositions:
        """Return public positions by id; all of them by default."""
        positions = self.positions if ids is None else self.positions[ids.cpu()]
        return AskedPositions.of(self.public, positions, self.label_share)

    def describe(self, public: Public, source: str) -> str:
        """Return the public set in words."""
        texts = f"{public.size} texts{'' if source == 'same' else f' of {source}'}"
        tokens = f"a vocabulary of {self.vocabulary.size}"
        return f"{texts}: {self.public_size:,} token positions, {tokens}"

    def summary(self, last: Mapping[str, Any], after: MeasuringPoint) -> Mapping[str, Any]:
        """Return bits a token of clean test text, and the exposure of secrets."""
        nats = {
            "own distribution": last.get(column("personal_nll", after)),
            "balanced test": last.get(column("global_nll", after)),
        }
        bits = {where: None if x is None else x / math.log(2) for where, x in nats.items()}
        return {"bits_per_token": bits, "exposure": last.get("exposure")}

    def hints(self, detector: Detector, ids: Int[Tensor, "N"]) -> Hints:
        """Return the facts on positions that a detector needs.

        They are where secrets could be, what matches a pattern, and a public model's soft
        labels.
        """
        flagged = self.flagged()
        return Hints(
            reference=self.reference_probs()[ids]
            if detector in ("confidence", "surprisal_gap")
            else None,
            flagged=None if flagged is None else flagged[ids],
            matched=self.matched()[ids] if detector == "pattern" else None,
        )

    def judged(self, scores: Float[Tensor, "N"], ids: Int[Tensor, "N"]) -> Mapping[str, float]:
        """Return a detector's recall and precision in finding where secrets could be.

        A share of nothing is -1.
        """
        flagged = self.flagged()
        if flagged is None:
            return {}
        found = compare_scores(scores, flagged[ids])
        shares = {"detector recall": found.recall, "detector precision": found.precision}
        return {name: -1.0 if math.isnan(share) else share for name, share in shares.items()}

    def flagged(self) -> Tensor | None:
        """Return a mask [N] of positions where a secret could be said; None without secrets."""
        if self.secrets is None:
            return None
        marker = partial(mark_contexts, forms=self.secrets.settings.forms)
        found: Tensor = self._once("flagged", lambda: self._marks(marker))
        return found

    def matched(self) -> Tensor:
        """Return the public positions [N] whose next token is in a match of a pattern."""
        found: Tensor = self._once("matched", lambda: self._marks(mark))
        return found

    def reference_probs(self) -> Float[Tensor, "N V"]:
        """Return the soft labels, on the CPU, of a model that is trained once, on public text."""
        found: Tensor = self._once("reference", self._train_reference)
        return found

    def _marks(self, marker: Any) -> Tensor:
        cpu = Windows(self.public.inputs.cpu(), self.public.targets.cpu())
        found: Tensor = marker(self.vocabulary, cpu).flatten()[self.positions]
        return found

    def _train_reference(self) -> Tensor:
        name, phase = self.reference
        model = (
            self.architecture(name)
            .build(torch_seed(self.seed, "text", "reference", "weights"))
            .to(self.device)
        )
        x, y = self.public_set()
        stream = numpy_stream(self.seed, "text", "reference", "batches")
        optimize(
            model,
            len(x),
            lambda batch: self.training_loss(model, x[batch], y[batch]),
            phase,
            stream,
        )
        return torch.softmax(self.ask().predict(model), dim=-1).cpu()

    def _private(self, rows: np.ndarray, owners: Sequence[int]) -> tuple[Windows, int]:
        """Return a training set, and the most windows that one text has of its own."""
        made: tuple[Windows, int] = self._once(
            ("private", rows.tobytes(), tuple(owners)),
            lambda: self.private.cut(rows, owners, self.device),
        )
        return made

    def _once(self, key: Any, make: Any) -> Any:
        """Return what is made once for all threads."""
        if key not in self._known:
            with self._lock:
                if key not in self._known:
                    self._known[key] = make()
        return self._known[key]


def make_text_task(setup: TaskSetup, prepared: PreparedTexts) -> TextTask:
    """Return the task of a run on text, with vocabulary, secrets and public windows.

    ``public.size`` of the texts held back, or of another data set, make the public text. Raises
    SettingError where canaries do not fit, or there are too few texts.
    """
    canaries, tokens = setup.text_canaries, setup.tokens
    if setup.public.size == 0:
        raise SettingError(
            "public.size=0: the vocabulary of text data is made of public text; give public.size=N"
        )
    parts, alphabet = public_parts(setup, prepared), "".join(map(alphabet_of, canaries.forms))
    vocabulary = _tokenizer_of(setup.models, tokens)
    if vocabulary is None:
        held_back = prepared.texts(setup.division.held_back)
        foreign = [text for part in parts if part.prepared is not prepared for text in part.texts]
        vocabulary = make_vocabulary(tokens, "bytes", [*held_back, *foreign], alphabet)
    secrets = None
    if canaries.forms:
        clients = len(setup.division.train)
        secrets = plant(canaries, vocabulary, tokens.context, clients, setup.seed)
    texts: Sequence[str] = [text for part in parts for text in part.texts]
    if secrets is not None:
        texts = secrets.add_contexts(texts)
    cut = windows(vocabulary, texts, tokens.context, whose="the public text")
    public = cut.to(setup.device)
    asked = cut.real & ~_skipped(tokens.skip, vocabulary, cut, canaries.forms)
    return TextTask(
        prepared=prepared,
        vocabulary=vocabulary,
        context=tokens.context,
        public=public,
        positions=asked.flatten().nonzero().squeeze(1),
        secrets=secrets,
        reference=setup.reference,
        seed=setup.seed,
        device=setup.device,
        label_share=tokens.label_share,
        adapters=setup.adapters,
        private=PrivateTexts(
            prepared=prepared,
            vocabulary=vocabulary,
            context=tokens.context,
            secrets=secrets,
            separate=setup.separates_records,
            most=tokens.windows_per_text,
        ),
    )


def _tokenizer_of(models: Sequence[str], tokens: Tokens) -> Vocabulary | None:
    """Return the tokenizer that comes with models of a run; None where none comes with any.

    Raises SettingError where there are several: a prediction is a row over one vocabulary.
    """
    found: dict[str, tuple[str, Any]] = {}
    for model in models:
        prefixed = split_prefix(split_arguments(model)[0])
        if prefixed is not None:
            tokenizer = library(prefixed[0]).tokenizer(prefixed[1])
            found.setdefault(tokenizer.key, (model, tokenizer))
    if not found:
        return None
    named = [model for model, _ in found.values()]
    if len(found) > 1:
        raise SettingError(
            f"models: {' and '.join(named)} have different tokenizers, and clients exchange"
            " predictions of next tokens over one vocabulary; take models of one family, or a data"
            " set of texts with classes"
        )
    if tokens.vocabulary is not None:
        raise SettingError(
            f"tokens.vocabulary={tokens.vocabulary} would do nothing: {named[0]} has a tokenizer of"
            " its own; leave it out"
        )
    (_, tokenizer), *_ = found.values()
    made: Vocabulary = tokenizer
    return made


def _skipped(
    skip: str, vocabulary: Vocabulary, text: Windows, forms: Sequence[CanaryFormat]
) -> Bool[Tensor, "n L"]:
    """Return the public positions that nobody is asked about. Raises SettingError without any."""
    if skip == "none":
        return torch.zeros_like(text.real)
    if skip == "oracle" and not forms:
        raise SettingError("tokens.skip=oracle needs canaries; give text_canaries=pin")
    found = mark(vocabulary, text) if skip == "pattern" else mark_contexts(vocabulary, text, forms)
    if not found.any():
        raise SettingError(f"tokens.skip={skip} would do nothing: no public position is found")
    return found


def _next_tokens(model: nn.Module, examples: Examples) -> Examples:
    """Return the probabilities [n, V] of tokens at all positions with a next one, and it."""
    probs, found = [], []
    with torch.no_grad():
        for logits, following in _at_real_positions(model, examples):
            probs.append(torch.softmax(logits, dim=-1))
            found.append(following)
    return torch.cat(probs), torch.cat(found)


def _at_real_positions(
    model: nn.Module, examples: Examples
) -> Iterator[tuple[Float[Tensor, "m V"], Int[Tensor, "m"]]]:
    """Yield the logits at positions that have a next token, and it, by some windows at a time.

    A device is waited for once, to know where they are.
    """
    real = examples[1].cpu() != IGNORED
    parts = (torch.split(x, PREDICTION_ROWS) for x in (*examples, real))
    for inputs, targets, is_real in zip(*parts, strict=True):
        cells = is_real.flatten().nonzero().squeeze(1)
        yield rows_at(cells, next_token_logits(model, inputs)), rows_at(cells, targets)


def _token_counts(targets: Int[Tensor, "n L"], size: int) -> tuple[int, ...]:
    """Return how often each of the tokens is the next one."""
    on_host = targets.cpu()
    return tuple(torch.bincount(on_host[on_host != IGNORED], minlength=size).tolist())
