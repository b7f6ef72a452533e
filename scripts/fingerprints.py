"""Compute fingerprints of small runs, and compare two versions of the code by them.

    python scripts/fingerprints.py --out before.json        # on the old code
    python scripts/fingerprints.py --out after.json         # on the new code, on the same machine
    python scripts/fingerprints.py --compare before.json after.json

There is a case for every scenario, strategy and mechanism. Each case is one run of the command on
embedded data, two or three rounds long. Its fingerprint is
the ``knowledge_sha256`` of every round, the final figures of every client, and what the summary
says of privacy and of an audit. Times are left out. Figures of two machines may differ in their
last digits, since libraries round sums by the processor's abilities: compare files of one machine.
"""

import argparse
import contextlib
import csv
import io
import json
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedkd.settings.measuring_points import MEASURING_POINTS, MeasuringPoint, column
from fedkd.settings.renamed import AT_POINTS, COLUMNS
from fedkd.simulate import main as simulate

ROOT = Path(__file__).resolve().parent.parent

TINY = (
    "data=digits",
    "partition=dirichlet",
    "clients=4",
    "samples_per_client=24",
    "models=[mlp,cnn]",
    "rounds=2",
    "public.size=40",
    "test.global_size=50",
    "test.private_size=20",
    "train.epochs=1",
    "train.batch_size=8",
    "distill.epochs=1",
    "distill.batch_size=20",
)
TEXT = (
    "data=sentences",
    "data.texts=70",
    "partition=whole_ids",
    "clients=2",
    "models=[gru,decoder]",
    "tokens.context=40",
    "tokens.vocabulary=characters",
    "rounds=2",
    "public.size=14",
    "test.global_size=14",
    "strategy=fedmd",
    "train.epochs=1",
    "train.batch_size=4",
    "distill.epochs=1",
    "distill.batch_size=4",
)
QUIET = ("report.console=false", "report.plots=false", "engine.workers=1")

