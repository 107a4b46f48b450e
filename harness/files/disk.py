"""Disk errors as one clear line, and writing that leaves a whole file or none."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from harness.errors import UserError

TEMPORARY = ".tmp"  # suffix of what is being written; its name begins with a dot
AGAIN = "and give the same command again: it continues from what is finished"
REMEDIES = {  # errno of a disk error -> what helps; any other errno is a bug
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EIO: "check the disk",
    errno.ESTALE: "check the disk",
    errno.EROFS: "make it writable",
    errno.EACCES: "change its permissions",
    errno.EPERM: "change its permissions",
    errno.ENOTDIR: "choose another folder",
    errno.EISDIR: "name a file",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the limit of open files (ulimit -n)",
}
RUST = re.compile(r"\(os error (\d+)\)")  # safetensors and tokenizers
TORCH = ("inline_container", "iostream error")  # torch.save does not say why


def of_disk(error: Exception, path: str | Path | None = None) -> UserError | None:
    """Return the message for a disk error, None for any other error.

    Args:
        path: what was being written, in case the error does not say.
    """
    text = str(error)
    rust = RUST.search(text)
    number = error.errno if isinstance(error, OSError) else int(rust[1]) if rust else None
    name = getattr(error, "filename", None)
    if not name or any(part.endswith(TEMPORARY) for part in Path(os.fsdecode(name)).parts):
        name = path or name or "a file"
    if number in REMEDIES:
        return UserError(f"{name}: {os.strerror(number)}: {REMEDIES[number]} {AGAIN}")
    if isinstance(error, RuntimeError) and any(sign in text for sign in TORCH):
        return UserError(f"{name} cannot be written: is the disk full? Make room {AGAIN}")
    return None


@contextmanager
def disk_errors(path: Path | None = None, kind: type[Exception] = OSError) -> Iterator[None]:
    """Turn disk errors inside the block into messages.

    Args:
        path: what is being written, in case the error does not say.
        kind: exception type to inspect; others propagate unchanged.

    Raises:
        UserError: for a disk error.
    """
    try:
        yield
    except kind as error:
        if (message := of_disk(error, path)) is None:
            raise
        raise message from error


def writing(path: Path) -> AbstractContextManager[None]:
    """`disk_errors` around writing to `path` with any library: those in Rust raise a bare Exception."""
    return disk_errors(path, Exception)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path; what is written there is synced and replaces `path` when the block ends well.

    Otherwise nothing is left. A file never replaces a folder.

    Raises:
        UserError: for a disk error.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")  # arms may write the same file of the cache
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            sync(temporary)
            if path.is_dir() and temporary.is_dir():
                shutil.rmtree(path)
            os.replace(temporary, path)
        finally:
            remove(temporary)


def remove(path: Path) -> None:
    """Delete a file or a folder, if it exists."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush a file, or all files in a folder, to the disk."""
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())
