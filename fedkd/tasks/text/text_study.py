"""A whole federation on text in one function: train, release, fuse, distil, and measure exposure
for each adversary.

For comparing protections, detectors and levels of public text. It holds everything in memory, and
runs clients one by one. Not for: the simulator's messages, engines and checkpoints.
"""

import copy
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from fedkd.errors import SettingError
from fedkd.fusion import soften
from fedkd.messages import Cohort
from fedkd.privacy.mechanisms.dp_sgd import DpSgd
from fedkd.runtime.seeding import numpy_stream, torch_seed
from fedkd.settings.validators import at_least, one_of, only_with
from fedkd.strategy import Strategy
from fedkd.tasks.text.corpus import Corpus, by_topic, hold_out
from fedkd.tasks.text.detectors import (
    Found,
    compare_scores,
    confidence,
    mark,
    mark_context,
    surprisal_gap,
)
from fedkd.tasks.text.exposure import CHANCE_BITS, Exposure, from_bits, log_perplexity
from fedkd.tasks.text.language_models import LanguageModelSpec
from fedkd.tasks.text.private_learning import learn_privately
from fedkd.tasks.text.text_canaries import (
    FORMATS,
    CanaryFormat,
    Visits,
    candidate_sequences,
    draw_canaries,
    insert,
    visit,
)
from fedkd.tasks.text.text_learning import bits_per_token, distill, learn, predict_next
from fedkd.tasks.text.token_swing import TokenProtection, Uniform
from fedkd.tasks.text.vocabulary import Vocabulary
from fedkd.tasks.text.windows import Windows, windows
from fedkd.training.hyperparameters import Phase

