"""A scenario: everything that decides a run, as one frozen value.

It is the boundary between YAML and the program.

``Scenario.parse`` is the only way in and ``to_dict`` the way out again; what passes is checked, so
that the code behind it trusts its settings. Each hyper-parameter stands in the class of the code
that uses it.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from fedkd.data.client_shifts import ClientShifts
from fedkd.data.division import EvaluationSets, Public
from fedkd.errors import SettingError, WrongSettings
from fedkd.federation.measurement import Measurement
from fedkd.federation.protocol import Protocol
from fedkd.models.model_names import written
from fedkd.report.report_settings import Report
from fedkd.scenario.registry import GROUPS, Components, Section, create
from fedkd.settings.meaning import UNDECLARED, Affects, Meaning, meanings, setting
from fedkd.settings.renamed import old_names
from fedkd.settings.schema import (
    defaults,
    dotted,
    flat,
    parse,
    section_values,
    to_values,
    unknown_setting,
)
from fedkd.settings.validators import at_least, check_choices
from fedkd.settings.yaml_text import to_yaml
from fedkd.storage.checkpoint import Checkpoints
from fedkd.tasks.encoders import Preprocessing
from fedkd.tasks.text.tokens_section import Tokens
from fedkd.training.hyperparameters import DistillationSettings, TrainingSettings
from fedkd.training.precision import Precision

T = TypeVar("T")


BATCHING = ("batch_clients", "product_convolutions", "step_graphs")
"""The settings of how clients train together, each of which may name models."""
NAMING_MODELS = ("models", *BATCHING)
"""All settings that name models."""


@dataclass(frozen=True, kw_only=True)
class Federation:
    """The settings that stand at the top of a scenario, with the protocol's."""

    description: str = setting("", affects="nothing")
    """What the scenario is for, in a line."""
    clients: int = 10
    """Number of clients K, >= 1."""
    samples_per_client: int | None = None
    """Most training samples of a client, of text data most texts, each of which makes a window or
    more; null keeps all that the partition deals."""
    models: tuple[str, ...] = ("mlp", "cnn", "resnet")
    """Architectures by name, by a library's name as in timm:resnet18, or package.module:factory,
    given to clients in turn, or by shares as in [mlp*7,cnn*3]. A factory may be given arguments, as
    in [zoo:Net(width=32)] or [{name: timm:resnet18, pretrained: true, share: 0.3}]."""
    seed: int = 0
    """Every random stream of the run derives from it, >= 0."""
    device: Literal["auto", "cpu", "cuda"] = setting("auto", affects="nothing", resumable=True)
    """Where models compute; auto takes CUDA where there is one. Runs repeat to the bit on the
    CPU."""
    precision: Precision = "default"
    """What models compute in: 32-bit floats, TF32 (on GPUs alone), or bfloat16 by autocast, with
    weights and logits of 32 bits; default is PyTorch's, 32 bits on a CPU."""
    client_store: Literal["memory", "disk"] = setting("memory", affects="nothing", resumable=True)
    """Where clients' models are kept between rounds; disk for more clients than fit into memory."""
    batch_clients: Literal["never", "auto"] | tuple[str, ...] = setting(
        "never", left_open=("auto",)
    )
    """Models whose clients are trained in one batched call: auto takes those for which a short
    trial on this machine says that it is faster, and config.yaml names them; sums then round
    otherwise than one by one."""
    product_convolutions: Literal["auto", "never"] | tuple[str, ...] = setting(
        "auto", left_open=("auto",)
    )
    """Models of batch_clients whose convolutions are products of matrices: on a CPU they round
    alike in any batch only so; auto takes those there, and on a GPU those for which a short trial
    says that it is faster. config.yaml names them."""
    step_graphs: Literal["never", "auto"] | tuple[str, ...] = setting("never", left_open=("auto",))
    """Models of batch_clients whose training steps a GPU replays as CUDA graphs; auto takes those
    for which a short trial finds the same bits in less time, and config.yaml names them. Never yet
    run on a GPU."""
    baseline: Literal["local_only", "local_only_private", "none"] = setting(
        "local_only", affects="exchange"
    )
    """Compute (once, then cached) the same clients without any exchange, to compare with. A gain
    over local_only mixes what exchange gives and what protection costs; local_only_private trains
    with the same mechanism and noise (dp_sgd), so that exchange alone is left. none leaves it
    out."""
    start_from: str | None = None
    """Folder of a finished run whose models the clients begin with, as many of them and of the same
    architectures; null begins anew. No run that claims privacy, or audits it, begins so."""
    objective: str | None = setting(None, affects="nothing")
    """The figure of summary.json that a job of a sweep returns to a sweeper such as Optuna's, as in
    global_accuracy (at the point of a round that is reported first)."""
    run_dir: str | None = setting(None, affects="nothing")
    """Folder of the run's results; null is runs/<date>_<time>_<scenario>_<name>. One that holds a
    run is never overwritten."""

    def __post_init__(self) -> None:
        check_choices(self)
        at_least(1, clients=self.clients)
        at_least(0, seed=self.seed)
        if self.samples_per_client is not None:
            at_least(1, samples_per_client=self.samples_per_client)
        if not self.models:
            raise SettingError("models must name at least one model, as in models=[mlp,cnn]")


