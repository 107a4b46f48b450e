"""Classes in single Python files, named FILE.py:CLASS: methods and benchmarks without a package.

A file is imported under a name that holds the digest of its content, so that a changed file is another module, and a
step depends on the bytes that were run. Its folder joins the end of `sys.path`, for modules beside it.
"""

import hashlib
import re
import sys
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from harness.errors import UserError

SUFFIX = ".py"


@dataclass(frozen=True)
class CodeFile:
    """A file as it was when it was imported."""

    path: Path
    content: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def module(self) -> str:
        """The name of its module; `harness.files.sources` follows it like any other."""
        return f"{re.sub(r'[^0-9A-Za-z_]', '_', self.path.stem)}_{self.sha256[:16]}"


_imported: dict[str, CodeFile] = {}  # by the name of the module


def is_reference(name: str) -> bool:
    """Whether a name is that of a class in a file, or of a file without a class, which `load_class` refuses."""
    return name.endswith(SUFFIX) or f"{SUFFIX}:" in name


def path_of(reference: str) -> Path:
    """Return the path in FILE.py:CLASS."""
    return Path(reference if reference.endswith(SUFFIX) else reference.rpartition(":")[0])


def load_class(reference: str) -> type:
    """Return the class that FILE.py:CLASS names; the file is run unless the same bytes were run before.

    Raises:
        UserError: when there is no such file or class, or the file cannot be run, with the line of the mistake.
    """
    path = path_of(reference)
    module = load_module(path)
    name = reference[len(str(path)) + 1 :] if not reference.endswith(SUFFIX) else ""
    found = getattr(module, name, None) if name else None
    if isinstance(found, type):
        return found
    classes = [each for each, kind in vars(module).items() if getattr(kind, "__module__", "") == module.__name__]
    known = ", ".join(f"{path}:{each}" for each in classes if isinstance(getattr(module, each), type)) or "it has none"
    raise UserError(f"{path} has no class {name!r}: {known}" if name else f"name a class of {path}: {known}")


def load_module(path: Path) -> ModuleType:
    """Run a file and return its module.

    Raises:
        UserError: when it is missing, or cannot be run.
    """
    try:
        file = CodeFile(path, path.read_bytes())
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(f"{path} cannot be read ({reason}): paths are relative to {Path.cwd()}") from None
    if file.module in _imported:
        return sys.modules[file.module]
    place = path.resolve()
    spec = spec_from_file_location(file.module, place)
    assert spec, "there is a loader for .py"
    module = module_from_spec(spec)
    if str(place.parent) not in sys.path:
        sys.path.append(str(place.parent))
    sys.modules[file.module], _imported[file.module] = module, file
    try:
        exec(compile(file.content, str(place), "exec"), vars(module))
    except BaseException as error:
        del sys.modules[file.module], _imported[file.module]
        if isinstance(error, UserError) or not isinstance(error, Exception | SystemExit):
            raise
        raise UserError(f"{_place(path, error)}: {type(error).__name__}: {error}") from error
    return module


def imported(module: str) -> CodeFile | None:
    """Return the file that a module was made from; None for modules of packages."""
    return _imported.get(module)


def _place(path: Path, error: BaseException) -> str:
    """FILE:LINE of the last line of the file that ran."""
    line = error.lineno if isinstance(error, SyntaxError) else None
    trace = error.__traceback__
    while trace and not isinstance(error, SyntaxError):
        if trace.tb_frame.f_code.co_filename == str(path.resolve()):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"{path}:{line}" if line else str(path)
