"""Reproduce published orderings of methods on real data, over paired seeds.

    fedkd reproduce digits [--seeds 5] [--out FOLDER]
    fedkd reproduce orderings [--data FOLDER] [--seeds 3] [--jobs 2] --out FOLDER
    fedkd reproduce paper     [--data FOLDER] [--seeds 3] [--jobs 2] --out FOLDER
    fedkd reproduce plugins   [--seeds 5] [--jobs 2] --out FOLDER
    fedkd reproduce families  [--data FOLDER] [--seeds 5] [--jobs 2] --out FOLDER
    fedkd reproduce one_shot  [--data FOLDER] [--seeds 5] [--jobs 2] --out FOLDER
    fedkd reproduce estimators [--seeds 5] [--jobs 2] --out FOLDER
    fedkd reproduce attacks   [--seeds 3] [--jobs 2] --out FOLDER
    fedkd reproduce knfu      [--data FOLDER] [--seeds 5] [--jobs 2] --out FOLDER
    fedkd reproduce fedproto  [--data FOLDER] [--seeds 3] [--rounds N] --out FOLDER
    fedkd reproduce swing     [--seeds 3] [--jobs 2] --out FOLDER
    fedkd reproduce swing_kd  [--seeds 5] [--jobs 2] --out FOLDER

``digits`` is the KnFu study on scikit-learn's digits (studies/knfu_digits.py).
``orderings`` are six orderings of methods on MNIST, Fashion-MNIST and CIFAR-10
(studies/orderings.py); ``paper`` is FedMD's comparison with its published figures; ``fedproto``
is Table 1 of FedProto (studies/fedproto_table.py); ``attacks`` is
the attacked fraction up to which each fusion rule helps (studies/break_even.py); ``plugins`` are
the expected effects of plug-ins on digits (studies/plugins.py); ``families`` holds an ordering of
each family of methods (studies/families.py, studies/teachers.py); ``one_shot`` has methods do
with one round (studies/one_shot.py); ``estimators`` puts networks and forests into one federation
(studies/networks_and_trees.py); ``knfu`` asks which reading of
KnFu behaves as its abstract says, holds it against its counterparts, and finds from how much data
on local training wins (studies/knfu_study.py); ``swing`` measures what soft labels
of text leak in a federation, and what prevents it (studies/swing_study.py), on a small embedded
corpus; ``swing_kd`` does so between one teacher and a smaller student
(studies/swing_kd_study.py).

Runs are stored below --out, and the same command continues them. --data is a folder with mnist/,
fashion_mnist/ and cifar10/ in the hub's layout; by default they come from the hub. --only selects
orderings, plug-ins, attacks (or ``costs``: what rules cost without any), parts of knfu, FedProto's
n or settings of swing by name.
"""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from fedkd.cli.options import FIVE_SEEDS, add_reproduce
from fedkd.cli.studies import (
    break_even,
    fedproto_table,
    knfu_digits,
    knfu_study,
    one_shot,
    shifted,
    swing_kd_report,
    swing_kd_study,
    swing_report,
    swing_study,
    unseen,
)
from fedkd.cli.studies.families import FAMILIES
from fedkd.cli.studies.networks_and_trees import MIXED
from fedkd.cli.studies.orderings import FEDMD, ORDERINGS
from fedkd.cli.studies.plugins import PLUGINS
from fedkd.cli.studies.study import print_all, report_stored
from fedkd.cli.studies.teachers import TEACHERS
from fedkd.errors import FedkdError
from fedkd.runtime.interrupts import described, exit_status

