"""The document of a run's columns, ``docs/columns.md``, from what the figures declare.

``python scripts/write_columns.py`` writes it; a test holds the two equal.
"""

from fedkd.federation.round_records import MEASURES, WORDS, Measure
from fedkd.report.record_rows import OF_THE_ROUND

HEAD = """\
# Columns

What a run's tables hold. `personal_...` is what the console calls *own*: measured on the client's
own label distribution; `global_...` is *balanced*: measured on the balanced test set.
`..._after_distillation` and `..._after_training` are at a round's two points
([measuring.md](measuring.md)). Accuracies, gains and shares are in [0, 1] (gains in [-1, 1]),
losses and divergences in nats, seconds of the clock. What is not known is empty, or null.

`clients.csv` has a row a client and round, with `round` and `client` (number of the client from 0)
before the columns below. `rounds.jsonl` has a line a round: what the last column says is taken over
clients, attackers left out except in totals and the largest. An absent client counts with its
latest accuracies at each point. `python scripts/write_columns.py` writes this page from the
declaration of the figures in `fedkd/federation/round_records.py`.

| column of `clients.csv` | is | in `rounds.jsonl` |
|---|---|---|
"""

MIDDLE = """
Of the round as a whole, in `rounds.jsonl` alone:

| column | is |
|---|---|
"""

TAIL = """
What a strategy reports (`Fusion(metrics=...)`) stands with them in `rounds.jsonl` as
`strategy/NAME`, and what a callback of your own measures as `own/NAME`: whatever they are called,
they overwrite none of these columns. `teacher_by_class.csv` has a row a
client and round: its teacher's accuracy on the public samples of each class.
"""


def document() -> str:
    """Return the text of ``docs/columns.md``."""
    of_clients = [
        f"| `{measure.name}` | {measure.meaning} | {_in_rounds(measure)} |\n"
        for measure in MEASURES
        if measure.is_column
    ]
    of_rounds = [f"| `{name}` | {meaning} |\n" for name, meaning in OF_THE_ROUND.items()]
    return "".join([HEAD, *of_clients, MIDDLE, *of_rounds, TAIL])


def _in_rounds(measure: Measure) -> str:
    said = (
        WORDS[how] if column == measure.name else f"`{column}`: {WORDS[how]}"
        for column, how in measure.round_columns().items()
    )
    return "; ".join(said)
