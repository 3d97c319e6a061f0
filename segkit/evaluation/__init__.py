"""Evaluation: from a model and a data set to scores, tables, reports and files for servers."""

from segkit.evaluation.scoring import Evaluation, StopEvaluation, evaluate, hash_weights

__all__ = ["Evaluation", "StopEvaluation", "evaluate", "hash_weights"]
