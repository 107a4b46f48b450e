"""No training: the model as it is."""

from dataclasses import dataclass

from harness.methods.base import Stage


class Base:
    """The untrained model, which every other method is compared with."""

    name = "base"
    summary = "the model as it is, without training"
    search_space = {}

    @dataclass(frozen=True)
    class Options:
        pass

    def stages(self, options: Options) -> list[Stage]:
        return []

    def supervision(self, options: Options) -> str:
        return "none"
