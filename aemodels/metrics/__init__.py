"""Metrics: in each file one function for each, and a table of them; METRICS is all of them."""

from aemodels.metrics.compression import COMPRESSION
from aemodels.metrics.denoising import DENOISING
from aemodels.metrics.factors import FACTORS
from aemodels.metrics.held_out import HELD_OUT
from aemodels.metrics.requests import REQUESTS
from aemodels.metrics.samples import SAMPLES
from aemodels.metrics.table import Direction, Metric

METRICS = {**HELD_OUT, **COMPRESSION, **FACTORS, **SAMPLES, **REQUESTS, **DENOISING}

__all__ = ["METRICS", "Direction", "Metric"]
