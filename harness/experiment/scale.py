"""The scale of an experiment's model, and the defaults that come with it."""

import dataclasses
import sys

from harness.experiment.defaults import AUTO, scale_of
from harness.experiment.options import Experiment
from harness.models.folder import TESTBED


def with_scale(experiment: Experiment) -> Experiment:
    """The experiment with the scale of its model named, where the methods' own defaults are not for it. What these are
    is printed."""
    if experiment.scale != AUTO or experiment.model_url or experiment.model == TESTBED:
        return experiment
    experiment = dataclasses.replace(experiment, scale=scale_of(experiment.model))
    for arm in experiment.arms():
        given = experiment.options.get(arm, {})
        usual = {name: value for name, value in experiment.defaults(arm).items() if name not in given}
        if usual:
            values = ", ".join(f"{name} {value}" for name, value in usual.items())
            print(f"{arm}: defaults of a {experiment.scale} model: {values} (--set {arm}.NAME=VALUE)", file=sys.stderr)
    return experiment
