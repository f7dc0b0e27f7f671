from __future__ import annotations

import pytest

from olmo.text import format_table, markdown_table, nearest


def test_the_nearest_name_is_suggested():
    assert nearest("lenght", ["width", "length"]) == "did you mean 'length'?"
    assert nearest("zzz", ["width", "length"]) == "known: length, width"
    assert nearest("lenght", ["width", "length"], listed=True) == (
        "did you mean 'length'? Known: length, width"
    )
    assert nearest("a", []) == "known: "


def test_format_table():
    table = format_table(["name", "n", "x"], [["first", 10, "1.50"], ["b", None, "22.75"]])
    assert table.splitlines() == [
        "name    n      x",
        "-----  --  -----",
        "first  10   1.50",
        "b       -  22.75",
    ]


def test_format_table_aligns_thousands_and_shares_to_the_right():
    assert format_table(["n", "share"], [["1,234", "5.00%"]]).splitlines()[2] == "1,234  5.00%"
    assert format_table(["n"], [["1,234"], ["5"]]).splitlines()[3] == "    5"


def test_format_table_without_rows():
    assert format_table(["a", "bb"], []).splitlines() == ["a  bb", "-  --"]


def test_format_table_refuses_a_short_row():
    with pytest.raises(ValueError, match="1 cells for 2 headers"):
        format_table(["a", "b"], [["x"]])


def test_markdown_table():
    assert markdown_table(["a", "b"], [["x", 1], ["y", None]]).splitlines() == [
        "| a | b |",
        "| --- | ---: |",
        "| x | 1 |",
        "| y |  |",
    ]
