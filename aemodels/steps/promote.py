"""The gate: a challenger against the champion, on the same images."""

from __future__ import annotations

from aemodels.checkpoint import load_model
from aemodels.data import PreparedData
from aemodels.evaluation import evaluate
from aemodels.features import feature_network
from aemodels.metrics import METRICS
from aemodels.progress import Progress, Steps
from aemodels.promotion import Decision, decide
from aemodels.registry import ModelVersion, Registered, champion, conclude, find, get
from aemodels.settings import Settings
from aemodels.steps.recording import Result, yardstick
from aemodels.store import Store, open_store
from aemodels.training import best_device


class Promotion(Result):
    """What the gate decided."""

    name: str
    version: int
    promoted: bool
    reason: str
    numbers: dict[str, float]
    champion: int | None
    """The version in use afterwards."""
    url: str


def promote(settings: Settings, data: PreparedData, version: ModelVersion) -> Steps[Promotion]:
    """Makes the version the champion if it is better on the primary metric, finite and within the limits."""
    store = open_store()
    work = f"gate of {version.name}"
    yield Progress(work, 0, 1)
    challenger, old = get(store, version.name, version.version), champion(store, version.name)
    primary = settings.evaluation.primary
    smaller = {name: metric.direction == "minimize" for name, metric in METRICS.items() if metric.direction}
    if old is not None and old.version.version == version.version:
        decision = Decision(False, "it is the champion already", {})
    else:
        measured = None if old is None else (yield from _metrics_on(settings, data, old, store))
        decision = decide(challenger.metrics, measured, primary, smaller, settings.registry)
        conclude(store, version, decision)
    now = champion(store, version.name)
    yield Progress(work, 1, 1, decision.reason)
    return Promotion(
        name=version.name,
        version=version.version,
        promoted=decision.promote,
        reason=decision.reason,
        numbers=decision.numbers,
        champion=now.version.version if now else None,
        url=store.registry_url(version.name, version.version),
    )


def _metrics_on(settings: Settings, data: PreparedData, model: Registered, store: Store) -> Steps[dict[str, float]]:
    """The model's metrics on these images: as they were registered, or measured again if other images judged it."""
    features = yield from feature_network(data, best_device())
    if model.digest == yardstick(settings, data, features):
        return model.metrics
    name, version, _ = model.version
    loaded = load_model(find(f"{name}/{version}", store), str(best_device()))
    if loaded.card.image_shape != data.image_shape:
        return {}  # it cannot even see these images
    return evaluate(loaded.model, data, features, settings.evaluation).metrics
