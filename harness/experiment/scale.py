"""The scale of an experiment's model, and the defaults that come with it."""

import dataclasses
import sys

from harness.experiment.defaults import AUTO, scale_of
from harness.experiment.options import Experiment
from harness.models.folder import TESTBED


def with_scale(experiment: Experiment) -> Experiment:
    """Return the experiment with the scale of its model filled in, and print the defaults that come with it.

    An experiment on a model behind an endpoint is returned as it is.
    """
    if experiment.model_url:
        return experiment
    if experiment.scale != AUTO or experiment.model == TESTBED:
        return dataclasses.replace(experiment, max_new_tokens=experiment.new_tokens)
    experiment = dataclasses.replace(experiment, scale=scale_of(experiment.model))
    if experiment.max_new_tokens is None:
        experiment = dataclasses.replace(experiment, max_new_tokens=experiment.new_tokens)
        print(
            f"completions: at most {experiment.new_tokens} tokens, the default of a {experiment.scale} model "
            "(--max-new-tokens N)",
            file=sys.stderr,
        )
    for arm in experiment.arms():
        given = experiment.options.get(arm, {})
        changed = {name: value for name, value in experiment.defaults(arm).items() if name not in given}
        if changed:
            values = ", ".join(f"{name} {value}" for name, value in changed.items())
            print(f"{arm}: defaults of a {experiment.scale} model: {values} (--set {arm}.NAME=VALUE)", file=sys.stderr)
    return experiment
