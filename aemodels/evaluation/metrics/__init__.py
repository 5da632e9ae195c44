"""Defines the metrics: each file has one function for each metric, and a table; METRICS joins the tables."""

from aemodels.evaluation.metrics.class_requests import REQUESTS
from aemodels.evaluation.metrics.compression import COMPRESSION
from aemodels.evaluation.metrics.denoising import DENOISING
from aemodels.evaluation.metrics.factors import FACTORS
from aemodels.evaluation.metrics.held_out import HELD_OUT
from aemodels.evaluation.metrics.references import REFERENCES
from aemodels.evaluation.metrics.samples import SAMPLES
from aemodels.evaluation.metrics.table import Direction, Metric

METRICS = {**HELD_OUT, **REFERENCES, **COMPRESSION, **FACTORS, **SAMPLES, **REQUESTS, **DENOISING}

__all__ = ["METRICS", "Direction", "Metric"]