STRATEGIES: Mapping[str, Sequence[str]] = {
    "centralized": ("models=[mlp]",),
    "cfd": (),
    "comet": (),
    "cosmos": ("strategy.server=mlp",),
    "cronus": (),
    "dense": ("strategy.epochs=2", "strategy.generator_steps=2", "strategy.batch=4"),
    "dsfl": (),
    "fccl": (),
    "fd": (),
    "fed_dfa": (),
    "fedaux": (),
    "fedavg": ("models=[mlp]",),
    "fedcache": (),
    "fedct": (),
    "feddf": ("models=[mlp]",),
    "feddf_logits": (),
    "fedgems": ("public.labeled=true",),
    "fedgen": ("models=[mlp]", "strategy.server_steps=2"),
    "fedgh": ("models=[mlp]",),
    "fedhenn": ("models=[mlp]",),
    "fedkd": (),
    "fedkt": ("strategy.parts=2", "strategy.epochs=1"),
    "fedmd": (),
    "fedmkt": (),
    "fedmrl": ("models=[mlp]",),
    "fml": (),
    "fedproto": ("models=[mlp]",),
    "fedprox": ("models=[mlp]",),
    "fedtgp": ("models=[mlp]", "strategy.server_epochs=5"),
    "knfu": (),
    "ktpfl": (),
    "learned": ("public.labeled=true",),
    "lg_fedavg": ("models=[mlp]",),
    "local_only": (),
    "local_teacher": (),
    "rhfl": (),
    "routed": ("public.labeled=true",),
    "scarlet": (),
    "selective_fd": (),
    "ssfl": (),
    "talking": (),
    "top_k_mean": (),
}
SOFT_MEAN = ("strategy=dsfl", "strategy.aggregation=mean", "models=[mlp]", "rounds=3")
PRIVACY: Mapping[str, Sequence[str]] = {
    "dp_sgd": ("privacy.epsilon=8.0",),
    "gaussian": ("privacy.epsilon=8.0",),
    "laplace": ("privacy.epsilon=8.0",),
    "krr": ("privacy.epsilon=8.0",),
    "central_gaussian": ("privacy.epsilon=8.0",),
    "gnmax": ("privacy.epsilon=8.0",),
    "lnmax": ("privacy.epsilon=8.0",),
    "swing": (),
}
FEATURES: Mapping[str, Sequence[str]] = {
    "privacy memoized": (
        *SOFT_MEAN,
        "privacy=gaussian",
        "privacy.epsilon=8.0",
        "privacy.memoize=true",
    ),
    "privacy dp_sgd on weights": (
        "strategy=fedavg",
        "models=[mlp]",
        "privacy=dp_sgd",
        "privacy.noise_multiplier=1.0",
    ),
    "privacy dp_sgd cnn": (*SOFT_MEAN, "models=[cnn]", "privacy=dp_sgd", "privacy.epsilon=4.0"),
    "privacy swing gap": (*SOFT_MEAN, "privacy=swing", "privacy.detector=surprisal_gap"),
    "privacy swing noise": (*SOFT_MEAN, "privacy=swing", "privacy.noise=0.5"),
    "heads dual": ("heads=dual",),
    "heads stages": ("heads=self_distillation", "models=[cnn]"),
    "audit store": ("audit=store",),
    "audit canaries": ("audit=canaries", "audit.per_client=4"),
    "audit members": ("audit=members", "models=[mlp]"),
    "audit shadows": (
        "audit=members",
        "models=[mlp]",
        "audit.shadows=4",
        "audit.adversaries=[lab]",
    ),
    "gate": ("distill.confidence_gate=true",),
    "margins": ("distill.margin_weights=true",),
    "relation": ("distill.relational_weight=0.5",),
    "moved": ("distill.student_augmentation=shift",),
    "views": ("public.augmented_views=2",),
    "disputed": ("public.per_round=10", "public.sampling=disagreement"),
    "per round": ("public.per_round=10",),
    "noise public": ("public_data=noise",),
    "corrupted": ("public.corruption=gaussian_noise", "public.severity=3"),
    "distill first": ("round_order=distill_first", "rounds=3"),
    "absent": ("participation=0.5", "dropout=0.3", "rounds=3", "min_clients=0"),
    "pretrained": ("public.labeled=true", "train.public_epochs=1"),
    "kept optimizers": ("train.optimizer_state=kept", "distill.optimizer_state=kept"),
    "together": ("batch_clients=[mlp]",),
    "disk": ("client_store=disk",),
    "two workers": ("engine.workers=2",),
    "shared start": ("strategy=fedavg", "models=[mlp]", "partition=iid", "participation=0.5"),
    "text": TEXT,
    "text weights": (*TEXT, "strategy=fedavg", "models=[gru]"),
    "text canaries": (
        *TEXT,
        "text_canaries=pin",
        "text_canaries.slots=dd",
        "text_canaries.repeats=4",
        "text_canaries.held_out=4",
        "text_canaries.visit_times=4",
    ),
    "text swing": (
        *TEXT,
        "text_canaries=pin",
        "text_canaries.slots=dd",
        "text_canaries.repeats=4",
        "text_canaries.held_out=4",
        "text_canaries.visit_times=4",
        "privacy=swing",
        "privacy.detector=oracle",
    ),
    "text dp_sgd": (*TEXT, "models=[decoder]", "privacy=dp_sgd", "privacy.epsilon=8.0"),
}
ATTACKS = ("sign_flip", "random", "label_swap", "colluding", "lie", "noise")
ROBUST = ("median", "trimmed_mean", "geometric_median", "krum", "cronus")
CODECS = ("full", "float16", "quantized", "top_k", "delta", "cached")
PARTITIONS = ("iid", "pathological", "shard", "inner_dirichlet", "size_skewed")
SMALL = (
    "data=digits",
    "clients=4",
    "rounds=2",
    "public.size=60",
    "samples_per_client=24",
    "test.global_size=50",
    "train.epochs=1",
    "distill.epochs=1",
)
OWN_DATA = ("breast_cancer", "digit_series", "networks_and_trees", "scipy_docs")
"""Scenarios whose models are not for images."""
SCENARIOS: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(OWN_DATA, SMALL[1:]),
    "privacy_budget": (
        "clients=4",
        "rounds=2",
        "public.size=100",
        "train.epochs=1",
        "report.wandb=disabled",
    ),
    "swing_text": (
        "data.texts=140",
        "public.size=40",
        "test.global_size=30",
        "train.epochs=2",
        "distill.epochs=1",
        "text_canaries.visit_times=6",
    ),
    "swing_kd": (
        "data.texts=70",
        "public.size=14",
        "test.global_size=14",
        "text_canaries.references=200",
        "train.epochs=1",
        "distill.epochs=1",
    ),
    "swing_study": (
        "data.texts=70",
        "public.size=14",
        "test.global_size=14",
        "train.epochs=1",
        "distill.epochs=1",
    ),
}


