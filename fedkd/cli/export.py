"""``fedkd export RUN --client N``: a client's model in a folder that loads without the run."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from fedkd.cli.arguments import trusts
from fedkd.cli.command import reported
from fedkd.cli.options import add_export
from fedkd.errors import SettingError
from fedkd.experiment.export_model import export


def main(given: Sequence[str]) -> int:
    """Write the model and print its folder; return the exit status: 0, 1 (it failed), 2."""
    parser = argparse.ArgumentParser(
        prog="fedkd export",
        description="Write a client's model, as it was after the last round, into a folder: its"
        " state_dict, a loader, and a card that says what it takes, how good it is and what is"
        " claimed for it.",
        epilog="trust=true: the run may import what is not fedkd's, which runs its code",
    )
    add_export(parser)

    def written() -> int:
        rest, trust = trusts(given)
        asked = parser.parse_args(rest)
        run: Path = asked.run_dir
        if not run.is_dir():
            raise SettingError(f"{run}: no such folder; give that of a run")
        folder = export(run, asked.client, asked.out, trust=trust)
        print(f"{folder}: load it by load_model.load(), or look at it by python load_model.py")
        return 0

    return reported(written)