def section(
    cls: type[T], *, affects: Affects = "figures", resumable: bool = False, at_top: bool = False
) -> T:
    """Return the field of a section of settings.

    Args:
        cls: The section's class.
        affects: Which figures those of its settings change that declare nothing of their own.
        resumable: Whether they may change when a run is resumed.
        at_top: Whether its settings stand at the top of a file, without the section's name.
    """
    meaning = Meaning(affects=affects, resumable=resumable)
    metadata = {"section": cls, "meaning": meaning, "at_top": at_top}
    return field(default_factory=cls, metadata=metadata)


# The groups are fields of a class of their own, so that each is declared once and still typed.
@dataclass(frozen=True, kw_only=True)
class Scenario(Components):
    """A complete, reproducible experiment."""

    name: str = field(metadata={"meaning": Meaning(affects="nothing")})
    federation: Federation = section(Federation, at_top=True)
    protocol: Protocol = section(Protocol, at_top=True)
    measurement: Measurement = section(Measurement, at_top=True)
    preprocessing: Preprocessing = section(Preprocessing)
    tokens: Tokens = section(Tokens)
    public: Public = section(Public)
    shift: ClientShifts = section(ClientShifts)
    test: EvaluationSets = section(EvaluationSets)
    train: TrainingSettings = section(TrainingSettings)
    distill: DistillationSettings = section(DistillationSettings, affects="exchange")
    checkpoint: Checkpoints = section(Checkpoints, affects="nothing", resumable=True)
    report: Report = section(Report, affects="nothing", resumable=True)

    @staticmethod
    def parse(mapping: Mapping[str, object]) -> "Scenario":
        """Return the scenario that a mapping describes.

        Settings that are left out have their defaults.
        """
        rest, wrong = dict(mapping), WrongSettings()
        with wrong.collected():
            if "models" in rest:
                rest["models"] = _models_as_names(rest.pop("models"))
        name = str(rest.pop("name", "") or "scenario")
        parts: dict[str, object] = {}
        for group in GROUPS:
            with wrong.collected():
                parts[group] = create(group, _section(rest.pop(group, None), group))
        for key, cls in SECTIONS.items():
            with wrong.collected():
                parts[key] = parse(cls, rest.pop(key, {}) or {}, key)
        for key in rest:
            with wrong.collected():
                check_key(str(key))
        for key, cls in TOP.items():
            with wrong.collected():
                own = {k: v for k, v in rest.items() if k in defaults(cls)}
                parts[key] = parse(cls, own, "")
        wrong.raise_any()
        make: Callable[..., Scenario] = Scenario  # the names of its fields are those of the tables
        return make(name=name, **parts)

    def to_dict(self) -> dict[str, object]:
        """Return the scenario as a file has it: ``parse`` of it is the same scenario."""
        groups: dict[str, object] = {group: getattr(self, group).to_dict() for group in GROUPS}
        sections = {key: to_values(getattr(self, key)) for key in SECTIONS}
        return {
            "name": self.name,
            **section_values(self.federation),
            **section_values(self.protocol),
            **section_values(self.measurement),
            **groups,
            **sections,
        }

    def text(self) -> str:
        """Return the scenario as YAML."""
        return to_yaml(self.to_dict())

    def changed(self, **parts: object) -> "Scenario":
        """Return the scenario with some of its parts replaced."""
        replaced: Callable[..., Scenario] = dataclasses.replace
        return replaced(self, **parts)


_SECTION_FIELDS = [f for f in dataclasses.fields(Scenario) if "section" in f.metadata]
TOP: dict[str, type] = {
    f.name: f.metadata["section"] for f in _SECTION_FIELDS if f.metadata["at_top"]
}
"""Sections whose settings stand at the top of a file."""
SECTIONS: dict[str, type] = {
    f.name: f.metadata["section"] for f in _SECTION_FIELDS if not f.metadata["at_top"]
}
"""The other sections by name."""


def check_key(key: str) -> None:
    """Raise SettingError for the dotted name of a setting that no scenario has.

    The settings of a component are its class's, and not looked up here.
    """
    top, _, rest = key.partition(".")
    at_top = [name for cls in TOP.values() for name in defaults(cls)]
    if top in SECTIONS:
        known = [dotted(top, name) for name in defaults(SECTIONS[top])]
        if rest and dotted(top, rest.partition(".")[0]) not in known:
            raise unknown_setting(key, known)
    elif top not in GROUPS and top not in at_top:
        raise unknown_setting(key, [*at_top, *SECTIONS, *GROUPS])


