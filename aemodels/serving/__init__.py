"""What a loaded model answers, packed and served. Older registered models import these two from here."""

from aemodels.serving.answers import Question, answer

__all__ = ["Question", "answer"]
