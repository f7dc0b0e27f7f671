"""Which questions ask for a count."""

from __future__ import annotations

import re

_MEASURES = "|".join(
    (
        r"years|months|weeks|days|hours|minutes|\w*seconds",
        r"\w*meters|metres|acres|leagues|fathoms|nautical miles|hectares",
        r"(?:square )?inches|square feet|(?:square )?ft|miles|(?:passing )?yards",
        r"dollars|cents|pounds|euros|mph|kph|more|fewer|less|likes",
        r"cubic|gallons|quarts|pints|fluid ounces|\w*liters|weight|\w*grams|tons|ounces",
        r"(?:different )?ways|degrees|calories|hertz|horsepower|\w*bytes|psi|atmospheres|\w*watts",
    )
)
"""What is measured or compared, and cannot be pointed at one by one."""
_COUNT = "|".join(
    (
        rf"how ?many (?!(?:{_MEASURES})\b)",
        r"(?<!do not )(?:count|tally) (?:all|every|each|the) ",
        r"(?:there are|a total of) _{3,4}",
        r"(?:what |(?:what(?:'s| is| was| were)|states?|indicates?) the (?:exact |precise )?)"
        r"(?:total count|count|total number|total amount|total|number|num|amount) of "
        rf"(?!(?:{_MEASURES}|money|the)\b)",
    )
)
_ASKS = re.compile(rf"\b(?:{_COUNT})\b", re.IGNORECASE)


def asks_for_count(text: str) -> bool:
    """Whether ``text`` asks how many things there are, and not for a measure, in English. Case is
    ignored; a text that begins with "approximately" does not."""
    return not text.lower().startswith("approximately") and _ASKS.search(text) is not None
