"""Errors that the user can fix: one clear line, exit code 2, no traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """One line that says what is wrong, where (file and line), and what to do."""


class CannotTrain(UserError):
    """A method made no example to train on, or its training diverged. This says nothing about other arms."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Return the error for a name that is not among the known ones, suggesting the nearest of them.

    >>> print(unknown_name("method", "dop", ["dpo", "sso"]))
    unknown method 'dop': did you mean 'dpo'?
    """
    known = sorted(known)
    spelled = {each.lower(): each for each in known}
    near = difflib.get_close_matches(name.lower(), spelled, n=1, cutoff=0.5)
    hint = f"did you mean {spelled[near[0]]!r}?" if near else f"known: {', '.join(known)}"
    return UserError(f"unknown {kind} {name!r}: {hint}")
