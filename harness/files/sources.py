"""The code that a result rests on, found by following imports through source files; nothing is imported for it.

A step depends on the bytes of every module that the code which made it can import: comments count too, because a
digest of bytes is simple and cannot miss a change. Imports inside functions are followed, those under TYPE_CHECKING are
not, and a string that is the dotted name of a module ("harness.training.processes.worker", as `python -m` and
`import_module` take it) is an import. A data file of our packages is part of the code that names it. A class in a file
(`harness.files.code_files`) counts like one of a package.

Which modules are roots for which step is stated here, in TRAINING, ANSWERING and SCORING; the module of the method,
benchmark and judge joins them.
"""

import ast
import hashlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

from harness.errors import UserError
from harness.files import code_files

OURS = ("harness", "sso", "baselines")
MODEL_FILES = ("*.safetensors", "*.json", "*.jinja")  # of the embedded model, which has its own digest
NOT_OF_MODEL = ("testbed.json",)  # matches MODEL_FILES, but no engine reads it


@dataclass(frozen=True)
class Roots:
    """The modules that a kind of step starts from.

    followed: modules that count with all that they import.
    alone: modules that drive every kind of step: their own source counts, what they import does not.
    """

    followed: tuple[str, ...]
    alone: tuple[str, ...] = ()


TRAINING = Roots(
    ("harness.stages.train", "harness.stages.plan", "harness.stages.fitting", "harness.runs.engine_choice"),
    ("harness.runs.arm", "harness.runs.inputs", "harness.runs.processes"),
)
ANSWERING = Roots(
    ("harness.benchmarks.files", "harness.runs.engine_choice", "harness.engines.classifier", "harness.engines.logged"),
    ("harness.runs.arm", "harness.runs.checkpoints", "harness.runs.inputs", "harness.runs.scoring"),
)
ENDPOINT = Roots(  # ANSWERING for a model that is asked at a URL
    ("harness.benchmarks.files", "harness.engines.endpoint", "harness.engines.logged"), ANSWERING.alone
)
SCORING = Roots(
    ("harness.benchmarks.base", "harness.benchmarks.contamination", "harness.testbed.clusters"),
    ("harness.runs.scoring",),
)
JUDGING = ("judge", "score", "clusters", "verdicts", "is_open")  # methods that no answer rests on
ANSWERS = ("answer", "pairs")  # and those that its score does not depend on


@dataclass(frozen=True)
class Part:
    """A class without some of its methods: what only these use in its module is not followed."""

    module: str
    name: str
    without: tuple[str, ...]

    @classmethod
    def of(cls, value: object, without: tuple[str, ...]) -> "Part":
        return cls(type(value).__module__, type(value).__name__, without)


def modules(roots: Roots, *more: str | Part) -> tuple[str, ...]:
    """Return the names of all modules whose source counts, sorted.

    Args:
        more: further modules to follow: of the method, benchmark or judge.
    """
    return tuple(sorted(_reached(roots, more)))


@cache
def digest(roots: Roots, *more: str | Part) -> str:
    """Return the digest of the source of `modules` and of our data files that they name: 16 hexadecimal digits."""
    names = modules(roots, *more)
    files = {f"{name}.py": _file(name) for name in names}
    named = {text for name in names for text in _syntax(name).texts}
    tops = {name.partition(".")[0] for name in names}
    for top in tops:
        files |= {name: file for name, file in _data(top).items() if file.name in named}
    return _of_files(files)


@cache
def of_packages(*packages: str) -> str:
    """Return the digest of all source and data files of whole packages (or single modules)."""
    files: dict[str, Path | None] = {}
    for top in packages:
        files |= {f"{name}.py": _file(name) for name in _all_modules(top)} | _data(top)
    return _of_files(files)


@cache
def packages(roots: Roots, *more: str | Part) -> tuple[str, ...]:
    """Return the installed packages that the code of plugins imports: their results depend on the versions.

    These are names of modules; the name of a distribution may differ.
    """
    given = [each.module if isinstance(each, Part) else each for each in more]
    if all(name.partition(".")[0] in OURS for name in given):  # and ours import no plugin
        return ()
    found = set()
    for name in modules(roots, *more):
        if name.partition(".")[0] not in OURS:
            found |= {target.partition(".")[0] for target in _imports(name, texts=False)}
    return tuple(sorted(each for each in found if each not in sys.stdlib_module_names and not _counts(each, set())))


