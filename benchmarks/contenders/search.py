"""Measures searches: the seconds until the last trial is trained and judged, and the values of the objective.

The objective is the squared error of a pixel on all validation images, of the article's VAE of several latent sizes
and betas.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from itertools import product
from typing import Any

from aemodels.data import PreparedData
from aemodels.experiment import Experiment
from aemodels.runtime.progress import Driven
from benchmarks.contenders.configuration import Configuration, answer
from benchmarks.contenders.task import ALIKE, preset
from benchmarks.jobs import Job, Measured

PRECISIONS = {"aemodels": "float32", "aemodels-bfloat16": "bfloat16"}  # the default, and that of the preset `fast`


def measure(job: Job) -> Measured:
    """Measures one contender.

    Settings: `epochs` and `images`; `latent_dims`, `betas` and `peer_every` (a peer trains every n-th of them) for a
    search of fixed configurations, or `trials` and `granted` (epochs that every trial gets) for one that prunes.
    """
    ours, fixed = job.contender in PRECISIONS, "betas" in job.settings
    if ours:
        return _fixed(job) if fixed else _pruned(job)
    from benchmarks.contenders import peer_search

    return peer_search.fixed(job, configurations(job.settings)) if fixed else peer_search.pruned(job)


def configurations(settings: Mapping[str, Any]) -> list[Configuration]:
    """Returns all combinations of latent sizes and betas."""
    return [Configuration(*values) for values in product(settings["latent_dims"], settings["betas"])]


def _experiment(job: Job) -> Experiment:
    training = ALIKE | {
        "precision": PRECISIONS[job.contender],
        "epochs": job.settings["epochs"],
        "images": job.settings["images"],
    }
    sections = {"model": preset("article-vae")["model"], "training": training, "evaluation": {"primary": "mse"}}
    return Experiment().override(sections | {"seed": job.seed})


def _fixed(job: Job) -> Measured:
    from aemodels.tuning.messages import Goals, MemberEnd
    from aemodels.tuning.runner import Runner
    from aemodels.tuning.trial import Conditions

    data, base = PreparedData.model_validate(job.data), _experiment(job)
    experiments = [
        base.override({"model.latent_dim": latent_dim, "model.beta": beta})
        for latent_dim, beta in configurations(job.settings)
    ]
    values: dict[int, float] = {}
    started = time.perf_counter()  # processes that it starts, and what they import, are part of it
    with closing(Runner(Conditions(data, None, Goals(objectives=("mse",), watched=None)))) as runner:
        runner.start(experiments, len(experiments))
        for told in runner.run(experiments):
            if isinstance(told, MemberEnd):
                if told.error:
                    raise RuntimeError(f"trial {told.index}: {told.error}")
                values[told.index] = told.metrics["mse"]
    seconds = time.perf_counter() - started
    return answer(job, seconds, values)


def _pruned(job: Job) -> Measured:
    from aemodels.tuning.config import TuningConfig
    from aemodels.tuning.opening import open_study
    from aemodels.tuning.search import search
    from aemodels.tuning.task import Task

    data, experiment = PreparedData.model_validate(job.data), _experiment(job)
    share = job.settings["granted"] / job.settings["epochs"]
    limits = {name: job.settings[name] for name in ("trials", "epochs", "images")}
    config = TuningConfig(**limits, prune=True, prune_after=share)
    no_features: Any = None  # the objective needs none
    with tempfile.TemporaryDirectory() as folder:
        os.environ["AEMODELS_STORE"] = folder
        started = time.perf_counter()  # making the database is part of it
        events = search(open_study("benchmark", Task(experiment, config, data)), no_features)
        with Driven(events) as driven:
            for _ in driven:
                pass
        seconds = time.perf_counter() - started
    states = [trial.state for trial in driven.result.trials]
    return {
        "seconds": seconds,
        "best": driven.result.best.values[0],
        "pruned": states.count("pruned"),
        "trials": len(states),
    }
