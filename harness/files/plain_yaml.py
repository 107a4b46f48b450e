"""YAML of plain values: texts, numbers, booleans, null, lists and mappings with texts as keys.

PyYAML's safe loader with limits. Options need nothing else that YAML can do: tags, dates, numbers to the base 60 (both
stay texts), keys given twice, and aliases that grow to millions of values.
"""

import re
from typing import Any, NoReturn

import yaml

from harness.errors import UserError

LONGEST = 1 << 18  # characters of a document
MOST_VALUES = 20_000  # in a document, aliases expanded
DEEPEST = 20  # levels of lists and mappings
LONGEST_NUMBER = 100  # characters
_FORBIDDEN = re.compile("[^\t\n\r -~\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # in YAML 1.1
_TEXT, _DATE, _MERGE, *_NUMBERS = (
    f"tag:yaml.org,2002:{kind}" for kind in ("str", "timestamp", "merge", "int", "float")
)


class _Loader(yaml.CSafeLoader):
    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != _DATE]
        for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
    }


def parse(text: str, where: str) -> Any:
    """The value of a document.

    Args:
        where: the file, or what else the text is, for error messages.

    Raises:
        UserError: naming `where` and the line.
    """
    if len(text) > LONGEST:
        raise UserError(f"{where}: is longer than {LONGEST} characters, which no options are")
    if odd := _FORBIDDEN.search(text):
        line = text.count("\n", 0, odd.start()) + 1
        raise UserError(f"{where}:{line}: not YAML (character {odd[0]!a} is not allowed)")
    try:
        _check_events(text)
        loader = _Loader(text)
        if (root := loader.get_single_node()) is None:
            return None
        _check_node(root, loader, {}, 0)
        return loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = min(mark.line if mark else 0, text.count("\n")) + 1
        raise UserError(f"{where}:{line}: not YAML ({error.problem})") from None


def _refuse(problem: str, mark: Any) -> NoReturn:
    raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def _check_events(text: str) -> None:
    """Refuse tags, and deep nesting before nodes are made of it: libyaml's recursion would end the process."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if tag := getattr(event, "tag", None):  # of scalars and collections
            _refuse(f"tag {tag!r:.60} is not read", event.start_mark)
        if depth >= DEEPEST and isinstance(event, yaml.NodeEvent):
            _refuse(f"nested deeper than {DEEPEST} levels", event.start_mark)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)


def _check_node(node: yaml.Node, loader: _Loader, sizes: dict[yaml.Node, int], before: int) -> int:
    """Refuse what no options hold, and return the number of values in the document up to the end of this node.

    Args:
        sizes: values in each node that was checked, aliases expanded; 0 in those that this node is part of.
        before: values in the document before this node.
    """
    if node in sizes:
        return before + (sizes[node] or _refuse("an alias stands for what it is part of", node.start_mark))
    sizes[node], total, names = 0, before + 1, set()
    for part in node.value if isinstance(node, yaml.CollectionNode) else ():
        if isinstance(node, yaml.MappingNode):
            key, part = part
            if key.tag not in (_TEXT, _MERGE):
                _refuse("a key that is not a text: put it in quotes", key.start_mark)
            if key.value in names:
                _refuse(f"{key.value!r:.60} is given twice", key.start_mark)
            names.add(key.value)
            total += 1
        total = _check_node(part, loader, sizes, total)
        if total > MOST_VALUES:
            _refuse(f"more than {MOST_VALUES} values", node.start_mark)
    if node.tag in _NUMBERS and ":" in node.value:
        node.tag = _TEXT
    elif node.tag in _NUMBERS:
        try:
            loader.construct_object(node)  # ValueError: "0x_", or thousands of digits
            is_number = len(node.value) <= LONGEST_NUMBER
        except ValueError:
            is_number = False
        if not is_number:
            _refuse(f"{node.value!r:.60} is not a number that can be read", node.start_mark)
    sizes[node] = total - before
    return total
