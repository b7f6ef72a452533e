"""A whole federation on text in one function: train, release, fuse, distil, and measure exposure for each adversary.

For comparing protections, detectors and levels of public text. It holds everything in memory, and runs clients one by
one. Not for: the simulator's messages, engines and checkpoints.
"""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from fedkd.checks import at_least, one_of, only_with
from fedkd.errors import SettingError
from fedkd.fusion import soften
from fedkd.messages import Cohort
from fedkd.seeding import numpy_stream, torch_seed
from fedkd.strategy import Strategy
from fedkd.text.canaries import FORMATS, Canary, CanaryFormat, Visits, candidate_sequences, draw_canaries, insert, visit
from fedkd.text.corpus import Corpus, by_topic, hold_out
from fedkd.text.detectors import Found, compare_scores, confidence, mark, mark_context, surprisal_gap
from fedkd.text.exposure import CHANCE_BITS, Exposure, from_bits, log_perplexity
from fedkd.text.learning import bits_per_token, distill, learn, predict_next
from fedkd.text.models import LanguageArchitecture
from fedkd.text.swing import TokenProtection, Uniform
from fedkd.text.vocabulary import Vocabulary
from fedkd.text.windows import windows
from fedkd.training import Phase

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
    canary: CanaryFormat = field(default_factory=lambda: FORMATS["pin"])
    """Form of the secrets; every client holds one of its own."""
    repeats: int = 10
    """Times that a client's text holds its secret, >= 1."""
    held_out: int = 8
    """Secrets that nobody holds, as controls, >= 1."""
    visits: Visits = "fillings"
    """How far the public text visits the secrets' context: never, prefix, or prefix with other fillings."""
    visit_times: int | None = 40
    """How often it does; null with visits=never."""
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
    distill: Phase = field(default_factory=lambda: Phase(epochs=8, batch_size=16, learning_rate=3e-3))
    """How clients and the server's students distil."""

    def __post_init__(self) -> None:
        at_least(2, clients=self.clients, context=self.context)
        at_least(1, rounds=self.rounds, repeats=self.repeats, held_out=self.held_out)
        one_of(("oracle", "pattern", "surprisal_gap", "confidence"), detector=self.detector)
        only_with(self.visits != "never", "visits=never", visit_times=self.visit_times)
        if not self.models:
            raise SettingError("models must name at least one language model")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a study measured after its last round. Exposures are by enumeration; no number here is a guarantee.

    ``exposures``: what each adversary gets out of the inserted secrets. ``own_model`` is the client's model before it
    distils; ``server_uploads`` a student that the server distils from that client's last upload alone;
    ``server_student`` one that it distils from the mean of the teachers; ``peers`` are the other clients' models after
    they distilled. ``controls``: the same models on secrets that nobody held. ``test_bits``: bits a token on test text,
    the mean over clients before and after the last distillation, and the server's student. ``found``: how well the
    detector's scores find the secrets' context, the mean over clients.
    """

    exposures: Mapping[Adversary, tuple[Exposure, ...]]
    controls: Mapping[Adversary, tuple[Exposure, ...]]
    test_bits: Mapping[str, float]
    found: Found

    def mean_exposure(self, adversary: Adversary) -> float:
        """Return the mean exposure in bits of the inserted secrets to an adversary."""
        return statistics.fmean(x.bits for x in self.exposures[adversary])

    def rows(self) -> list[str]:
        """Return a line for each adversary: exposure, excess over chance, and the controls' mean exposure."""
        return [
            f"{name:16s} {self.mean_exposure(name):6.2f} bits  excess {self.mean_exposure(name) - CHANCE_BITS:6.2f}"
            f"  controls {statistics.fmean(x.bits for x in self.controls[name]):5.2f}"
            for name in self.exposures
        ]


