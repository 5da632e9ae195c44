"""The flows, under one Prefect server for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.flow

TINY = {
    "training.epochs": 1,
    "training.images": 200,
    "model.trunk.widths": [16],
    "tuning.trials": 2,
    "tuning.generation": 2,
    "tuning.epochs": 1,
    "tuning.images": 100,
}


@pytest.fixture(scope="module", autouse=True)
def prefect() -> Iterator[None]:
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AEMODELS_STORE", str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("own_store")
def test_the_pipeline_leaves_a_champion_and_its_runs_share_a_tag() -> None:
    from aemodels import catalog
    from aemodels.settings import Settings
    from aemodels.store import open_store
    from flows.pipeline import pipeline

    settings = Settings().override({**TINY, "registry.name": "piped"})
    result = pipeline(settings)
    store = open_store()
    champion = catalog.champion(store, "piped")
    assert result.promotion.promoted
    assert champion is not None
    assert champion.version == result.trained.version
    assert (result.trained.folder / "weights.safetensors").exists()
    assert all(figure.exists() for figure in (*result.trained.figures, *result.tuned.figures))
    runs = store.client.search_runs([store.experiment("piped")])
    kinds = sorted(run.data.tags["kind"] for run in runs)
    assert kinds == ["search", "training", "trial", "trial"]
    assert len({run.data.tags["pipeline"] for run in runs}) == 1
    again = pipeline(settings)  # another flow run does its work anew
    assert again.trained.run_id != result.trained.run_id
    assert again.trained.version.version == 2
    assert again.tuned.run_id != result.tuned.run_id
    assert not again.promotion.promoted  # the same model is not better than itself
    assert again.promotion.champion == 1
    assert again.data == result.data


@pytest.mark.usefixtures("own_store")
def test_what_a_person_must_mend_is_not_retried() -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterName
    from prefect.states import State

    from aemodels.config import UserError
    from aemodels.settings import Settings
    from flows.prepare import prepare

    missing = Settings().override({"data.name": "folder", "data.path": "/nowhere", "registry.name": "x"})
    state: State = prepare(missing, return_state=True)
    assert state.is_failed()
    with pytest.raises(UserError, match="/nowhere"):
        state.result()
    with get_client(sync_client=True) as client:
        runs = client.read_task_runs(task_run_filter=TaskRunFilter(name=TaskRunFilterName(like_="prepare")))
    failed = [run for run in runs if run.state is not None and run.state.is_failed()]
    assert [run.run_count for run in failed] == [1]


def test_a_retry_of_the_same_flow_run_skips_what_is_done(own_store: Path) -> None:
    from prefect import flow

    from aemodels.settings import Settings
    from flows.prepare import prepare_data
    from flows.train import train_model

    settings = Settings().override({**TINY, "registry.name": "again"})
    attempts: list[str] = []

    @flow(retries=1, retry_delay_seconds=0)
    def twice() -> str:
        trained = train_model(settings, prepare_data(settings), "")
        attempts.append(trained.run_id)
        if len(attempts) == 1:
            raise ConnectionError("after the training")
        return trained.run_id

    assert twice() == attempts[0]
    assert attempts[0] == attempts[1]
    assert len(list((own_store / "runs").iterdir())) == 1
