"""No training: the model as it is."""

from dataclasses import dataclass

from harness.experiment.search import Space
from harness.methods.base import Stage


class Base:
    """The untrained model, which all other methods are compared with."""

    name = "base"
    summary = "the model as it is, without training"
    search_space: Space = {}

    @dataclass(frozen=True)
    class Options:
        pass

    def stages(self, options: Options) -> list[Stage]:
        return []

    def supervision(self, options: Options) -> str:
        return "none"
