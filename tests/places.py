"""Names the folders of the checkout and of the collections beside it."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
COLLECTIONS = ROOT.parent / "shared" / "data"  # real images; tests that want them are skipped where they are not