@cache
def imports(package: str, roots: Roots, *more: str | Part) -> bool:
    """Whether the code imports an installed package."""
    parts = {part.module: part for part in more if isinstance(part, Part)}
    return any(
        target.partition(".")[0] == package
        for name in modules(roots, *more)
        for target in _imports(name, parts.get(name), texts=False)
    )


def _of_files(files: dict[str, Path | None]) -> str:
    total = hashlib.sha256()
    for name, file in sorted(files.items()):
        content = _content(name.removesuffix(".py"), file)
        total.update(f"{name} {len(content)}\n".encode() + content)
    return total.hexdigest()[:16]


def _content(name: str, file: Path | None) -> bytes:
    """Return the source of a module, or a data file: the bytes that were run, where the file can be edited since."""
    if known := code_files.imported(name):
        return known.content
    return file.read_bytes() if file else b""


def _reached(roots: Roots, more: Sequence[str | Part]) -> set[str]:
    parts = {part.module: part for part in more if isinstance(part, Part)}
    waiting = {*roots.followed, *(part.module if isinstance(part, Part) else part for part in more)}
    for name in waiting:
        if not _is_module(name):
            raise UserError(f"the source of module {name} is not here, so results cannot say what code made them")
    given = {name.partition(".")[0] for name in waiting}
    followed: set[str] = set()
    above: set[str] = set()
    while waiting:
        name = waiting.pop()
        followed.add(name)
        found = set(_imports(name, parts.get(name)))
        for package in _packages(name):  # runs first; what it names without importing it may stay unused
            above.add(package)
            found |= _imports(package, texts=False)
        waiting |= {each for each in found - followed if _is_module(each) and _counts(each, given)}
    return followed | above | set(roots.alone)


def _packages(name: str) -> list[str]:
    """Return the packages that contain a module, outermost first."""
    parts = name.split(".")
    return [package for end in range(1, len(parts)) if _is_module(package := ".".join(parts[:end]))]


def _counts(name: str, given: set[str]) -> bool:
    """Whether a module's source counts: it is ours, in the package of a given module, or has no version."""
    top = name.partition(".")[0]
    return top in OURS or top in given or _is_own(top)


@dataclass(frozen=True)
class _Syntax:
    tree: ast.Module
    package: str  # that relative imports start from
    texts: frozenset[str]  # with a dot in them, as names of modules and files have


@cache
def _syntax(name: str) -> _Syntax:
    file = _file(name)
    tree = ast.parse(_content(name, file), str(file))
    texts = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    package = name if file and file.name == "__init__.py" else name.rpartition(".")[0]
    return _Syntax(tree, package, frozenset(text for text in texts if "." in text and len(text) < 200))


@cache
def _imports(name: str, part: Part | None = None, texts: bool = True) -> frozenset[str]:
    """Return the names that a module imports, of modules or of what is in them.

    Args:
        part: follow only what this part of the module uses.
        texts: count names of modules in strings.
    """
    syntax = _syntax(name)
    found: set[str] = set()
    for node in _used(syntax.tree, part) if part else [syntax.tree]:
        for each in _executed(node):
            if isinstance(each, ast.Import):
                found |= {alias.name for alias in each.names}
            elif isinstance(each, ast.ImportFrom):
                base = each.module or ""
                if each.level:
                    above = syntax.package.split(".")
                    base = ".".join([*above[: len(above) - each.level + 1], *([each.module] if each.module else [])])
                for alias in each.names:  # a module of a package, or something in it
                    found.add(inner if _is_module(inner := f"{base}.{alias.name}") else base)
            elif texts and isinstance(each, ast.Constant) and each.value in syntax.texts:
                found.add(each.value)
    return frozenset(each for each in found if all(map(str.isidentifier, each.split("."))))


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a node and all below it, without blocks for type checkers."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        test = getattr(node, "test", None)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in (getattr(test, "id", ""), getattr(test, "attr", "")):
            waiting += node.orelse
        else:
            yield node
            waiting += ast.iter_child_nodes(node)


