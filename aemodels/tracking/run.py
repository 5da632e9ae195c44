"""Records a run under fixed names; a run is addressed by its id, and MLflow's global state is not used.

train/, val/, test/ and system/ before a metric's name make sections in MLflow's UI. Params are dotted settings, with
values as the command line takes them.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from aemodels.config import UnreachableError, as_written
from aemodels.data.prepared import PreparedData
from aemodels.runtime.files import in_words
from aemodels.runtime.process_names import is_gone, is_here, own_name
from aemodels.runtime.secrets import without_secrets
from aemodels.texts import storable
from aemodels.tracking.origin import origin
from aemodels.tracking.outages import is_outage
from aemodels.tracking.references import MLFLOW
from aemodels.tracking.store import Store

LONGEST_PARAM = 500  # characters; a longer one is unreadable in a table, and config.json has it whole
LONGEST_TAG = 4000
OVERVIEW = "overview.png"
PIPELINE = "pipeline"  # the tag that the runs of one flow run share
PROCESS = "process"  # the tag that names the process which works on a run
SYSTEM_SAMPLES = 5  # samples of a second each, which are averaged into one point
Status = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class Run:
    """A run is one in MLflow; as a context manager it ends FINISHED, FAILED (an error) or KILLED (an interruption).

    Example:
        >>> with start_run(store, "digits", "vae 20", {"kind": "training"}) as run:  # doctest: +SKIP
        ...     run.params(experiment.flat())
        ...     run.metrics({"train/loss": 104.1}, step=1)
    """

    store: Store
    id: str
    experiment_id: str

    @property
    def url(self) -> str:
        return self.store.run_url(self.experiment_id, self.id)

    def params(self, params: Mapping[str, Any]) -> None:
        """Logs the params that are not there yet: they are written once, and a resumed run has them."""
        from mlflow.entities import Param

        known = self.store.client.get_run(self.id).data.params
        new = [Param(key, _param_text(value)) for key, value in params.items() if key not in known]
        self.store.client.log_batch(self.id, params=new)

    def metrics(self, metrics: Mapping[str, float], step: int = 0, at: int | None = None) -> None:
        """Tracks metrics in one call, however many there are.

        Args:
            at: milliseconds since 1970; now, if it is not given. What is tracked again with the same time is one
                point, not two.
        """
        from mlflow.entities import Metric

        when = now() if at is None else at
        self.store.client.log_batch(self.id, metrics=[Metric(k, float(v), when, step) for k, v in metrics.items()])

    def tags(self, tags: Mapping[str, Any]) -> None:
        """Sets or replaces tags; where there are none, MLflow is not called."""
        if not tags:
            return
        from mlflow.entities import RunTag

        self.store.client.log_batch(self.id, tags=[RunTag(k, tag_text(v)) for k, v in tags.items()])

    def rename(self, name: str) -> None:
        """Calls the run by another name, by which people tell it apart from others."""
        self.store.client.update_run(self.id, name=name)

    def image(self, key: str, image: NDArray[np.uint8], step: int = 0) -> None:
        """Shows a picture (H, W, 3) or (H, W) on the run's page, as a card with a slider over the steps."""
        self.store.client.log_image(self.id, image, key=key, step=step, synchronous=True)

    def figure(self, name: str, image: NDArray[np.uint8]) -> None:
        """Logs a picture (H, W, 3) or (H, W) among the artifacts, as figures/NAME.png."""
        self.store.client.log_image(self.id, image, artifact_file=f"figures/{name}.png")

    def describe(self, headline: str, picture: NDArray[np.uint8], text: str) -> None:
        """Puts a line, a picture (H, W, 3) and a text in Markdown on top of the run's page.

        100 pixels are seen before "Show more".
        """
        from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

        self.store.client.log_image(self.id, picture, artifact_file=OVERVIEW)
        self.tags({MLFLOW_RUN_NOTE: "\n\n".join(filter(None, (headline, self.overview, text)))})

    @property
    def overview(self) -> str:
        """Returns the picture of `describe` in Markdown; its address is relative, as a server may have a prefix."""
        return f"![figures](get-artifact?path={OVERVIEW}&run_uuid={self.id})"

    def add_to_description(self, text: str) -> None:
        """Puts a line of text below what the run's page says already, once."""
        from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

        before = self.store.client.get_run(self.id).data.tags.get(MLFLOW_RUN_NOTE, "")
        if text not in before:
            self.tags({MLFLOW_RUN_NOTE: f"{before}\n\n{text}".strip()})

    def text(self, file: str, text: str) -> None:
        """Logs a text as an artifact of that name, for example table.md."""
        self.store.client.log_text(self.id, text, file)

    def read(self, file: str) -> str | None:
        """Returns the text of an artifact; None where the run or the artifact is not there any more.

        Raises:
            UnreachableError: the server does not give it.
        """
        from mlflow.exceptions import MlflowException

        try:
            with tempfile.TemporaryDirectory() as scratch:
                return Path(self.store.client.download_artifacts(self.id, file, scratch)).read_text(encoding="utf-8")
        except (MlflowException, OSError) as error:
            if is_outage(error):
                raise UnreachableError(f"MLflow does not give {file} of run {self.id}: {error}") from error
            return None

    def dataset(self, data: PreparedData, title: str = "") -> None:
        """Logs the data set as an input of the run, under a title (its name, if there is none) and with its digest."""
        from mlflow.entities import Dataset, DatasetInput, InputTag
        from mlflow.exceptions import MlflowException
        from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

        described = Dataset(
            name=title or data.name,
            digest=data.digest,
            source_type="local",
            source=json.dumps({"uri": str(data.path)}),
            profile=json.dumps({**data.sizes, "image_shape": data.image_shape, "classes": len(data.classes)}),
        )
        context = InputTag(MLFLOW_DATASET_CONTEXT, "training")
        inputs = [DatasetInput(described, [context])]
        try:
            self.store.client.log_inputs(self.id, inputs)
        except MlflowException:  # another process wrote the same data set at the same moment: now it is found
            self.store.client.log_inputs(self.id, inputs)

    @contextmanager
    def system_metrics(self) -> Iterator[None]:
        """Logs the load of processors, memory, disk and network while the block runs, under system/, from a thread."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor: Any = SystemMetricsMonitor(  # type: ignore[no-untyped-call]
            self.id,
            sampling_interval=1,
            samples_before_logging=SYSTEM_SAMPLES,
            resume_logging=True,
            tracking_uri=self.store.uri,
        )
        monitor.start()
        try:
            yield
        finally:
            monitor.finish()

    def end(self, status: Status) -> None:
        """Ends the run; a killed or failed one can be resumed."""
        self.store.client.set_terminated(self.id, status)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.end("FINISHED")
            return
        from mlflow.exceptions import MlflowException

        try:  # the error that ended the run is the one to see, also when MLflow cannot be told of it
            if isinstance(error, Exception):
                self.tags({"error": without_secrets(f"{type(error).__name__}: {error}")})
            self.end("FAILED" if isinstance(error, Exception) else "KILLED")
        except MlflowException as problem:
            told = in_words(problem) or problem
            logging.getLogger(__name__).warning("the end of run %s was not recorded: %s", self.id, told)


def now() -> int:
    """Returns the time as MLflow has it: milliseconds since 1970."""
    return int(time.time() * 1000)


def start_run(
    store: Store, experiment: str, name: str, tags: Mapping[str, Any] | None = None, parent: str | None = None
) -> Run:
    """Starts a new run.

    Args:
        experiment: the experiment of the data set's name, in which all its runs are; tags tell them apart.
        parent: the id of the run that it is a part of: the search of a trial, or a comparison.

    Raises:
        UserError: the experiment was deleted in MLflow.
    """
    from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

    experiment_id = store.experiment(experiment)
    given = origin() | {PROCESS: own_name()} | dict(tags or {})
    texts = {key: tag_text(value) for key, value in given.items()}
    if parent is not None:
        texts[MLFLOW_PARENT_RUN_ID] = parent
    else:
        end_dead_runs(store, texts.get(PIPELINE, ""))
    run = store.client.create_run(experiment_id, tags=texts, run_name=name)
    return Run(store, run.info.run_id, experiment_id)


def resume_run(store: Store, run_id: str) -> Run | None:
    """Returns the run, running again; None where it is not in this store any more."""
    found = _found(store, run_id)
    if found is None:
        return None
    store.client.set_tag(run_id, PROCESS, own_name())  # first, so that the run is no dead process's
    store.client.update_run(run_id, status="RUNNING")
    if "error" in found.data.tags:
        store.client.delete_tag(run_id, "error")
    return Run(store, run_id, found.info.experiment_id)


def begun_run(store: Store, experiment: str, tags: Mapping[str, str]) -> Run | None:
    """Finds the run of these tags that a killed attempt made and had no time to note, and resumes it; else None.

    Nothing is tracked in such a run yet, which tells it from one that was left on purpose.
    """
    if any("'" in value and '"' in value for value in tags.values()):  # MLflow has no sign to escape them with
        return None
    quoted = {key: f'"{value}"' if "'" in value else f"'{value}'" for key, value in tags.items()}
    wanted = " and ".join(f"tags.`{key}` = {value}" for key, value in quoted.items())
    for run in store.client.search_runs([store.experiment(experiment)], wanted, max_results=10):
        if not run.data.metrics and run.info.status != "FINISHED":
            return resume_run(store, run.info.run_id)
    return None


def has_run(store: Store, run_id: str) -> bool:
    """Tells whether the run is in this store, and was not deleted."""
    return _found(store, run_id) is not None


def _found(store: Store, run_id: str) -> Any | None:
    from mlflow.exceptions import MlflowException

    try:
        found = store.client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return None if found.info.lifecycle_stage == "deleted" else found


def end_dead_runs(store: Store, pipeline: str = "") -> None:
    """Ends the runs whose processes were killed, as nobody else does; they can still be resumed.

    Those are the runs of processes of this machine that are gone. Runs that an attempt of the same flow run has left
    elsewhere, such as in a container that is gone, end too. What their registrations had begun is deleted.

    Args:
        pipeline: the tag that the runs of this attempt carry; "" means that they carry none.
    """
    places = [experiment.experiment_id for experiment in store.client.search_experiments()]
    for run in store.client.search_runs(places, "attributes.status = 'RUNNING'", max_results=1000):
        process = run.data.tags.get(PROCESS, "")
        left_elsewhere = bool(pipeline) and run.data.tags.get(PIPELINE) == pipeline and not is_here(process)
        if left_elsewhere or is_gone(process):
            forget_models(store, run.info.experiment_id, run.info.run_id)
            store.client.set_terminated(run.info.run_id, "KILLED")


def forget_models(store: Store, experiment_id: str, run_id: str) -> None:
    """Deletes the logged models of a run that have no version, which killed registrations have left."""
    versions = store.client.search_model_versions(f"run_id = '{run_id}'")
    registered = {(version.source or "").removeprefix(MLFLOW) for version in versions}
    of_run = f"source_run_id = '{run_id}'"
    for model in store.client.search_logged_models([experiment_id], of_run, max_results=50):
        if model.model_id not in registered:
            store.client.delete_logged_model(model.model_id)


def tag_text(value: object) -> str:
    """Returns a tag's value as MLflow takes it; long ones are cut."""
    return storable(str(value))[:LONGEST_TAG]


def _param_text(value: Any) -> str:
    """Writes a value as the command line takes it, so that it can be copied; long values are cut."""
    text = storable(as_written(value))
    return text if len(text) <= LONGEST_PARAM else f"{text[: LONGEST_PARAM - 30]}... ({len(text)} characters)"
