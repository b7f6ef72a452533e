"""Write the table of methods in ``strategies/README.md`` from what their classes declare.

python scripts/write_methods.py
"""

import importlib
import re
from pathlib import Path

from fedkd.scenario.registry import create, names
from fedkd.strategy import declaration

README = Path(__file__).parent.parent / "strategies" / "README.md"
BEGIN = "<!-- The table is written by scripts/write_methods.py. -->\n"
END = "<!-- The end of the table. -->\n"
LEARN = {
    "distill": "distil a teacher on the public set",
    "adopt": "take over weights",
    "train": "a term in private training's loss",
}


def table() -> str:
    """Return the table: a line for each method, those together of which the same travels."""
    head = "| name | its rule | clients send | clients learn by | evaluated after | paper |\n"
    lines = sorted(line_of(name) for name in names("strategy"))
    return head + "|---|---|---|---|---|---|\n" + "".join(line for _, line in lines)


def line_of(name: str) -> tuple[tuple[bool, str, str], str]:
    """Return what a method is sorted by, and its line."""
    declared = declaration(create("strategy", {"name": name}).value, name)
    kind, needs = declared.kind, declared.needs
    if kind is None:
        sends, learns = "nothing", "nothing"
    elif needs.pooled_data:
        sends, learns = "nothing; all private data are in one place", LEARN[kind.learned_by]
    else:
        sends, learns = kind.in_words, LEARN[kind.learned_by]
    module = importlib.import_module(f"fedkd.strategies.{name}").__doc__ or ""
    said = module.split("\n\n")[0].partition(": ")[2].replace("\n", " ").strip().rstrip(".")
    cells = [f"[`{name}`]({name}.py)", said, sends, learns, declared.evaluated_after, paper(module)]
    key = (not sends.startswith("nothing"), sends, name)
    return key, "| " + " | ".join(cells) + " |\n"


def paper(docstring: str) -> str:
    """Return the link to the paper that a module's first line names; a dash without one."""
    arxiv = re.search(r"arXiv (\d{4}\.\d{4,5})", docstring)
    doi = re.search(r"doi (10\.[^\s),]+)", docstring)
    if arxiv:
        return f"[{arxiv[1]}](https://arxiv.org/abs/{arxiv[1]})"
    return f"[doi](https://doi.org/{doi[1]})" if doi else "-"


def document(before: str) -> str:
    """Return the page with the table written anew."""
    above, rest = before.split(BEGIN)
    return above + BEGIN + "\n" + table() + "\n" + END + rest.split(END)[1]


if __name__ == "__main__":
    README.write_text(document(README.read_text()))