def _used(tree: ast.Module, part: Part) -> list[ast.AST]:
    """Return the statements of a module that part of a class needs.

    An import counts unless only what is left out uses its name.
    """
    defined: dict[str, ast.AST] = {}
    rest: list[ast.AST] = []
    imports: list[ast.Import | ast.ImportFrom] = []
    left_out: list[ast.AST] = []
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports.append(node)
        elif isinstance(node, ast.ClassDef) and node.name == part.name:
            kept, left_out = _methods(node, part.without)
            rest += kept
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined[node.name] = node
        else:
            rest.append(node)
    reached = _names(rest)
    used = set(rest)
    while new := [node for name, node in defined.items() if name in reached and node not in used]:
        used |= set(new)
        reached |= _names(new)
    elsewhere = _names([*left_out, *(node for node in defined.values() if node not in used)])
    for statement in imports:
        names = {(alias.asname or alias.name).partition(".")[0] for alias in statement.names}
        if names & reached or not names & elsewhere:
            used.add(statement)
    return list(used)


def _methods(node: ast.ClassDef, without: tuple[str, ...]) -> tuple[list[ast.AST], list[ast.AST]]:
    """Return what counts in a class, and the methods that do not; a method that the others call counts."""
    left_out = [each for each in node.body if isinstance(each, ast.FunctionDef) and each.name in without]
    kept = [each for each in [*node.decorator_list, *node.bases, *node.body] if each not in left_out]
    called = {each.attr for kind in kept for each in ast.walk(kind) if isinstance(each, ast.Attribute)}
    return (
        [*kept, *(each for each in left_out if each.name in called)],
        [each for each in left_out if each.name not in called],
    )


def _names(nodes: Sequence[ast.AST]) -> set[str]:
    return {each.id for node in nodes for each in ast.walk(node) if isinstance(each, ast.Name)}


@cache
def _top(name: str) -> tuple[Path | None, tuple[Path, ...] | None]:
    """Return the file and folders of a top-level module or package, without importing it."""
    module = sys.modules.get(name)
    try:
        spec = importlib.util.find_spec(name)
    except (ValueError, ImportError):  # of a script
        spec = None
    if spec is None:
        file = getattr(module, "__file__", None)
        return (Path(file), None) if file else (None, None)
    folders = tuple(map(Path, spec.submodule_search_locations)) if spec.submodule_search_locations else None
    return (Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None), folders


@cache
def _file(name: str) -> Path | None:
    """Return the source file of a module; None for other names, and modules without source."""
    top, _, below = name.partition(".")
    file, folders = _top(top)
    if not below:
        return file
    for folder in folders or ():
        place = folder.joinpath(*below.split("."))
        for candidate in (place / "__init__.py", place.with_name(f"{place.name}.py")):
            if candidate.is_file():
                return candidate
    return None


@cache
def _is_module(name: str) -> bool:
    return _file(name) is not None


@cache
def _is_own(top: str) -> bool:
    """Whether a top-level module is neither Python's nor an installed package, so that no version stands for it."""
    file, folders = _top(top)
    place = file or (folders[0] if folders else None)
    if place is None or top in sys.stdlib_module_names:
        return False
    installed = {"site-packages", "dist-packages"} & set(place.parts)
    return not installed and not place.is_relative_to(sysconfig.get_path("stdlib"))


@cache
def _data(top: str) -> dict[str, Path]:
    """Return the data files of a package by their path in it, without those of the embedded model."""
    found = {}
    for folder in _top(top)[1] or ():
        for file in sorted(folder.rglob("*")):
            if file.suffix in (".py", ".pyc") or not file.is_file() or file.name.startswith("."):
                continue
            of_model = any(fnmatch(file.name, pattern) for pattern in MODEL_FILES) and file.name not in NOT_OF_MODEL
            if not (of_model and (file.parent / "config.json").is_file()):
                found[f"{top}/{file.relative_to(folder).as_posix()}"] = file
    return found


def _all_modules(top: str) -> list[str]:
    file, folders = _top(top)
    names = [top] if file else []
    for folder in folders or ():
        for each in sorted(folder.rglob("*.py")):
            parts = each.relative_to(folder).with_suffix("").parts
            names.append(".".join([top, *(parts[:-1] if parts[-1] == "__init__" else parts)]))
    return list(dict.fromkeys(names))
