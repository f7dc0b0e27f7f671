"""Questions that ask for a count, and others."""

from __future__ import annotations

import pytest

from olmo.preprocessing.counting import asks_for_count


@pytest.mark.parametrize(
    "text",
    [
        "How many dogs?",
        "Count the chairs.",
        "count all cars",
        "What is the number of people?",
        "There are ____ cats",
        "howmany birds",
        "Tally every item",
        " How many in both?",
        "Look.\nhow many cups",
        "Count each cup",
        "Then TALLY the votes",
        "A total of ___ birds",
        "what count of cups",
        "What's the exact total number of cups?",
        "what were the total of birds",
        "State the precise amount of cups",
        "it states the num of cups",
        "Indicate the total count of cups",
        "what indicates the total amount of cups",
        "How many lessons are there?",
        "How many meter maids",
        "How many feet are in the picture?",
        "What is the number of themes?",
        "How many seconds? And how many cups",
    ],
)
def test_asks_for_a_count(text: str) -> None:
    assert asks_for_count(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "how many meters long is it",
        "How  many cats",
        "Do not count the dogs",
        "What's the total number of money",
        "Approximately how many?",
        "approximately how many dogs",
        "how many more cats than dogs",
        "what is the exact total of calories",
        "Is it red? How many?\nThanks",
        "how many ways",
        "how many different ways are there",
        "number of cats?",
        "state what the number of cups is",
        "Tell me how many miles it is.",
        "How many Kilograms is it?",
        "How many milliseconds",
        "how many fluid ounces",
        "how many square feet",
        "how many ft is it",
        "Somehow many dogs",
        "recount the story",
        "Count on me",
        "discount all items",
        "There are __ cats",
        "There are _____ cats",
        "What is the number of the house?",
        "What is the amount of watts",
        "what the number of cups",
        "what exact number of cups",
    ],
)
def test_does_not_ask_for_a_count(text: str) -> None:
    assert not asks_for_count(text)