OF_MODELS = {shifted.SHIFTED.name: shifted.carry_out, unseen.UNSEEN.name: unseen.carry_out}
"""Studies of plug-ins that measure the models of a run further; their runs are not resumable."""
OF_SWING = {
    "swing": (swing_study.FEDERATION, swing_report.write),
    "swing_kd": (swing_kd_study.ONE_TEACHER, swing_kd_report.write),
}
"""Studies of swing, and what writes their reports."""
STUDIES = {
    "orderings": ORDERINGS,
    "paper": (FEDMD,),
    "plugins": PLUGINS,
    "families": (*FAMILIES, *TEACHERS),
    "one_shot": one_shot.ONE_SHOT,
    "estimators": (MIXED,),
}


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="fedkd reproduce",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_reproduce(parser)
    return parser


def known_names(what: str) -> list[str]:
    """Return the names that --only may select from, none where it has no effect."""
    if what in OF_SWING:
        return list(OF_SWING[what][0].by_name)
    if what == "knfu":
        return list(knfu_study.NAMES)
    if what == "attacks":
        return list(break_even.NAMES)
    if what == "fedproto":
        return list(fedproto_table.NAMES)
    names = [study.name for study in STUDIES.get(what, ())]
    return names + list(OF_MODELS) if what == "plugins" else names


def run_studies(given: argparse.Namespace, seeds: int, names: Sequence[str]) -> str:
    """Carry out the chosen studies, write their reports, and return them as one text.

    Raises FedkdError if a run failed.
    """
    console = Console(highlight=False, soft_wrap=True, stderr=True)
    if given.what == "attacks":
        return break_even.report(seeds, given.out, given.jobs, console, names)
    if given.what in OF_SWING:
        study, write_report = OF_SWING[given.what]
        measured = study.carry_out(seeds, given.out, given.jobs, console, names)
        return write_report(measured, given.out)
    if given.stored is not None:
        chosen = [study for study in STUDIES[given.what] if study.name in names]
        return report_stored(chosen, given.stored)
    if given.what == "knfu":
        return knfu_study.run(seeds, given.out, given.jobs, console, data=given.data, only=names)
    if given.what == "one_shot":
        return one_shot.report(seeds, given.out, given.jobs, console, given.data, names)
    if given.what == "fedproto":
        return fedproto_table.report(
            seeds, given.out, given.jobs, console, given.data, given.rounds, names
        )
    chosen = [study for study in STUDIES[given.what] if study.name in names]
    text = print_all(chosen, seeds, given.out, given.jobs, console, given.data)
    for name in names:
        if given.what == "plugins" and name in OF_MODELS:
            text += "\n" + OF_MODELS[name](seeds, given.out)
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit status: 0, 1 (a run failed), 130 (Ctrl-C)."""
    parser = make_parser()
    given = parser.parse_args(arguments)
    seeds = given.seeds or (5 if given.what in FIVE_SEEDS else 3)
    if seeds < 2:
        parser.error("--seeds must be at least 2: an interval needs two runs")
    if given.rounds is not None and (given.what != "fedproto" or given.rounds < 2):
        parser.error("--rounds is for fedproto, and at least 2: the first round has no prototypes")
    if given.what == "digits":
        print(knfu_digits.run(seeds, given.out))
        return 0
    if given.stored is not None and given.what not in STUDIES:
        parser.error(f"--stored goes with {', '.join(STUDIES)}, not with {given.what}")
    if given.out is None and given.stored is None:
        parser.error(f"{given.what} needs --out FOLDER for its runs")
    known = known_names(given.what)
    unknown = [name for name in given.only or () if known and name not in known]
    if unknown:
        parser.error(f"--only: {', '.join(unknown)} is none of {'; '.join(known)}")
    if given.what in OF_SWING and "plain" not in (given.only or known):
        parser.error("--only must name 'plain', which the others are compared with")
    names = [name for name in known if name in given.only] if given.only else known
    try:
        print(run_studies(given, seeds, names))
    except FedkdError as error:
        print(f"reproduce: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interruption:
        said = described(interruption)
        print(f"reproduce: {said}; the same command continues from here", file=sys.stderr)
        return exit_status(interruption)
    return 0


if __name__ == "__main__":
    sys.exit(main())
