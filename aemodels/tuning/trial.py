"""Runs one trial of a search: it is trained, watched, and measured."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from aemodels.config import SettingsError
from aemodels.data.prepared import PreparedData
from aemodels.evaluation.evaluate import evaluate, lacking
from aemodels.evaluation.evidence import Evidence
from aemodels.evaluation.features import Features
from aemodels.evaluation.key_metrics import shown_in
from aemodels.evaluation.metrics import METRICS
from aemodels.experiment import Experiment
from aemodels.models.base import GenerativeModel
from aemodels.runtime.memory import is_out_of_memory, out_of_memory
from aemodels.training.config import TrainingDivergedError
from aemodels.training.models import best_model, fit_prior
from aemodels.training.state import Epoch
from aemodels.training.train import train
from aemodels.tuning.messages import Goals, MemberEnd, MemberEpoch, TrialEvents


@dataclass(frozen=True)
class Conditions:
    """Holds what all trials of a search are measured by: the same images, the same features, the same metrics."""

    data: PreparedData
    features: Features | None
    goals: Goals
    start: Mapping[str, Tensor] | None = None  # the weights that all trials start from

    def watch(self, epoch: Epoch, experiment: Experiment) -> float | None:
        """Measures what is watched on the weights of the epoch; None if nothing is, or it cannot be measured."""
        if (watched := self.goals.watched) is None:
            return None
        if METRICS[watched].fitted:
            fit_prior(epoch.model, self.data, experiment.seed, experiment.training.images)
        return evaluate(self._evidence(epoch.model, experiment), only=(watched,)).metrics.get(watched)

    def measure(self, epoch: Epoch, experiment: Experiment) -> dict[str, float]:
        """Measures the best weights of a training, after its last epoch.

        Raises:
            SettingsError: a metric that the search goes by cannot be measured.
        """
        model = best_model(experiment.model, self.data, experiment.training, experiment.seed, epoch.state)
        evidence = self._evidence(model, experiment)
        compared = [metric for metric in shown_in("trials") if not lacking(metric, evidence)]
        needed = (*self.goals.objectives, experiment.evaluation.primary)
        wanted = dict.fromkeys((*needed, *compared))
        found = evaluate(evidence, only=wanted.keys())
        for name in needed:
            if name in found.left_out:
                raise SettingsError(f"{name} cannot be measured on the validation images: {found.left_out[name]}")
        return found.metrics

    def _evidence(self, model: GenerativeModel, experiment: Experiment) -> Evidence:
        """Returns what a trial's model is measured by on the validation images."""
        trained_on, rules = experiment.trained_on(self.data), experiment.evaluation
        return Evidence(model, self.data, self.features, rules, "val", trained_on)


def run_trial(index: int, experiment: Experiment, conditions: Conditions) -> TrialEvents:
    """Trains a model and measures its best weights on all validation images."""
    started, waited = time.perf_counter(), 0.0
    try:
        given = conditions.start
        for epoch in train(experiment.model, conditions.data, experiment.training, experiment.seed, start=given):
            value = conditions.watch(epoch, experiment)
            told = time.perf_counter()
            stop = yield MemberEpoch(index, epoch.index, epoch.metrics, value, told - started - waited)
            if stop:
                return
            waited += time.perf_counter() - told
        metrics = conditions.measure(epoch, experiment)
    except (TrainingDivergedError, SettingsError) as error:
        yield MemberEnd(index, {}, time.perf_counter() - started - waited, str(error))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        yield MemberEnd(index, {}, time.perf_counter() - started - waited, out_of_memory(error))
    else:
        yield MemberEnd(index, metrics, time.perf_counter() - started - waited)
