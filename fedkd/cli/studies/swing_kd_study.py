"""Settings of the study of swing between one teacher and a smaller student.

Every run is one of the product's own (``python -m fedkd.simulate scenario=swing_kd SETTINGS``). A
sweep of temperature and noise, plain distillation, and what competes with swing, at each level of
what the transfer text visits. Not for: what the outcomes say (``swing_kd_report``).
"""

from fedkd.cli.studies.swing_study import SWING, Setting, SwingStudy

BASE = ("scenario=swing_kd", "engine.workers=1")
PLAIN, PLAIN_FILLINGS, PLAIN_SHARE = "plain", "plain, other fillings", "plain, own share 0.5"
TEMPERATURES, NOISES = (1, 3, 10, 100), (0, 2, 5)
STRONGEST = (1000, 20)
FILLINGS = ("text_canaries.visits=fillings",)
SHARE = ("tokens.label_share=0.5",)


def swing(temperature: int, noise: int) -> tuple[str, ...]:
    """Return the settings of swing that knows where secrets could be said."""
    return (*SWING, f"privacy.max_temperature={temperature}", f"privacy.noise={noise}")


def name_of(temperature: int, noise: int) -> str:
    """Return the name of a point of the sweep."""
    return f"swing, T {temperature}, noise {noise}"


def _point(
    temperature: int, noise: int, at: str = "", more: tuple[str, ...] = (), against: str = PLAIN
) -> Setting:
    label = f"swing_{temperature}_{noise}{at.replace(', ', '_').replace(' ', '_')}"
    settings = (*swing(temperature, noise), *more)
    return Setting(name_of(temperature, noise) + at, label, settings, against=against)


SWEEP = (
    *((t, n) for t in TEMPERATURES for n in NOISES if (t, n) != (1, 0)),
    STRONGEST,
)
"""Temperatures and noises at the level ``secrets``."""
SWEEP_FILLINGS = ((10, 2), (100, 5), STRONGEST)
"""Those at the level ``fillings``."""
DETECTORS = {"surprisal_gap": "swing, surprisal gap", "confidence": "swing, confidence"}
DP_SGD = (
    "privacy=dp_sgd",
    "privacy.epsilon=8",
    "privacy.delta=1e-3",
    "train.batch_size=24",
)
SETTINGS = (
    Setting(PLAIN, "plain"),
    *(_point(t, n) for t, n in SWEEP),
    *(
        Setting(name, detector, ("privacy=swing", f"privacy.detector={detector}"), against=PLAIN)
        for detector, name in DETECTORS.items()
    ),
    Setting("dropped positions", "dropped", ("tokens.skip=oracle",)),
    Setting("DP-SGD teacher", "dp_sgd", DP_SGD),
    Setting(PLAIN_SHARE, "share", SHARE, against=PLAIN_SHARE),
    _point(10, 2, ", own share 0.5", SHARE, PLAIN_SHARE),
    Setting(PLAIN_FILLINGS, "fillings", FILLINGS, against=PLAIN_FILLINGS),
    *(_point(t, n, ", other fillings", FILLINGS, PLAIN_FILLINGS) for t, n in SWEEP_FILLINGS),
    Setting(
        "dropped positions, other fillings",
        "dropped_fillings",
        (*FILLINGS, "tokens.skip=oracle"),
        against=PLAIN_FILLINGS,
    ),
    Setting("plain, prefix alone", "prefix", ("text_canaries.visits=prefix",)),
    Setting(
        "plain, never visited",
        "never",
        ("text_canaries.visits=never", "text_canaries.visit_times=null"),
    ),
)
ONE_TEACHER = SwingStudy(BASE, SETTINGS)
