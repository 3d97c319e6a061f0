"""Evaluation: from a model and a data set to scores, tables, reports and files for servers."""

from segkit.evaluation.partial import weights_hash
from segkit.evaluation.scoring import EnoughError, Evaluation, evaluate

__all__ = ["EnoughError", "Evaluation", "evaluate", "weights_hash"]
