"""The options of comparing, reporting privacy and reproducing, and the kinds of names.

They stand apart from what they are for: shells complete them, and nothing heavy is imported here.
"""

from argparse import ArgumentParser
from pathlib import Path

from fedkd.settings.measuring_points import MEASURING_POINTS
from fedkd.settings.metric_names import METRIC_NAMES

LAST = 3
SEEDS = "0,1,2"
MECHANISMS = "dp_sgd,central_gaussian,gnmax,swing"
EPSILONS = "0.5,1,2,4,8,inf"
AFTER = ("auto", *MEASURING_POINTS)
REPRODUCIBLE = (
    *("digits", "orderings", "paper", "plugins", "families", "one_shot", "estimators"),
    *("attacks", "knfu", "fedproto", "swing", "swing_kd"),
)
"""Studies by name."""
FIVE_SEEDS = ("digits", "plugins", "families", "one_shot", "estimators", "knfu", "swing_kd")
"""Those that are of five seeds by default."""

KINDS = {
    "strategies": "strategy",
    "scenarios": "scenario",
    "data": "data",
    "public-data": "public_data",
    "partitions": "partition",
    "models": "models",
    "text-models": "text_models",
    "language-models": "language_models",
    "heads": "heads",
    "adapters": "adapters",
    "privacy": "privacy",
    "attacks": "attacks",
    "robust": "robust",
    "codecs": "codec",
    "audits": "audit",
    "canaries": "text_canaries",
    "engines": "engine",
}
"""Kinds of names as ``fedkd list`` calls them, and the settings that choose one."""


def add_compare(made: ArgumentParser) -> None:
    """Add the options of ``fedkd compare``."""
    made.add_argument(
        "settings",
        nargs="*",
        help="scenario=NAME and settings of all runs, as for fedkd run",
    )
    made.add_argument("--config", help="a scenario file, in place of scenario=NAME")
    made.add_argument("--config-dir", help="a folder of scenario files")
    made.add_argument("--methods", help="strategies, with labels and settings of their own")
    made.add_argument(
        "--grid",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=V,V",
        help="settings that vary",
    )
    made.add_argument("--seeds", help=f"default: {SEEDS}")
    made.add_argument("--jobs", type=int, default=1, help="runs at a time; default: 1")
    made.add_argument(
        "--runs",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        help="read these run folders; run nothing",
    )
    made.add_argument(
        "--out", type=Path, required=True, help="folder of the runs, tables and plots"
    )
    made.add_argument(
        "--last", type=int, default=LAST, help=f"rounds in the mean of the last; default: {LAST}"
    )
    made.add_argument(
        "--after",
        choices=AFTER,
        default="auto",
        help="the point of a round that comes first; auto is that of the methods' papers",
    )
    made.add_argument(
        "--against",
        metavar="METHOD",
        help="hold each method against this one; by default all are held against each other",
    )
    made.add_argument(
        "--metric",
        choices=("accuracy", *METRIC_NAMES),
        default="accuracy",
        help="hold methods against each other by this one; the runs need metrics=[METRIC]",
    )
    made.add_argument(
        "--reach",
        type=float,
        help="count the bytes until this accuracy is reached, as in 0.8",
    )


def add_privacy_report(made: ArgumentParser) -> None:
    """Add the options of ``fedkd privacy-report``."""
    made.add_argument(
        "settings",
        nargs="*",
        help="scenario=NAME and settings of all runs, as for fedkd run",
    )
    made.add_argument("--config", help="a scenario file, in place of scenario=NAME")
    made.add_argument("--config-dir", help="a folder of scenario files")
    made.add_argument("--mechanisms", default=MECHANISMS, help=f"default: {MECHANISMS}")
    made.add_argument(
        "--epsilons", default=EPSILONS, help=f"budgets; inf is no protection; default: {EPSILONS}"
    )
    made.add_argument("--seeds", default="0,1,2", help="default: 0,1,2")
    made.add_argument("--jobs", type=int, default=1, help="runs at a time; default: 1")
    made.add_argument(
        "--runs",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        help="read these run folders; run nothing",
    )
    made.add_argument(
        "--after",
        choices=AFTER,
        default="auto",
        help="the point of a round to report; auto is that of the methods' papers",
    )
    made.add_argument("--out", type=Path, required=True, help="folder of the runs, table and plot")


def add_reproduce(made: ArgumentParser) -> None:
    """Add the options of ``fedkd reproduce``."""
    made.add_argument(
        "what",
        choices=REPRODUCIBLE,
    )
    made.add_argument(
        "--seeds", type=int, help=f"paired seeds, 0 to N-1; {', '.join(FIVE_SEEDS)} 5, others 3"
    )
    made.add_argument("--out", type=Path, help="folder of the tables, figures and runs")
    made.add_argument("--data", type=Path, help="folder of data sets; default: the hub")
    made.add_argument("--rounds", type=int, help="rounds of fedproto; default: the paper's")
    made.add_argument("--jobs", type=int, default=2, help="runs at a time")
    made.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        help="orderings, plug-ins, attacks, parts of knfu or settings of swing by name",
    )
    made.add_argument(
        "--stored",
        type=Path,
        metavar="FOLDER",
        help="print orderings, plugins, estimators or paper again from a folder's CSV files",
    )


def add_export(made: ArgumentParser) -> None:
    """Add the options of ``fedkd export``."""
    made.add_argument("run_dir", type=Path, metavar="RUN", help="the run's folder")
    made.add_argument(
        "--client", type=int, required=True, metavar="N", help="the client's number, from 0"
    )
    made.add_argument(
        "--out", type=Path, help="the folder, new or empty; default: exports/client_N in the run's"
    )
