"""A scenario: everything that decides a run, as one frozen value. The boundary between YAML and the
program.

``Scenario.parse`` is the only way in and ``to_dict`` the way out again; what passes is checked, so
that the code behind it trusts its settings. Each hyper-parameter stands in the class of the code
that uses it.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from fedkd.data.division import EvaluationSets, Public
from fedkd.errors import SettingError
from fedkd.federation.protocol import Protocol
from fedkd.report.report_settings import Report
from fedkd.scenario.registry import GROUPS, Component, create
from fedkd.settings.schema import defaults, parse, to_values, unknown_setting
from fedkd.settings.validators import at_least
from fedkd.storage.checkpoint import Checkpoints
from fedkd.tasks.text.text_task import Tokens
from fedkd.training.hyperparameters import DistillationSettings, TrainingSettings


@dataclass(frozen=True, kw_only=True)
class Federation:
    """The settings that stand at the top of a scenario, beside the protocol's."""

    description: str = ""
    """What the scenario is for, in a line."""
    clients: int = 10
    """Number of clients K, >= 1."""
    samples_per_client: int | None = None
    """Most training samples of a client; null keeps all that the partition deals."""
    models: tuple[str, ...] = ("mlp", "cnn", "resnet")
    """Architectures by name or package.module:factory, given to clients in turn, or by shares as in
    [mlp*7,cnn*3]."""
    seed: int = 0
    """Every random stream of the run derives from it, >= 0."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where models compute; auto takes CUDA where there is one. Runs repeat to the bit on the
    CPU."""
    client_store: Literal["memory", "disk"] = "memory"
    """Where clients' models are kept between rounds; disk for more clients than fit into memory."""
    batch_clients: Literal["never", "auto"] | tuple[str, ...] = "never"
    """Models whose clients are trained in one batched call: auto takes those for which a short
    trial on this machine says that it is faster, and config.yaml names them; sums then round
    otherwise than one by one."""
    baseline: Literal["local_only", "none"] = "local_only"
    """Compute (once, then cached) the same clients without any exchange, to compare with; none
    leaves it out."""
    run_dir: str | None = None
    """Folder of the run's results; null is runs/<date>_<time>_<scenario>. One that holds a run is
    never overwritten."""

    def __post_init__(self) -> None:
        at_least(1, clients=self.clients)
        at_least(0, seed=self.seed)
        if self.samples_per_client is not None:
            at_least(1, samples_per_client=self.samples_per_client)
        if not self.models:
            raise SettingError("models must name at least one model, as in models=[mlp,cnn]")


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A complete, reproducible experiment."""

    name: str
    federation: Federation
    protocol: Protocol
    strategy: Component
    data: Component
    text_canaries: Component
    public_data: Component
    partition: Component
    heads: Component
    privacy: Component
    attacks: Component
    robust: Component
    codec: Component
    audit: Component
    engine: Component
    tokens: Tokens = field(default_factory=Tokens)
    public: Public = field(default_factory=Public)
    test: EvaluationSets = field(default_factory=EvaluationSets)
    train: TrainingSettings = field(default_factory=TrainingSettings)
    distill: DistillationSettings = field(default_factory=DistillationSettings)
    checkpoint: Checkpoints = field(default_factory=Checkpoints)
    report: Report = field(default_factory=Report)

    @staticmethod
    def parse(mapping: Mapping[str, Any]) -> "Scenario":
        """Return the scenario that a plain mapping describes; settings left out keep their
        defaults.
        """
        rest = dict(mapping)
        name = str(rest.pop("name", "") or "scenario")
        groups: dict[str, Any] = {
            group: create(group, _section(rest.pop(group, None), group)) for group in GROUPS
        }
        sections = {key: parse(cls, rest.pop(key, {}) or {}, key) for key, cls in SECTIONS.items()}
        known = {**defaults(Federation), **defaults(Protocol)}
        for key in rest:
            if key not in known:
                raise unknown_setting(str(key), [*known, *SECTIONS, *GROUPS])
        top = {
            key: parse(cls, {k: v for k, v in rest.items() if k in defaults(cls)}, "")
            for key, cls in TOP.items()
        }
        return Scenario(name=name, **top, **groups, **sections)

    def to_dict(self) -> dict[str, Any]:
        """Return the scenario as a file has it: ``parse`` of it is the same scenario."""
        groups: dict[str, Any] = {group: getattr(self, group).to_dict() for group in GROUPS}
        sections = {key: to_values(getattr(self, key)) for key in SECTIONS}
        return {
            "name": self.name,
            **to_values(self.federation),
            **to_values(self.protocol),
            **groups,
            **sections,
        }

    def text(self) -> str:
        """Return the scenario as YAML."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, width=100)

    def changed(self, **parts: Any) -> "Scenario":
        """Return the scenario with some of its parts replaced."""
        return dataclasses.replace(self, **parts)


TOP: dict[str, Any] = {"federation": Federation, "protocol": Protocol}
"""Parts whose settings stand at the top of a file, without a section."""
SECTIONS: dict[str, Any] = {
    "tokens": Tokens,
    "public": Public,
    "test": EvaluationSets,
    "train": TrainingSettings,
    "distill": DistillationSettings,
    "checkpoint": Checkpoints,
    "report": Report,
}
DEFAULT_CHOICES = {
    "strategy": "knfu",
    "data": "digits",
    "text_canaries": "none",
    "public_data": "same",
    "partition": "dirichlet",
    "heads": "none",
    "privacy": "none",
    "attacks": "none",
    "robust": "none",
    "codec": "own",
    "audit": "none",
    "engine": "local",
}


def fingerprint(parts: Any) -> str:
    """Return a hash of plain values, equal for equal values."""
    return hashlib.sha256(json.dumps(to_values(parts), sort_keys=True).encode()).hexdigest()[:32]


def _section(value: Any, group: str) -> Mapping[str, Any]:
    """Return a choice's section: a name alone stands for its defaults."""
    if value is None:
        return {"name": DEFAULT_CHOICES[group]}
    if isinstance(value, str):
        return {"name": value}
    if not isinstance(value, Mapping):
        raise SettingError(f"{group} must be a name, or a section with a name; got {value!r}")
    return value