Detector = Literal["oracle", "pattern", "surprisal_gap", "confidence"]
Adversary = Literal["own_model", "server_uploads", "server_student", "peers"]


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is varied between runs of a study."""

    clients: int = 4
    """Clients; whole topics are divided among them."""
    models: tuple[str, ...] = ("gru", "decoder")
    """Their language models, in turn; the server's students are of the first."""
    rounds: int = 1
    """Rounds of training, release, fusion and distillation, >= 1."""
    context: int = 64
    """Tokens of a window, >= 2."""
    canaries: tuple[CanaryFormat, ...] = (FORMATS["pin"],)
    """Forms of the secrets, each with a context (a prefix) of its own; every client holds one
    secret of each form."""
    repeats: int = 10
    """Times that a client's text holds each of its secrets, >= 1."""
    held_out: int = 8
    """Secrets of each form that nobody holds, as controls, >= 1."""
    visits: Visits = "fillings"
    """How far the public text visits the secrets' context: never, prefix, or prefix with other
    fillings."""
    visit_times: int | None = 40
    """How often it visits each form's; null with visits=never."""
    public_share: float = 0.3
    """Share of the texts that are public."""
    test_share: float = 0.1
    """Share of the texts that every model is tested on."""
    detector: Detector = "oracle"
    """What scores the positions that a protection then treats."""
    own_share: float = 0.0
    """Weight of the public text's own next tokens in distillation, 0 to 1."""
    train: Phase = field(default_factory=lambda: Phase(epochs=8, batch_size=16, learning_rate=3e-3))
    """How clients train on their own text each round."""
    train_again: int | None = None
    """Epochs of training in every round after the first; null trains as in the first."""
    train_privately: DpSgd | None = None
    """A control: clients train by DP-SGD, a window of text being a record; null trains plainly.
    Opacus takes decoders, and no nn.GRU."""
    distill: Phase = field(
        default_factory=lambda: Phase(epochs=8, batch_size=16, learning_rate=3e-3)
    )
    """How clients and the server's students distil."""

    def __post_init__(self) -> None:
        at_least(2, clients=self.clients, context=self.context)
        at_least(1, rounds=self.rounds, repeats=self.repeats, held_out=self.held_out)
        one_of(("oracle", "pattern", "surprisal_gap", "confidence"), detector=self.detector)
        only_with(self.visits != "never", "visits=never", visit_times=self.visit_times)
        if not self.models:
            raise SettingError("models must name at least one language model")
        if self.train_again is not None:
            at_least(0, train_again=self.train_again)
            if self.rounds == 1:
                raise SettingError(f"train_again={self.train_again} would do nothing: rounds=1")
            if self.train_privately is not None:
                raise SettingError(
                    "train_again does not go with train_privately: a budget is for equal rounds"
                )
        if not self.canaries:
            raise SettingError(
                "canaries must hold at least one form: without a secret nothing is measured"
            )
        prefixes = [form.prefix for form in self.canaries]
        for i, one in enumerate(prefixes):
            for other in prefixes[:i] + prefixes[i + 1 :]:
                if one in other:
                    raise SettingError(
                        f"canaries need contexts of their own, but {one!r} occurs in {other!r}"
                    )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a study measured after its last round. Exposures are by enumeration; no number here is a
    guarantee.

    ``exposures``: what each adversary gets out of the inserted secrets, by form, then by client
    (``peers``: by form, then by the peer, then by the secrets' client). ``own_model`` is the
    client's model before it distils; ``server_uploads`` a student that the server distils from what
    that client alone uploaded, over all rounds: the mean of its logarithms at each position, in
    which fresh noise averages out. ``server_student`` is one that it distils from the mean of the
    last teachers; ``peers`` are the other clients' models after they distilled. ``controls``: the
    same models on secrets that nobody held. The candidates of a secret are all fillings but the
    other inserted secrets of its form, so that secrets do not push each other down. ``test_bits``:
    bits a token on test text, the mean over clients before and after the last distillation, and the
    server's student; ``bits_by_model`` those of the server's student and of each client after.
    ``found``: how well the detector's scores find the secrets' context, the mean over clients.
    ``weights``: the last round's fusion weights, row i those of client i's teacher.
    """

    exposures: Mapping[Adversary, tuple[Exposure, ...]]
    controls: Mapping[Adversary, tuple[Exposure, ...]]
    test_bits: Mapping[str, float]
    bits_by_model: tuple[float, ...]
    found: Found
    weights: tuple[tuple[float, ...], ...]

    def mean_exposure(self, adversary: Adversary) -> float:
        """Return the mean exposure in bits of the inserted secrets to an adversary."""
        return statistics.fmean(x.bits for x in self.exposures[adversary])

    def rows(self) -> list[str]:
        """Return a line for each adversary: exposure, excess over chance, and the controls' mean
        exposure.
        """
        return [
            f"{name:16s} {self.mean_exposure(name):6.2f} bits  excess"
            f" {self.mean_exposure(name) - CHANCE_BITS:6.2f}"
            f"  controls {statistics.fmean(x.bits for x in self.controls[name]):5.2f}"
            for name in self.exposures
        ]


class Shared:
    """What runs that are compared have in common: the corpus, the vocabulary, the seed, and what
    was made of them.

    Texts, references and the clients' first training are made once for all settings that agree on
    them.
    """

    def __init__(self, corpus: Corpus, vocabulary: Vocabulary, seed: int) -> None:
        self.corpus, self.vocabulary, self.seed = corpus, vocabulary, seed
        self._worlds: dict[Study, _World] = {}
        self._learners: dict[Study, list[nn.Module]] = {}

    def world(self, study: Study) -> "_World":
        """Return the texts and secrets of a study."""
        key = replace(_first_training(study), visits=study.visits, visit_times=study.visit_times)
        if key not in self._worlds:
            self._worlds[key] = _World(study, self.corpus, self.vocabulary, self.seed)
        return self._worlds[key]

    def learners(self, study: Study) -> list[nn.Module]:
        """Return copies of the clients' models as they are after the first round's training."""
        key = _first_training(study)
        if key not in self._learners:
            world = self.world(study)
            models = [
                LanguageModelSpec(
                    study.models[i % len(study.models)], self.vocabulary.size, study.context
                ).build(torch_seed(self.seed, "text", "client", i, "initial weights"))
                for i in range(study.clients)
            ]
            for i, model in enumerate(models):
                _train(study, model, world.private[i], i, 1, self.seed)
            self._learners[key] = models
        return [copy.deepcopy(model) for model in self._learners[key]]


def _first_training(study: Study) -> Study:
    """Return a study that agrees with ``study`` in what decides the first training, and in nothing
    else.
    """
    return replace(
        study,
        visits="never",
        visit_times=None,
        detector="oracle",
        rounds=1,
        train_again=None,
        own_share=0.0,
        distill=Phase(),
    )


def _train(
    study: Study, model: nn.Module, text: Windows, client: int, round: int, seed: int
) -> None:
    """Train a client's model in place on its own text, plainly or by DP-SGD."""
    again = study.train_again
    phase = study.train if again is None or round == 1 else replace(study.train, epochs=again)
    path = ("text", "client", client, "round", round)
    if study.train_privately is None:
        learn(model, text, phase, numpy_stream(seed, *path, "train"))
    else:
        learn_privately(model, text, phase, study.train_privately, study.rounds, seed, *path)


def run_study(
    study: Study,
    corpus: Corpus,
    vocabulary: Vocabulary,
    strategy: Strategy,
    protection: TokenProtection | None,
    seed: int,
) -> Outcome:
    """Run a federation and return what was measured; ``protection=None`` releases plain soft labels
    at temperature 1.

    The strategy gets protected soft labels, as their logarithms where it takes logits. Positions
    that a client drops are dropped for everyone. Streams are named by client, round and purpose:
    settings compared at one seed share the texts, secrets and initial weights. Raises SettingError
    where the settings do not fit each other or the corpus.
    """
    return run_shared(study, Shared(corpus, vocabulary, seed), strategy, protection)


def run_shared(
    study: Study, shared: Shared, strategy: Strategy, protection: TokenProtection | None
) -> Outcome:
    """Return what ``run_study`` does, to the bit, and leave in ``shared`` what the next setting can
    use.
    """
    seed, vocabulary, world = shared.seed, shared.vocabulary, shared.world(study)
    learners = shared.learners(study)
    keeper = Kept(study.clients, len(world.places), vocabulary.size)
    state, tests = None, {}
    for round in range(1, study.rounds + 1):
        for i, model in enumerate(learners):
            if round > 1:
                _train(study, model, world.private[i], i, round, seed)
        last = round == study.rounds
        if last:
            tests["clients_before"] = statistics.fmean(
                bits_per_token(m, world.test) for m in learners
            )
            own = [world.bits(model) for model in learners]
        uploads, kept, scores = _release(study, world, learners, protection, round, seed)
        keeper.add(uploads, kept)
        fusion = strategy.fuse(_cohort(strategy, uploads, world.places[kept], round), state)
        state = fusion.state
        teachers = fusion.teachers.expand(study.clients, *fusion.teachers.shape[-2:])
        if getattr(strategy, "teaches", "probs") == "logits":
            teachers = soften(teachers)
        for i, model in enumerate(learners):
            chosen = torch.ones(len(teachers[i]), dtype=torch.bool)
            if fusion.taught_rows is not None:
                chosen = (
                    fusion.taught_rows if fusion.taught_rows.ndim == 1 else fusion.taught_rows[i]
                )
            places = world.places[kept][chosen]
            stream = numpy_stream(seed, "text", "client", i, "round", round, "distill")
            distill(
                model,
                world.public,
                places,
                teachers[i][chosen],
                study.distill,
                stream,
                own_share=study.own_share,
            )
    after = [bits_per_token(m, world.test) for m in learners]
    tests["clients_after"] = statistics.fmean(after)

    def student_of(probs: Tensor, known: Tensor, *name: str | int) -> nn.Module:
        model = LanguageModelSpec(study.models[0], vocabulary.size, study.context).build(
            torch_seed(seed, "text", "server", "initial weights")
        )
        distill(
            model,
            world.public,
            world.places[known],
            probs,
            study.distill,
            numpy_stream(seed, "text", "server", *name),
        )
        return model

    server = student_of(teachers.mean(dim=0), kept, "student")
    tests["server_student"] = bits_per_token(server, world.test)
    ever, averages = keeper.averages()
    surrogates = [
        world.bits(student_of(probs, ever, "uploads", i)) for i, probs in enumerate(averages)
    ]
    views: dict[Adversary, list[tuple[list[np.ndarray], int | None, bool]]] = {
        "own_model": [(bits, i, True) for i, bits in enumerate(own)],
        "server_uploads": [(bits, i, True) for i, bits in enumerate(surrogates)],
        "server_student": [(world.bits(server), None, False)],
        "peers": [(world.bits(model), i, False) for i, model in enumerate(learners)],
    }
    truth = world.oracle[world.places]
    each = [compare_scores(row, truth) for row in scores]
    weights = fusion.weights.expand(study.clients, study.clients)
    return Outcome(
        exposures={
            name: tuple(
                exposure_among(
                    bits[f], secret.index, [c.index for c in held if c.index != secret.index]
                )
                for f, held in enumerate(world.inserted)
                for bits, client, mine in view
                for secret in held
                if client is None or (secret.client == client) == mine
            )
            for name, view in views.items()
        },
        controls={
            name: tuple(
                exposure_among(bits[f], secret.index, [c.index for c in world.inserted[f]])
                for f, nobodys in enumerate(world.controls)
                for bits, _, _ in view
                for secret in nobodys
            )
            for name, view in views.items()
        },
        test_bits=tests,
        bits_by_model=(tests["server_student"], *after),
        found=Found(
            recall=statistics.fmean(x.recall for x in each),
            precision=statistics.fmean(x.precision for x in each),
        ),
        weights=tuple(tuple(row) for row in weights.tolist()),
    )


class Kept:
    """What a server keeps of all rounds' uploads: by client and position the sum of logarithms, and
    how many came.
    """

    def __init__(self, clients: int, positions: int, columns: int) -> None:
        self._logs, self._times = torch.zeros(clients, positions, columns), torch.zeros(positions)

    def add(self, uploads: Tensor, kept: Tensor) -> None:
        """Take a round's soft labels [K, M, V] of the positions that ``kept`` [N] says."""
        self._logs[:, kept] += uploads.clamp(min=1e-12).log()
        self._times += kept

    def averages(self) -> tuple[Tensor, Tensor]:
        """Return which positions ever came [N], and the soft labels [K, M, V] of their mean
        logarithms.

        Noise on logits is noise on logarithms, but for what a row has in common: if it is fresh it
        averages out.
        """
        ever = self._times > 0
        return ever, soften(self._logs[:, ever] / self._times[ever, None])


def exposure_among(bits: np.ndarray, secret: int, without: Sequence[int]) -> Exposure:
    """Return a secret's exposure among all candidates but ``without``, which must not hold it.

    >>> exposure_among(np.array([1.0, 2.0, 3.0]), secret=1, without=[0]).bits
    1.0
    """
    left = np.ones(len(bits), dtype=bool)
    left[list(without)] = False
    return from_bits(bits[left], int(left[:secret].sum()))


class _World:
    """The texts, secrets and positions of one run, and the reference model that two detectors
    need.
    """

    def __init__(self, study: Study, corpus: Corpus, vocabulary: Vocabulary, seed: int) -> None:
        forms = study.canaries
        self.candidates = [candidate_sequences(form, vocabulary, study.context) for form in forms]
        # One stream would give a client the same secret in every form.
        seeds = [torch_seed(seed, "text", "secrets of form", f) for f in range(len(forms))]
        drawn = [
            draw_canaries(form, [study.repeats] * study.clients, its, held_out=study.held_out)
            for form, its in zip(forms, seeds, strict=True)
        ]
        self.inserted = [tuple(c for c in canaries if c.client is not None) for canaries in drawn]
        self.controls = [tuple(c for c in canaries if c.client is None) for canaries in drawn]
        public, test, private = hold_out(
            corpus, [study.public_share, study.test_share], seed, "public and test"
        )
        texts, owned = public.texts, [part.texts for part in by_topic(private, study.clients)]
        for form, canaries, its in zip(forms, drawn, seeds, strict=True):
            texts = visit(texts, form, canaries, study.visits, its, times=study.visit_times)
            owned = [insert(mine, form, canaries, i, its) for i, mine in enumerate(owned)]
        self.public = windows(vocabulary, texts, study.context, whose="the public text")
        self.test = windows(vocabulary, test.texts, study.context, whose="the test text")
        self.private = [
            windows(vocabulary, mine, study.context, whose=f"client {i}'s text")
            for i, mine in enumerate(owned)
        ]
        self.places = self.public.real.flatten().nonzero().squeeze(1)
        self.oracle = torch.stack(
            [mark_context(vocabulary, self.public, form).flatten() for form in forms]
        ).any(dim=0)
        self.marked = mark(vocabulary, self.public).flatten()
        self._study, self._vocabulary, self._seed = study, vocabulary, seed

    @cached_property
    def reference(self) -> Tensor:
        """Logits [N, V] of a model that has seen the public text alone."""
        study = self._study
        model = LanguageModelSpec(study.models[0], self._vocabulary.size, study.context).build(
            torch_seed(self._seed, "text", "reference", "initial weights")
        )
        learn(
            model, self.public, study.train, numpy_stream(self._seed, "text", "reference", "train")
        )
        return self.logits(model)

    def logits(self, model: nn.Module) -> Tensor:
        """Return a model's logits [N, V] at the public positions that have a target."""
        return predict_next(model, self.public.inputs).flatten(0, 1)[self.places]

    def bits(self, model: nn.Module) -> list[np.ndarray]:
        """Return the log-perplexity of every candidate of each form."""
        return [log_perplexity(model, rows) for rows in self.candidates]

    def scores(self, detector: Detector, logits: Tensor) -> Tensor:
        """Return the detector's scores [N] for a model's logits."""
        if detector in ("oracle", "pattern"):
            return (self.oracle if detector == "oracle" else self.marked)[self.places].float()
        return (surprisal_gap if detector == "surprisal_gap" else confidence)(
            logits, self.reference
        )


def _release(
    study: Study,
    world: _World,
    learners: list[nn.Module],
    protection: TokenProtection | None,
    round: int,
    seed: int,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return what the clients upload [K, M, V], which of the N positions those are [N], and each
    client's scores.
    """
    released, scores = [], []
    for i, model in enumerate(learners):
        logits = world.logits(model)
        scores.append(world.scores(study.detector, logits))
        enforcer = protection or Uniform()
        released.append(
            enforcer.protect(logits, scores[-1], world.places, client_id=i, round=round, seed=seed)
        )
    kept = torch.stack([x.kept for x in released]).all(dim=0)
    if not kept.any():
        raise SettingError(
            "the clients' protections drop every public position: nothing is left to distil"
        )
    return torch.stack([x.probs[kept] for x in released]), kept, scores


def _cohort(strategy: Strategy, uploads: Tensor, places: Tensor, round: int) -> Cohort:
    """Return the round's cohort: soft labels, or their logarithms for a strategy of logits."""
    probs = getattr(strategy, "knowledge", "logits") == "probs"
    return Cohort(
        round=round,
        client_ids=tuple(range(len(uploads))),
        public_ids=places,
        values=uploads if probs else uploads.clamp(min=1e-12).log(),
        scale="probs" if probs else "logits",
    )
