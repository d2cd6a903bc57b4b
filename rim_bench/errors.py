"""The one exception that reaches a user as a sentence instead of a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """Bad input or a condition the user can act on.

    The message is one sentence: what was given, what is allowed, the nearest match.
    The command line prints it and exits with code 2.
    """


def unknown(kind: str, given: str, allowed: Iterable[str]) -> UsageError:
    """The error for a name that is not among `allowed`, with the nearest match where there is one."""
    names = sorted(allowed)
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return UsageError(f"unknown {kind} {given!r}: allowed are {', '.join(names) or 'none'}{hint}")
