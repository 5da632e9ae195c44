"""Links a run and its version with the version whose weights the training started from."""

from __future__ import annotations

from aemodels.tracking.catalog import ModelVersion, get
from aemodels.tracking.references import MLFLOW
from aemodels.tracking.run import Run
from aemodels.tracking.store import within_pages


def link_start(run: Run, made: ModelVersion, start: str) -> None:
    """Names NAME/VERSION on the pages of the run and of the version that it made, and makes it an input of the run."""
    from mlflow.entities import LoggedModelInput

    name, _, number = start.partition("/")
    url = run.store.registry_url(name, int(number))
    text = f"Started from the weights of [{start}]({within_pages(url)})."
    run.add_to_description(text)
    client, parent = run.store.client, get(run.store, name, int(number))
    before = client.get_model_version(made.name, str(made.version)).description or ""
    client.log_inputs(run.id, models=[LoggedModelInput(parent.source.removeprefix(MLFLOW))])
    if text not in before:
        client.update_model_version(made.name, str(made.version), f"{before}\n\n{text}".strip())
