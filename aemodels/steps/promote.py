"""The gate: a challenger against the champion, on the same images."""

from __future__ import annotations

from filelock import FileLock

from aemodels.checkpoint import load_model
from aemodels.data import PreparedData
from aemodels.environment import store_folder
from aemodels.evaluation import evaluate
from aemodels.features import Features, feature_network
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
    features = yield from feature_network(data, best_device())
    with FileLock(store_folder() / f"gate-{version.name}.lock", thread_local=False):  # one after the other
        decision = _decide(settings, data, features, version, store)
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


def _decide(
    settings: Settings, data: PreparedData, features: Features, version: ModelVersion, store: Store
) -> Decision:
    """Decides and carries it out; asked again about the champion, it tells what was decided."""
    challenger, old = get(store, version.name, version.version), champion(store, version.name)
    if old is not None and old.version.version == version.version:
        by_gate = old.tags.get("gate.decision") == "promoted" and old.tags.get("gate.by") == "the gate"
        return Decision(by_gate, old.tags["gate.reason"] if by_gate else "it is the champion already", {})
    smaller = {name: metric.direction == "minimize" for name, metric in METRICS.items() if metric.direction}
    new = _metrics_on(settings, data, features, challenger, store) or {}
    if old is None:
        decision = decide(new, None, settings.evaluation.primary, smaller, settings.registry)
    elif (known := _metrics_on(settings, data, features, old, store)) is not None:
        decision = decide(new, known, settings.evaluation.primary, smaller, settings.registry)
    else:
        remedy = f"`aemodels promote {version.name} {version.version}` if that is meant, or another registry.name"
        decision = Decision(False, f"the champion takes images of another shape; {remedy}", {})
    conclude(store, version, decision)
    return decision


def _metrics_on(
    settings: Settings, data: PreparedData, features: Features, model: Registered, store: Store
) -> dict[str, float] | None:
    """The model's metrics by this yardstick: as registered, or measured again; None if it cannot see these images."""
    if model.digest == yardstick(settings, data, features):
        return model.metrics
    name, version, _ = model.version
    loaded = load_model(find(f"{name}/{version}", store), str(best_device()))
    if loaded.card.image_shape != data.image_shape:
        return None
    return evaluate(loaded.model, data, features, settings.evaluation).metrics
