"""Packs trained models and answers questions to them. Models that were registered before 0.2 import these two names."""

from aemodels.serving.answers import Question, answer

__all__ = ["Question", "answer"]
