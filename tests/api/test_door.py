"""Tests what `import aemodels` gives, and that the examples in docstrings run."""

from __future__ import annotations

import doctest
import re
from importlib import import_module

import pytest
from places import ROOT

import aemodels


def test_nothing_unknown_is_there() -> None:
    assert set(dir(aemodels)) >= set(aemodels.__all__)
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        aemodels.fitt  # noqa: B018


EXAMPLES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((ROOT / "aemodels").rglob("*.py"))
    if re.search(r">>> (?!.*\+SKIP)", path.read_text())
]


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_in_docstrings_run(name: str) -> None:
    ran = doctest.testmod(import_module(name))
    assert ran.attempted
    assert not ran.failed