def run_study(
    study: Study,
    corpus: Corpus,
    vocabulary: Vocabulary,
    strategy: Strategy,
    protection: TokenProtection | None,
    seed: int,
) -> Outcome:
    """Run a federation and return what was measured; ``protection=None`` releases plain soft labels at temperature 1.

    The strategy gets protected soft labels, as their logarithms where it takes logits. Positions that a client drops
    are dropped for everyone. Streams are named by client, round and purpose: settings compared at one seed share
    the texts, secrets and initial weights. Raises SettingError where the settings do not fit each other or the corpus.
    """
    world = _World(study, corpus, vocabulary, seed)
    learners = [
        LanguageArchitecture(study.models[i % len(study.models)], vocabulary.size, study.context).build(
            torch_seed(seed, "text", "client", i, "initial weights")
        )
        for i in range(study.clients)
    ]
    state, tests = None, {}
    for round in range(1, study.rounds + 1):
        for i, model in enumerate(learners):
            learn(
                model, world.private[i], study.train, numpy_stream(seed, "text", "client", i, "round", round, "train")
            )
        last = round == study.rounds
        if last:
            tests["clients_before"] = statistics.fmean(bits_per_token(m, world.test) for m in learners)
            own = [world.bits(model) for model in learners]
        uploads, kept, scores = _release(study, world, learners, protection, round, seed)
        fusion = strategy.fuse(_cohort(strategy, uploads, world.places[kept], round), state)
        state = fusion.state
        teachers = fusion.teachers.expand(study.clients, *fusion.teachers.shape[-2:])
        if getattr(strategy, "teaches", "probs") == "logits":
            teachers = soften(teachers)
        for i, model in enumerate(learners):
            chosen = torch.ones(len(teachers[i]), dtype=torch.bool)
            if fusion.kept is not None:
                chosen = fusion.kept if fusion.kept.ndim == 1 else fusion.kept[i]
            places = world.places[kept][chosen]
            stream = numpy_stream(seed, "text", "client", i, "round", round, "distill")
            distill(model, world.public, places, teachers[i][chosen], study.distill, stream, own_share=study.own_share)
    tests["clients_after"] = statistics.fmean(bits_per_token(m, world.test) for m in learners)

    def student_of(probs: Tensor, *name: str | int) -> nn.Module:
        model = LanguageArchitecture(study.models[0], vocabulary.size, study.context).build(
            torch_seed(seed, "text", "server", "initial weights")
        )
        distill(
            model, world.public, world.places[kept], probs, study.distill, numpy_stream(seed, "text", "server", *name)
        )
        return model

    server = student_of(teachers.mean(dim=0), "student")
    tests["server_student"] = bits_per_token(server, world.test)
    surrogates = [world.bits(student_of(probs, "uploads", i)) for i, probs in enumerate(uploads)]
    after, of_server = [world.bits(model) for model in learners], world.bits(server)
    views: dict[Adversary, list[tuple[np.ndarray, tuple[Canary, ...]]]] = {
        "own_model": [(own[c.client], (c,)) for c in world.inserted if c.client is not None],
        "server_uploads": [(surrogates[c.client], (c,)) for c in world.inserted if c.client is not None],
        "server_student": [(of_server, world.inserted)],
        "peers": [(bits, tuple(c for c in world.inserted if c.client != i)) for i, bits in enumerate(after)],
    }
    truth = world.oracle[world.places]
    each = [compare_scores(row, truth) for row in scores]
    return Outcome(
        exposures={name: tuple(from_bits(b, c.index) for b, cs in view for c in cs) for name, view in views.items()},
        controls={
            name: tuple(from_bits(b, c.index) for b, _ in view for c in world.controls) for name, view in views.items()
        },
        test_bits=tests,
        found=Found(
            recall=statistics.fmean(x.recall for x in each), precision=statistics.fmean(x.precision for x in each)
        ),
    )


class _World:
    """The texts, secrets and positions of one run, and the reference model that two detectors need."""

    def __init__(self, study: Study, corpus: Corpus, vocabulary: Vocabulary, seed: int) -> None:
        form = study.canary
        self.candidates = candidate_sequences(form, vocabulary, study.context)
        canaries = draw_canaries(form, [study.repeats] * study.clients, seed, held_out=study.held_out)
        self.inserted = tuple(c for c in canaries if c.client is not None)
        self.controls = tuple(c for c in canaries if c.client is None)
        public, test, private = hold_out(corpus, [study.public_share, study.test_share], seed, "public and test")
        texts = visit(public.texts, form, canaries, study.visits, seed, times=study.visit_times)
        self.public = windows(vocabulary, texts, study.context, whose="the public text")
        self.test = windows(vocabulary, test.texts, study.context, whose="the test text")
        self.private = tuple(
            windows(vocabulary, insert(part.texts, form, canaries, i, seed), study.context, whose=f"client {i}'s text")
            for i, part in enumerate(by_topic(private, study.clients))
        )
        self.places = self.public.real.flatten().nonzero().squeeze(1)
        self.oracle = mark_context(vocabulary, self.public, form).flatten()
        self.marked = mark(vocabulary, self.public).flatten()
        self.reference: Tensor | None = None
        if study.detector in ("surprisal_gap", "confidence"):
            model = LanguageArchitecture(study.models[0], vocabulary.size, study.context).build(
                torch_seed(seed, "text", "reference", "initial weights")
            )
            learn(model, self.public, study.train, numpy_stream(seed, "text", "reference", "train"))
            self.reference = self.logits(model)

    def logits(self, model: nn.Module) -> Tensor:
        """Return a model's logits [N, V] at the public positions that have a target."""
        return predict_next(model, self.public.inputs).flatten(0, 1)[self.places]

    def bits(self, model: nn.Module) -> np.ndarray:
        """Return the log-perplexity of every candidate."""
        return log_perplexity(model, self.candidates)

    def scores(self, detector: Detector, logits: Tensor) -> Tensor:
        """Return the detector's scores [N] for a model's logits."""
        if detector in ("oracle", "pattern"):
            return (self.oracle if detector == "oracle" else self.marked)[self.places].float()
        assert self.reference is not None, "made for these detectors"
        return (surprisal_gap if detector == "surprisal_gap" else confidence)(logits, self.reference)


def _release(
    study: Study, world: _World, learners: list[nn.Module], protection: TokenProtection | None, round: int, seed: int
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return what the clients upload [K, M, V], which of the N positions those are [N], and each client's scores."""
    released, scores = [], []
    for i, model in enumerate(learners):
        logits = world.logits(model)
        scores.append(world.scores(study.detector, logits))
        guard = protection or Uniform()
        released.append(guard.protect(logits, scores[-1], world.places, client_id=i, round=round, seed=seed))
    kept = torch.stack([x.kept for x in released]).all(dim=0)
    if not kept.any():
        raise SettingError("the clients' protections drop every public position: nothing is left to distil")
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
