"""Tests that each file of a run's folder is named in one place, and that the pages beside the code list all of them."""

from __future__ import annotations

import ast

import pytest
from places import ROOT

from aemodels.checkpoints import checkpoint, model_files
from aemodels.checkpoints.model_files import CHECKSUMS, FILES, seal
from aemodels.checkpoints.run_folder import NOTES, STATE


def test_each_file_is_named_in_one_place() -> None:
    names = [NOTES, STATE, *FILES.values()]
    sources = [path for folder in ("aemodels", "flows") for path in (ROOT / folder).rglob("*.py")]
    texts = [node.value for path in sources for node in ast.walk(ast.parse(path.read_text())) if is_text(node)]
    assert {name: texts.count(name) for name in names} == dict.fromkeys(names, 1)


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


@pytest.mark.parametrize("module", [checkpoint, model_files])
def test_the_list_of_files_has_those_of_a_finished_model(module, tmp_path) -> None:
    listed = [line.split()[0] for line in module.__doc__.splitlines() if line.partition(" ")[0].count(".") == 1]
    assert set(FILES.values()) <= set(listed)
    for name in FILES.values():
        (tmp_path / name).touch()
    seal(tmp_path)
    sealed = [line.split()[1] for line in (tmp_path / CHECKSUMS).read_text().splitlines()]
    assert sorted(listed[: listed.index(CHECKSUMS)]) == sorted(sealed)  # the checksums are those of all before them
