"""Benchmark files, fetched from where they are published; a benchmark's class says where (`data_files`).

pooch would not do: it cannot resume a cut download, and has no limit on the size of a file.
"""

import gzip
import hashlib
import http.client
import os
import sys
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import UserError, unknown_name
from harness.files.data_files import DataFile, HubRows
from harness.progress import progress

BLOCK = 1 << 16
TIMEOUT = 60.0  # seconds without a reply
ATTEMPTS = 4
TEMPORARY_STATUS = (408, 429)  # besides 5xx: the server is busy
LARGEST = 4 << 30  # bytes of a file
WAIT = 1.0  # seconds before the second attempt; doubled for each further one


Files = Mapping[str, Sequence[DataFile | HubRows]]  # by benchmark


def table(path: Path) -> dict[str, list[DataFile]]:
    """Read a table of pinned files, such as that of a mirror: benchmark -> its files.

    Raises:
        UserError: when the table is absent or malformed, or a path or URL leads elsewhere.
    """
    from harness.files.typed import build, load

    files = {}
    for name, rows in load(path).items():
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise UserError(f"{path}: {name} must be a list of files")
        files[name] = [build(DataFile, row, f"{path}: field of {name}") for row in rows]
        for file in files[name]:
            if Path(file.path).is_absolute() or ".." in Path(file.path).parts:
                raise UserError(f"{path}: {file.path!r} leads out of the data folder")
            if not file.url.startswith(("https://", "http://")):
                raise UserError(f"{path}: {file.url!r} is not the address of a web server")
    return files


def fetch(name: str, data_dir: Path, files: Files) -> list[Path]:
    """Fetch the files of a benchmark that are missing or have changed; return the paths of all of them.

    Raises:
        UserError: for an unknown benchmark, a file that cannot be fetched, or one with another digest.
    """
    if name not in files:
        raise unknown_name("benchmark", name, files)
    return [
        fetch_file(file, data_dir) if isinstance(file, DataFile) else _fetch_rows(file, data_dir)
        for file in files[name]
    ]


def fetch_file(file: DataFile, data_dir: Path) -> Path:
    """Fetch one file: it appears whole and with the pinned sha256, or not at all.

    What a cut connection left is kept in a .part file, where the next attempt, or the next call, continues.
    """
    target = data_dir / file.path
    there, found = _content(file, data_dir)
    if found == file.sha256:
        return there
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    print(f"{file.path}: licence {file.licence}", file=sys.stderr)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _download(file, part)
            break
        except urllib.error.HTTPError as error:
            if (error.code not in TEMPORARY_STATUS and error.code < 500) or attempt == ATTEMPTS:
                raise UserError(f"{file.url}: cannot be fetched ({error}); nothing was written") from None
        except (OSError, http.client.HTTPException) as error:
            if attempt == ATTEMPTS:
                kept = f"; {part.stat().st_size} bytes are kept: the same command continues" if part.exists() else ""
                raise UserError(f"{file.url}: cannot be fetched ({error}){kept}") from None
        time.sleep(WAIT * 2 ** (attempt - 1))
    if (found := _sha256(part)) != file.sha256:
        part.unlink()
        raise UserError(f"{file.url}: has sha256 {found}, not the pinned {file.sha256}; nothing was written")
    os.replace(part, target)
    return target


def _download(file: DataFile, part: Path) -> None:
    """Complete the part file, from its end if the server can do that."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(file.url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # nothing left to send: the digest decides
            return
        raise
    with answer:
        resumed = answer.status == http.HTTPStatus.PARTIAL_CONTENT
        size = int(answer.headers.get("Content-Length", 0))
        done, label = 0, f"fetch {file.path} (bytes)"
        with open(part, "ab" if resumed else "wb") as out, progress(label, size or None) as advance:
            while block := answer.read(BLOCK):
                out.write(block)
                if out.tell() > LARGEST:
                    part.unlink()
                    raise UserError(f"{file.url}: sends more than {LARGEST >> 30} GiB, more than any pinned file has")
                done += len(block)
                advance(len(block))
            out.flush()
            os.fsync(out.fileno())
        if size and done < size:
            raise http.client.IncompleteRead(b"", size - done)


def status(file: DataFile, data_dir: Path) -> tuple[str, str | None]:
    """Return "ok", "missing" or "changed", and the sha256 found; a gzipped copy of the right bytes is "ok" too."""
    path, found = _content(file, data_dir)
    if found == file.sha256:
        return "ok", found
    return "changed" if path.exists() else "missing", found


def _content(file: DataFile, data_dir: Path) -> tuple[Path, str | None]:
    """Return where a file is, plain or gzipped, and the sha256 of its plain bytes (None if they cannot be read)."""
    path = data_dir / file.path
    packed = path.with_name(f"{path.name}.gz")
    if path.exists() or not packed.exists():
        return path, _sha256(path) if path.exists() else None
    try:
        return packed, _sha256(packed, gzip.open)
    except (OSError, EOFError, zlib.error):
        return packed, None


def verify(name: str | None, data_dir: Path, files: Files) -> list[dict[str, str | None]]:
    """Return benchmark, path, status, licence and found sha256 of each pinned file, of one benchmark or of all.

    Raises:
        UserError: for an unknown benchmark, or one whose files are not pinned.
    """
    if name is not None and name not in files:
        raise unknown_name("benchmark", name, files)
    pinned = {each: [file for file in entries if isinstance(file, DataFile)] for each, entries in files.items()}
    if name is not None and not pinned[name]:
        raise UserError(
            f"{name} comes from the hub's data set, which is not pinned: there is nothing to compare it with"
        )
    rows: list[dict[str, str | None]] = []
    for benchmark, entries in pinned.items():
        for file in entries if name in (None, benchmark) else ():
            verdict, found = status(file, data_dir)
            row = {"benchmark": benchmark, "path": file.path, "status": verdict, "licence": file.licence}
            rows.append({**row, "sha256": found})
    return rows


def _sha256(path: Path, opener: Callable[..., Any] = open) -> str:
    with opener(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch_rows(file: HubRows, data_dir: Path) -> Path:
    """Write rows of a data set of the hub."""
    from datasets import load_dataset

    from harness.files import store

    try:
        rows = load_dataset(file.dataset, split=file.split)
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{file.dataset} cannot be fetched from the hub ({reason}); try again") from None
    target = data_dir / file.path
    store.write_jsonl(target, ({name: row[name] for name in file.fields} for row in rows))
    return target
