"""Mistakes of a user: one clear line, exit code 2, no traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """What is wrong, where (file and line of the data), and what to do about it, in one line."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not among the known ones, with the nearest of them suggested.

    >>> print(unknown_name("method", "dop", ["dpo", "sso"]))
    unknown method 'dop': did you mean 'dpo'?
    """
    known = sorted(known)
    spelled = {each.lower(): each for each in known}
    near = difflib.get_close_matches(name.lower(), spelled, n=1, cutoff=0.5)
    hint = f"did you mean {spelled[near[0]]!r}?" if near else f"known: {', '.join(known)}"
    return UserError(f"unknown {kind} {name!r}: {hint}")