_OWN = meanings(Scenario)
_AT_TOP = {
    "name": _OWN["name"],
    **{key: meaning for cls in TOP.values() for key, meaning in meanings(cls).items()},
}
_IN_SECTIONS = {name: meanings(cls) for name, cls in SECTIONS.items()}


def meaning_of(name: str) -> Meaning:
    """Return what a setting means for a run, by its dotted name.

    >>> meaning_of("engine.workers").affects, meaning_of("public.per_round").affects
    ('nothing', 'exchange')
    >>> meaning_of("seed").affects
    'figures'
    """
    top, _, rest = name.partition(".")
    if top in GROUPS:
        return GROUPS[top].meaning
    if top in SECTIONS:
        return _IN_SECTIONS[top].get(rest, _OWN[top])
    return _AT_TOP.get(name, UNDECLARED)


def with_effect(settings: Mapping[str, object]) -> dict[str, object]:
    """Return those of some settings, by dotted name, that affect a figure."""
    return {
        name: value for name, value in settings.items() if meaning_of(name).affects != "nothing"
    }


def deciding(scenario: Scenario) -> dict[str, object]:
    """Return the settings that decide a run's figures, by dotted name."""
    return with_effect(flat(scenario.to_dict()))


def left_open(scenario: Scenario) -> set[str]:
    """Return the settings for which the run chooses a value when it begins, by dotted name."""
    return {
        name
        for name, value in flat(scenario.to_dict()).items()
        if value in meaning_of(name).left_open
    }


def resumable() -> tuple[str, ...]:
    """Return what may be given anew when a run is resumed: groups, sections and single settings."""
    groups = [name for name, group in GROUPS.items() if group.meaning.resumable]
    sections = [name for name in SECTIONS if _OWN[name].resumable]
    inside = [("", cls) for cls in TOP.values()]
    inside += [(name, cls) for name, cls in SECTIONS.items() if name not in sections]
    single = [
        dotted(where, name)
        for where, cls in inside
        for name, meaning in meanings(cls).items()
        if meaning.resumable
    ]
    return (*groups, *sections, *single)


def resumable_in_words() -> str:
    """Return what may be given anew when a run is resumed, for messages."""
    fixed = [dotted(name, key) for name in resumable() if name in SECTIONS for key in _fixed(name)]
    return ", ".join(resumable()) + (f" (without {', '.join(fixed)})" if fixed else "")


def _fixed(section_name: str) -> list[str]:
    """Return the settings of a section that declare that they may not change on resume."""
    return [key for key, meaning in _IN_SECTIONS[section_name].items() if not meaning.resumable]


def with_resumable(scenario: Scenario, other: Scenario) -> Scenario:
    """Return a scenario with what may change when a run is resumed as ``other`` has it."""
    merged, theirs = scenario.to_dict(), other.to_dict()
    for name in resumable():
        top, _, rest = name.partition(".")
        if rest:
            merged[top] = {**_section(merged[top], top), rest: _section(theirs[top], top)[rest]}
        elif top in SECTIONS:
            mine = _section(merged[top], top)
            fixed = {key: mine[key] for key in _fixed(top)}
            merged[top] = {**_section(theirs[top], top), **fixed}
        else:
            merged[top] = theirs[top]
    return Scenario.parse(merged)


def check_names(stored: Mapping[str, object], what: str) -> None:
    """Raise SettingError for a scenario of an earlier fedkd, whose runs cannot go on.

    ``what`` names the run whose scenario is stored.
    """
    renamed = old_names(flat(stored))
    if renamed:
        raise SettingError(
            f"{what} was begun by an earlier fedkd ({renamed}) and cannot go on; run it again"
        )


def fingerprint(parts: object) -> str:
    """Return a hash of plain values, equal for equal values."""
    return hashlib.sha256(json.dumps(to_values(parts), sort_keys=True).encode()).hexdigest()[:32]


def _models_as_names(given: object) -> object:
    """Return the models with mappings as names with arguments; SettingError for a wrong one."""
    if isinstance(given, Mapping):
        given = [given]
    if not isinstance(given, list | tuple):
        return given
    return [written(one) if isinstance(one, Mapping) else one for one in given]


def _section(value: object, group: str) -> Section:
    """Return a choice's section: a name alone stands for its defaults."""
    if value is None:
        return {"name": GROUPS[group].default}
    if isinstance(value, str):
        return {"name": value}
    if not isinstance(value, Mapping):
        raise SettingError(f"{group} must be a name, or a section with a name; got {value!r}")
    return value
