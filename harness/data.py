"""Benchmark files, fetched from where they are published, each pinned by its sha256."""

import hashlib
import os
import tempfile
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from harness.errors import UserError, unknown_name
from harness.progress import progress

TABLE = Path(__file__).with_name("data_files.yaml")
REWARD_BENCH = "reward-bench"  # published as a data set of the hub, not as a file
BLOCK = 1 << 16
TIMEOUT = 60.0  # seconds without an answer


@dataclass(frozen=True)
class DataFile:
    """One pinned file; path is relative to the data folder."""

    path: str
    url: str
    sha256: str
    licence: str


def table() -> dict[str, list[DataFile]]:
    """Benchmark -> its files."""
    import yaml

    entries = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return {name: [DataFile(**row) for row in rows] for name, rows in entries.items()}


def fetch(name: str, data_dir: Path) -> list[Path]:
    """Fetch what is missing of a benchmark's files; those that are there with the right content stay.

    Raises:
        UserError: for an unknown benchmark, a file that can not be had, or one with another content.
    """
    files = table()
    if name == REWARD_BENCH:
        return [_fetch_reward_bench(data_dir / "rewardbench")]
    if name not in files:
        raise unknown_name("benchmark", name, [*files, REWARD_BENCH])
    return [fetch_file(file, data_dir) for file in files[name]]


def fetch_file(file: DataFile, data_dir: Path) -> Path:
    """Fetch one file: written whole or not at all, and only with the pinned sha256."""
    target = data_dir / file.path
    if target.exists() and hashlib.sha256(target.read_bytes()).hexdigest() == file.sha256:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as out, urllib.request.urlopen(file.url, timeout=TIMEOUT) as answer:
            blocks = iter(lambda: answer.read(BLOCK), b"")
            found = _copy(blocks, out, file.path, int(answer.headers.get("content-length", 0)))
        if found != file.sha256:
            raise UserError(f"{file.url}: has sha256 {found}, not the pinned {file.sha256}; nothing was written")
        os.replace(temporary, target)
    except (OSError, HTTPException) as error:
        raise UserError(f"{file.url}: can not be fetched ({error}); nothing was written, try again") from None
    finally:
        Path(temporary).unlink(missing_ok=True)
    return target


def _copy(blocks: Iterable[bytes], out, label: str, size: int) -> str:
    digest = hashlib.sha256()
    with progress(f"fetch {label} (bytes)", size or None) as advance:
        for block in blocks:
            out.write(block)
            digest.update(block)
            advance(len(block))
        out.flush()
        os.fsync(out.fileno())
    return digest.hexdigest()


def _fetch_reward_bench(folder: Path) -> Path:
    """RewardBench's filtered set as rows, from the hub's data set."""
    from datasets import load_dataset

    from harness import store

    try:
        rows = load_dataset("allenai/reward-bench", split="filtered")
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"allenai/reward-bench can not be fetched from the hub ({reason}); try again") from None
    fields = ("id", "subset", "prompt", "chosen", "rejected")
    target = folder / "rewardbench.jsonl"
    store.write_jsonl(target, ({name: row[name] for name in fields} for row in rows))
    return target
