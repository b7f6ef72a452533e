"""The study of swing distillation on text: its settings, and one measured outcome a seed and
setting, on disk.

Three clients (two recurrent models, one decoder) hold ten secrets each, of three digits behind a
name of their own. Settings of one seed share texts, secrets and, where they agree on it, the
clients' first training: all else is paired. Not for: what the outcomes say (``swing_report``).
"""

import hashlib
import json
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from fedkd.errors import SettingError
from fedkd.privacy.mechanisms.dp_sgd import DpSgd
from fedkd.strategy import Strategy
from fedkd.tasks.text.corpus import Corpus, embedded_corpus, read_corpus
from fedkd.tasks.text.exposure import chance_exposure
from fedkd.tasks.text.text_canaries import DIGITS, CanaryFormat, alphabet_of
from fedkd.tasks.text.text_study import Shared, Study, run_shared
from fedkd.tasks.text.token_swing import Dropped, KeepTopK, Swing, TokenProtection, Uniform
from fedkd.tasks.text.vocabulary import characters_of
from fedkd.training.hyperparameters import Phase
from strategies.dsfl import DSFL
from strategies.knfu import KnFu

NAMES = ("anna", "boris", "carla", "david", "elena", "franz", "greta", "henry", "irene", "james")
FORMS = tuple(CanaryFormat(f"pin of {name}: ", (DIGITS,) * 3) for name in NAMES)
TEXTS, LONGEST = 160, 64
STUDY = Study(
    clients=3,
    models=("swing_models:gru", "swing_models:decoder"),
    canaries=FORMS,
    repeats=8,
    held_out=3,
    visits="fillings",
    visit_times=6,
    context=64,
    public_share=0.3,
    test_share=0.15,
    train=Phase(epochs=16, batch_size=8, learning_rate=6e-3),
    distill=Phase(epochs=10, batch_size=8, learning_rate=6e-3),
)
DECODERS: dict[str, Any] = {"models": ("swing_models:decoder",)}
ROUNDS: dict[str, Any] = {
    "rounds": 4,
    "train_again": 4,
    "distill": replace(STUDY.distill, epochs=5),
}
PRIVATELY: dict[str, Any] = {
    **DECODERS,
    "train_privately": DpSgd(epsilon=8.0, delta=1e-3),
    "train": replace(STUDY.train, batch_size=24),
}


@dataclass(frozen=True)
class Setting:
    """What one run does otherwise than plain distillation of the mean, and the setting that it is
    held against.
    """

    name: str
    group: int
    protection: TokenProtection | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    strategy: Strategy = field(default_factory=lambda: DSFL(aggregation="mean"))
    against: str = "plain"

    @property
    def study(self) -> Study:
        """The study with this setting's changes."""
        return replace(STUDY, **self.changes)


SETTINGS = (
    Setting("plain", 0),
    Setting("swing, oracle", 0, Swing()),
    Setting("swing, pattern", 0, Swing(), {"detector": "pattern"}),
    Setting("swing, surprisal gap", 0, Swing(), {"detector": "surprisal_gap"}),
    Setting("swing, confidence", 0, Swing(), {"detector": "confidence"}),
    Setting("temperature alone", 0, Swing(noise=0.0)),
    Setting("noise alone", 1, Swing(highest_temperature=1.0)),
    Setting("uniform temperature 4", 1, Uniform(temperature=4.0)),
    Setting("uniform noise 2", 1, Uniform(noise=2.0)),
    Setting("dropped positions", 1, Dropped()),
    Setting("top 1", 1, KeepTopK(k=1)),
    Setting("KnFu, beta 10", 1, strategy=KnFu()),
    Setting("KnFu, beta 100", 1, strategy=KnFu(beta=100.0)),
    Setting("plain, never visited (P0)", 3, changes={"visits": "never", "visit_times": None}),
    Setting("plain, prefix visited (P1)", 3, changes={"visits": "prefix"}),
    Setting("plain, decoders", 3, changes=DECODERS, against="plain, decoders"),
    Setting("DP-SGD teachers", 3, changes=PRIVATELY, against="plain, decoders"),
    Setting("plain, 4 rounds", 2, changes=ROUNDS, against="plain, 4 rounds"),
    Setting("swing, 4 rounds, noise fixed", 2, Swing(), ROUNDS, against="plain, 4 rounds"),
    Setting(
        "swing, 4 rounds, noise fresh",
        2,
        Swing(noise_timing="each_round"),
        ROUNDS,
        against="plain, 4 rounds",
    ),
)
BY_NAME = {setting.name: setting for setting in SETTINGS}
Evaluation = dict[str, Any]
Results = dict[tuple[str, int], Evaluation]


