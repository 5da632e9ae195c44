"""Tests that preparing costs no more than it has to."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
from aemodels.runtime.progress import finish
from aemodels.settings import Settings
from aemodels.steps.prepare import prepare
finish(prepare(Settings.parse({"model.name": "ae"})))
assert "torch._dynamo" not in sys.modules
"""


def test_torchs_compiler_is_not_imported_to_see_whether_a_model_fits() -> None:
    subprocess.run([sys.executable, "-c", CODE], check=True)
