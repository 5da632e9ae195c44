"""What a loaded model answers, packed and served. Models that were registered before 0.2 import these two from here."""

from aemodels.serving.answers import Question, answer

__all__ = ["Question", "answer"]