def corpus_of(data: Path | None) -> Corpus:
    """Return the embedded corpus, or short one-line texts of the first topics of fortunes in a
    folder.
    """
    if data is None:
        return embedded_corpus(TEXTS)
    whole = read_corpus(str(data / "fortunes"))
    rows = [
        i
        for i, text in enumerate(whole.texts)
        if text.isascii() and text.isprintable() and len(text) <= LONGEST
    ]
    if len(rows) < TEXTS:
        raise SettingError(
            f"{data}/fortunes holds {len(rows)} plain lines of {LONGEST} characters; {TEXTS} are"
            " needed"
        )
    return whole.take(rows[:: len(rows) // TEXTS][:TEXTS])


def carry_out(
    seeds: int,
    folder: Path,
    jobs: int,
    data: Path | None,
    on_end: Callable[[str], None],
    only: Sequence[str] = tuple(BY_NAME),
) -> Results:
    """Return the figures of every seed and setting of ``only``; what a former call left is not run
    again.
    """
    corpus = corpus_of(data)
    tasks = [
        (seed, group)
        for group in sorted({BY_NAME[name].group for name in only})
        for seed in range(seeds)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")  # a fork would share torch's threads and locks
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        waiting = {
            pool.submit(_group, corpus, seed, group, folder, only): (seed, group)
            for seed, group in tasks
        }
        found: Results = {}
        try:
            for done in as_completed(waiting):
                for name, measured in done.result().items():
                    found[name, waiting[done][0]] = measured
                    on_end(f"seed {waiting[done][0]}: {name}: {measured['seconds']:.0f} s")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return found


def _group(
    corpus: Corpus, seed: int, group: int, folder: Path, only: Sequence[str]
) -> dict[str, Evaluation]:
    """Measure a group's settings at a seed, in this process, one thread."""
    torch.set_num_threads(1)
    vocabulary = characters_of([*corpus.texts, *map(alphabet_of, FORMS)])
    shared = Shared(corpus, vocabulary, seed)
    return {
        s.name: _measured(s, shared, folder)
        for s in SETTINGS
        if s.group == group and s.name in only
    }


def _measured(setting: Setting, shared: Shared, folder: Path) -> Evaluation:
    """Return a run's figures, from its file if that holds this very run."""
    what = repr((setting.protection, setting.strategy, setting.study, shared.corpus, shared.seed))
    mark = hashlib.blake2b(what.encode(), digest_size=16).hexdigest()
    name = "".join(x if x.isalnum() else "_" for x in setting.name)
    path = folder / f"seed{shared.seed}_{name}.json"
    if path.is_file():
        stored: Evaluation = json.loads(path.read_text())
        if stored["run"] != mark:
            raise SettingError(
                f"{path} holds a run with other settings; name another folder, or move it"
            )
        return stored
    began = time.process_time()
    outcome = run_shared(setting.study, shared, setting.strategy, setting.protection)
    candidates = FORMS[0].size - setting.study.clients + 1
    measured: Evaluation = {
        "run": mark,
        "seconds": time.process_time() - began,
        "exposures": {name: [x.bits for x in found] for name, found in outcome.exposures.items()},
        "controls": {name: [x.bits for x in found] for name, found in outcome.controls.items()},
        "chance": chance_exposure(candidates),
        "test_bits": dict(outcome.test_bits),
        "bits_by_model": list(outcome.bits_by_model),
        "found": asdict(outcome.found),
        "weights": outcome.weights,
    }
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(measured))
    partial.replace(path)  # a reader never finds half of it
    return measured
