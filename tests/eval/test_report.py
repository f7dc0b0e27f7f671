"""Text tables."""

import pytest

from olmo.eval.report import format_summary, format_table


def test_format_table():
    table = format_table(["name", "n", "x"], [["first", 10, "1.50"], ["b", None, "22.75"]])
    assert table.splitlines() == [
        "name    n      x",
        "-----  --  -----",
        "first  10   1.50",
        "b       -  22.75",
    ]


def test_format_table_without_rows():
    assert format_table(["a", "bb"], []).splitlines() == ["a  bb", "-  --"]


def test_row_of_the_wrong_length():
    with pytest.raises(ValueError, match="1 cells for 2 headers"):
        format_table(["a", "b"], [["x"]])


def test_summary():
    done = {
        "task": "synthetic_video_qa",
        "accuracy": 0.75,
        "interval": [0.5, 1.0],
        "n": 8,
        "unparsed": 1,
        "skipped": 0,
        "tokens_before": 120.0,
        "tokens_after": 70.25,
        "timing": {"seconds_per_example": {"total": 0.0421}},
    }
    empty = dict.fromkeys(done) | {"task": "empty", "n": 0, "unparsed": 0, "skipped": 3}
    header, _, first, second = format_summary([done, empty]).splitlines()
    assert "accuracy %" in header and "95% interval" in header
    for cell in ("75.0", "50.0 - 100.0", "120.0", "70.2", "0.042"):
        assert cell in first
    assert second.split() == ["empty", "-", "-", "0", "0", "3", "-", "-", "-"]
