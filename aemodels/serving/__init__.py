"""Holds what a loaded model answers, packed and served. Older registered models import these two names from here."""

from aemodels.serving.answers import Question, answer

__all__ = ["Question", "answer"]
