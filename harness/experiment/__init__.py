"""The options of an experiment, from the command line, YAML and Python alike."""

from harness.experiment.options import Experiment

__all__ = ["Experiment"]
