"""Packages that only an extra of the installation brings, and what to say where one is missing."""

from collections.abc import Iterable
from importlib.util import find_spec

from harness.errors import UserError

EXTRAS = {  # package, as it is imported -> extra of pyproject.toml
    **dict.fromkeys(("alpaca_eval", "langdetect", "lm_eval", "math_verify", "nltk", "sklearn"), "benchmarks"),
    **dict.fromkeys(("openai", "tenacity"), "judges"),
    **dict.fromkeys(("junitparser", "vl_convert"), "report"),
    "deepspeed": "deepspeed",
    "gguf": "gguf",
    "ray": "ray",
    "trl": "trl",
}


def check_installed(what: str, packages: Iterable[str]) -> None:
    """
    Args:
        what: what needs the packages, for the message.
        packages: names as they are imported; those that no extra brings are ignored.

    Raises:
        UserError: when one is not installed.
    """
    missing = sorted(name for name in packages if name in EXTRAS and find_spec(name) is None)
    if missing:
        raise _not_installed(what, missing)


def explain(error: ModuleNotFoundError) -> UserError | None:
    """What to tell the user about a failed import; None when no extra brings the package."""
    name = (error.name or "").partition(".")[0]
    return _not_installed("this", [name]) if name in EXTRAS else None


def _not_installed(what: str, missing: list[str]) -> UserError:
    extras = ",".join(sorted({EXTRAS[name] for name in missing}))
    return UserError(
        f"{what} needs {', '.join(missing)}, which the core installation leaves out: "
        f"pip install 'harness[{extras}]', or 'harness[all]'"
    )
