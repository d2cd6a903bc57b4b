"""What the questions of the litmus families look like: one character a token, and lines of equal length.

`fill` makes them so: what a level does not need is filled with marks that mean nothing, each drawn from four. They keep
the number of tokens constant over the levels, and make the small levels large enough to be split three ways. Standard
library only.
"""

from __future__ import annotations

import random
from typing import Final

FILLERS: Final = ".,;:"
TOKEN_PATTERN: Final = r"#### |\n|[\s\S]"
"""What a tokenizer must keep whole, as alternatives for `re.findall`: the answer mark, else one character."""


def fill(count: int, rng: random.Random) -> str:
    """`count` marks that mean nothing."""
    return "".join(rng.choices(FILLERS, k=count))