def cases() -> dict[str, list[str]]:
    """Return the arguments of every case by its name."""
    found: dict[str, Sequence[str]] = {}
    for path in sorted((ROOT / "scenarios").glob("*.yaml")):
        found[f"scenario {path.stem}"] = (f"scenario={path.stem}", *SCENARIOS.get(path.stem, SMALL))
    for name, extra in STRATEGIES.items():
        found[f"strategy {name}"] = (*TINY, f"strategy={name}", *extra)
    for name, extra in PRIVACY.items():
        found[f"privacy {name}"] = (*TINY, *SOFT_MEAN, f"privacy={name}", *extra)
    for name in ATTACKS:
        found[f"attacks {name}"] = (
            *TINY,
            "strategy=fedmd",
            f"attacks={name}",
            "attacks.fraction=0.25",
            *(("attacks.z=1.5",) if name == "lie" else ()),
        )
    for name in ROBUST:
        found[f"robust {name}"] = (*TINY, "clients=5", "strategy=fedmd", f"robust={name}")
    for name in CODECS:
        found[f"codec {name}"] = (*TINY, "rounds=3", f"codec={name}")
    for name in PARTITIONS:
        found[f"partition {name}"] = (*TINY, f"partition={name}")
    for name, extra in FEATURES.items():
        found[name] = (*(() if extra[: len(TEXT)] == TEXT else TINY), *extra)
    return {name: [*_last_wins(arguments), *QUIET] for name, arguments in found.items()}


def _last_wins(arguments: Sequence[str]) -> list[str]:
    by_key = {argument.partition("=")[0]: argument for argument in arguments}
    return list(by_key.values())


def fingerprint(arguments: Sequence[str]) -> dict[str, Any]:
    """Run one case and return what it computed; an error's text where it is refused."""
    with tempfile.TemporaryDirectory() as folder:
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            status = simulate([*_last_wins([*arguments]), f"run_dir={folder}/run"])
        if status not in (0, 3):
            return {"status": status, "error": errors.getvalue().strip()}
        run = Path(folder) / "run"
        rounds = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
        summary = json.loads((run / "summary.json").read_text())
        with (run / "clients.csv").open(newline="") as file:
            clients = list(csv.DictReader(file))
        last = rounds[-1]["round"]
        return {
            "status": status,
            "measured_after": summary["measured_after"],
            "knowledge_sha256": [row.get("knowledge_sha256") for row in rounds],
            "final": _timeless(rounds[-1]),
            "clients": [_timeless(row) for row in clients if int(row["round"]) == last],
            "privacy": summary.get("privacy"),
            "audit": _timeless(summary.get("audit") or {}),
            "secrets": summary.get("secrets"),
        }


def _timeless(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if "seconds" not in key}


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return a line for each figure that differs.

    Figures under a new name count as missing and added; cases that are new in ``after`` are left
    out. Before models were measured at two points of a round, they were at its end: those figures
    are compared with the ones of its last point, and the other point's are left out.
    """
    lines = []
    for name in sorted(before):
        found = dict(after.get(name, {}))
        points = found.get("measured_after")
        if points and "measured_after" not in before[name]:
            del found["measured_after"]
            one = _renamed(_flat(before[name]), points[-1])
            unmeasured = column("", next(p for p in MEASURING_POINTS if p != points[-1]))
            other = {key: v for key, v in _flat(found).items() if not key.endswith(unmeasured)}
        else:
            one, other = _flat(before[name]), _flat(found)
        for key in sorted({*one, *other}):
            if one.get(key) != other.get(key):
                lines.append(f"{name}: {key}: {one.get(key)!r} -> {other.get(key)!r}")
    return lines


def _renamed(flat: Mapping[str, Any], point: MeasuringPoint) -> dict[str, Any]:
    def new(key: str) -> str:
        for old, name in COLUMNS.items():
            key = re.sub(rf"\b{old}(?=$|_)", name, key)
        figure = key.rpartition(".")[2].removesuffix("_std")
        return column(key, point) if figure in AT_POINTS else key

    return {new(key): value for key, value in flat.items()}


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        parts = [(f"{prefix}.{key}" if prefix else str(key), inner) for key, inner in value.items()]
    elif isinstance(value, list):
        parts = [(f"{prefix}[{index}]", inner) for index, inner in enumerate(value)]
    else:
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, inner in parts:
        found |= _flat(inner, key)
    return found


def main() -> int:
    """Run the cases, or compare two files; status 1 where figures differ."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="write the fingerprints to this JSON file")
    parser.add_argument("--only", default="", help="run the cases whose name contains this text")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("BEFORE", "AFTER"))
    given = parser.parse_args()
    if given.compare:
        before, after = (json.loads(path.read_text()) for path in given.compare)
        lines = compare(before, after)
        print("\n".join(lines) or f"{len(before)} cases, all figures equal")
        return 1 if lines else 0
    found = {}
    for name, arguments in cases().items():
        if given.only in name:
            found[name] = fingerprint(arguments)
            last = found[name].get("error") or (found[name]["knowledge_sha256"][-1] or "-")[:16]
            print(f"{name:<28} {last}", flush=True)
    if given.out:
        given.out.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
