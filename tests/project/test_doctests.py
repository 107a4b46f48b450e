"""The examples in docstrings say what is so."""

import doctest
from importlib import import_module

import pytest
from paths import ROOT


def with_examples() -> list[str]:
    """Modules of harness, sso and baselines that hold examples."""
    files = [path for name in ("harness", "sso", "baselines") for path in sorted((ROOT / name).rglob("*.py"))]
    examples = (path for path in files if "    >>> " in path.read_text(encoding="utf-8"))
    return [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in examples]


@pytest.mark.parametrize("module", with_examples())
def test_examples(module):
    result = doctest.testmod(import_module(module), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted and not result.failed
