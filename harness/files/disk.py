"""What goes wrong with the machine, as one clear line: a disk that is full or broken, a signal to stop."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from harness.errors import UserError

TEMPORARY = ".tmp"  # ends the name of what is being written, a dot begins it
AGAIN = "and give the same command again: it goes on from what is finished"
REMEDIES = {  # of the errors of a disk; what is not here is a mistake in a program
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EIO: "look after the disk",
    errno.ESTALE: "look after the disk",
    errno.EROFS: "make it writable",
    errno.EACCES: "change its permissions",
    errno.EPERM: "change its permissions",
    errno.ENOTDIR: "take another folder",
    errno.EISDIR: "name a file",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the limit of open files (ulimit -n)",
}
RUST = re.compile(r"\(os error (\d+)\)")  # safetensors and tokenizers
TORCH = ("inline_container", "iostream error")  # torch.save does not say why


def of_disk(error: Exception, path: str | Path | None = None) -> UserError | None:
    """What the user is told when this error is one of the disk.

    Args:
        path: that was being written, in case the error does not say.
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
        return UserError(f"{name} can not be written: is the disk full? Make room {AGAIN}")
    return None


@contextmanager
def disk_errors(path: Path | None = None, kind: type[Exception] = OSError) -> Iterator[None]:
    """Around all that a process does, or what it does with `path`.

    Args:
        kind: of errors that may be of the disk; what is not goes on as it is.

    Raises:
        UserError: for an error of the disk.
    """
    try:
        yield
    except kind as error:
        if (message := of_disk(error, path)) is None:
            raise
        raise message from error


def writing(path: Path) -> AbstractContextManager[None]:
    """As `disk_errors`, around what writes to `path` with whatever library: Rust raises a bare Exception."""
    return disk_errors(path, Exception)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write a file or a folder that is at `path`, on the disk and in the place of what was there, when the
    `with` ends well, and leaves nothing otherwise. A file never takes the place of a folder.

    Raises:
        UserError: for an error of the disk.
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
    """A file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Waits until a file, or all in a folder, is on the disk."""
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())
