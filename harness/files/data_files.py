"""What a benchmark says of its files: where they are published. `harness.files.downloads` fetches them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DataFile:
    """One pinned file; path is relative to the data folder."""

    path: str
    url: str
    sha256: str
    licence: str


@dataclass(frozen=True)
class HubRows:
    """Rows of a data set of the hub, which is not pinned, kept as JSONL with the named fields."""

    path: str
    dataset: str
    split: str
    fields: tuple[str, ...]
