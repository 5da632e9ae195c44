"""Tests searches from Python."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from fits import IMAGES, QUICK, UNSIZED

import aemodels
from aemodels.config import SettingsError
from aemodels.models.ae import AEConfig
from aemodels.tuning.events import Trial


def test_a_search_names_its_best_settings(elsewhere: Path) -> None:
    found = aemodels.search(IMAGES, "vae", trials=2, tuning__epochs=1, **UNSIZED)
    assert found.best.keys() == {"model.latent_dim", "model.beta"}
    assert found.settings.model.latent_dim == found.best["model.latent_dim"]
    assert [trial["state"] for trial in found.trials] == ["complete", "complete"]
    assert list(elsewhere.iterdir()) == []


def test_a_search_keeps_what_is_given_by_name() -> None:
    found = aemodels.search(IMAGES, "vae", trials=2, tuning__epochs=1, **QUICK)
    assert found.best.keys() == {"model.beta"}
    assert found.settings.model.latent_dim == 3
    sized = {"tuning__space": {"model.latent_dim": {"low": 2, "high": 3}}}
    assert "model.latent_dim" in aemodels.search(IMAGES, "vae", trials=2, tuning__epochs=1, **sized, **QUICK).best
    for model, given in (("ae", QUICK), (AEConfig(latent_dim=3), UNSIZED)):
        with pytest.raises(SettingsError, match=r"nothing varies, as model.latent_dim is given; name a setting"):
            aemodels.search(IMAGES, model, trials=2, **given)


def test_a_search_is_read_from_the_cache_or_begun_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    from aemodels.tuning.study import Study

    claimed: list[int] = []
    real = Study.claim

    def claim(study: Study, number: int) -> Trial | None:
        trial = real(study, number)
        claimed.extend([] if trial is None else [trial.index])
        return trial

    monkeypatch.setattr(Study, "claim", claim)
    search = partial(aemodels.search, IMAGES, "vae", trials=2, tuning__epochs=1, **QUICK)
    first = search()
    assert claimed == [0, 1]
    assert search() == first
    assert claimed == [0, 1]
    anew = search(resume=False)
    assert claimed == [0, 1, 0, 1]
    assert anew.best == first.best
    assert search() == anew


def test_a_search_finds_the_same_whether_it_is_tracked_or_not() -> None:
    search = partial(aemodels.search, IMAGES, "vae", trials=3, tuning__epochs=1, **UNSIZED)
    alone, tracked = search(), search(track=True, registry__name="mine")
    assert tracked.trials == alone.trials
    assert tracked.best == alone.best
    assert "mse" in tracked.trials[0]


@pytest.mark.usefixtures("elsewhere")
def test_what_a_search_found_is_fitted() -> None:
    found = aemodels.search(IMAGES, "ae", trials=2, **UNSIZED)
    model = aemodels.fit(IMAGES, "ae", **QUICK | found.best)
    assert model.latent_dim == found.best["model.latent_dim"]
