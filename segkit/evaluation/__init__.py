"""Evaluation: from a model and a data set to scores, tables, reports and files for servers."""

from segkit.evaluation.partial import weights_hash
from segkit.evaluation.scoring import Evaluation, StopEvaluation, evaluate

__all__ = ["Evaluation", "StopEvaluation", "evaluate", "weights_hash"]
