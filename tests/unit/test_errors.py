"""Text from elsewhere is one printable line of bounded length."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkd.errors import TEXT_LIMIT, printable


@given(st.text(max_size=400), st.integers(60, 150))
def test_any_text_becomes_one_printable_line_of_bounded_length(text: str, limit: int) -> None:
    line = printable(text, limit)
    assert line.isprintable()
    assert len(line) <= limit
    assert printable(line, limit) == line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ValueError: shapes differ", "ValueError: shapes differ"),
        ("\x1b]0;title\x07\x1b[2Jgone", "]0;title[2Jgone (3 unprintable)"),
        ("left\u202eright", "leftright (1 unprintable)"),
        ("a\x00b\ud800c", "abc (2 unprintable)"),
        ("line\r\nline\u2028line", "line line line"),
        ("=1+1", "'=1+1"),
        ("日本語, Grüße, \U0001f600", "日本語, Grüße, \U0001f600"),
    ],
)
def test_what_could_harm_a_terminal_or_a_table_is_left_out(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_text_of_eight_megabytes_says_how_long_it_was_and_is_read_again_from_a_table() -> None:
    line = printable("\x1b[31m" + "x" * 8_000_000)
    assert line.endswith("... (8,000,005 characters, 1 unprintable)")
    assert len(line) == TEXT_LIMIT
    table = io.StringIO()
    csv.writer(table).writerow([line])
    assert next(csv.reader(io.StringIO(table.getvalue()))) == [line]
