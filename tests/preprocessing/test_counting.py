"""Questions that ask for a count, and others."""

from __future__ import annotations

from olmo.preprocessing.counting import asks_for_count

ASKS = [
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
    "HOW MANY of them",
    "(how many cups)",
    "how many centimetres",
    "how many year old cups",
    "how many square tiles",
    "how many passing cars",
    "don't count the cups",
    "do not, count the cups",
    "do not\ncount the cups",
    "there are ____.",
    "what total of cups",
    "what total amount of cups",
    "what was the num of cups",
    "states the exact number of cups",
    "what is the number of cups in the house",
    "What is the number of yearlings",
    "  approximately how many cups",
    "Approximate it.\nhow many cups",
]


def test_asks_for_a_count() -> None:
    assert [text for text in ASKS if not asks_for_count(text)] == []


DOES_NOT_ASK = [
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
    "how many",
    "how many  cats",
    "how\nmany cats",
    "APPROXIMATELY so.\nhow many cups",
    "Do not tally all cups",
    "count  the cups",
    "counting the cups",
    "Count them all",
    "There are ___s",
    "a total ____",
    "what are the number of cups",
    "What's number of cups",
    "stated the number of cups",
    "what is the numbers of cups",
    "what is the number  of cups",
    "what is the exact precise number of cups",
    "what is the number of different ways",
]


def test_does_not_ask_for_a_count() -> None:
    assert [text for text in DOES_NOT_ASK if asks_for_count(text)] == []


MEASURES = """
    years months weeks days hours minutes seconds milliseconds meters kilometers metres acres
    leagues fathoms nautical+miles hectares inches square+inches square+feet ft square+ft miles
    yards passing+yards dollars cents pounds euros mph kph more fewer less likes cubic gallons
    quarts pints fluid+ounces liters milliliters weight grams milligrams tons ounces ways
    different+ways degrees calories hertz horsepower bytes gigabytes psi atmospheres watts kilowatts
"""


def test_measures() -> None:
    """What is measured is not counted, in any case, whatever follows the whole word."""
    for measure in (name.replace("+", " ") for name in MEASURES.split()):
        for before in ("how many", "HOWMANY", "What is the total amount of"):
            assert not asks_for_count(f"{before} {measure} of it?"), measure
            assert not asks_for_count(f"{before} {measure.upper()}"), measure
        assert asks_for_count(f"how many {measure}x"), measure
