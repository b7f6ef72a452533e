"""The bugs that scripts/planted_bugs.py plants can be planted."""

import ast

import planted_bugs
import pytest
from planted_bugs import BUGS, Bug


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.package)
def test_a_bug_has_its_line_and_leaves_a_file_that_can_be_read(bug: Bug) -> None:
    ast.parse(planted_bugs.changed(bug))


def test_packages_differ() -> None:
    assert len({bug.package for bug in BUGS}) == len(BUGS) >= 10


def test_a_line_that_is_gone_is_named() -> None:
    bug = Bug("fusion", BUGS[0].file, "no such line", "", "")
    with pytest.raises(LookupError, match="'no such line'; follow the change"):
        planted_bugs.changed(bug)


def test_the_tests_of_its_own_room_come_first() -> None:
    (fusion,) = (bug for bug in BUGS if bug.package == "fusion")
    assert planted_bugs.stages(fusion, []) == [
        ["tests/unit/fusion"],
        ["tests/unit", "fedkd"],
        ["tests/runs"],
    ]
    assert planted_bugs.stages(fusion, ["tests/runs"]) == [["tests/runs"]]
