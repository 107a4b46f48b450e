"""Distributions of a search space, under the module name that plugins import."""

from harness.experiment.search import BETA, LEARNING_RATE, LogUniform, Uniform

__all__ = ["BETA", "LEARNING_RATE", "LogUniform", "Uniform"]
