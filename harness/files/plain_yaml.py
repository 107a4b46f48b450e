"""YAML of plain values: texts, numbers, booleans, null, lists and mappings with texts as keys.

Of what YAML can do besides, nothing is wanted in options: tags, dates, numbers to the base 60, keys that stand twice,
and aliases that grow to millions of values. A date is the text that it is written as.
"""

from typing import Any

import yaml
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.cyaml import CParser
from yaml.resolver import Resolver

from harness.errors import UserError

LONGEST = 1 << 18  # characters of a document
MOST_VALUES = 20_000  # in a document, with what its aliases stand for
DEEPEST = 20  # levels of lists and mappings
LONGEST_NUMBER = 100  # characters
_TEXT = "tag:yaml.org,2002:str"
_DATE = "tag:yaml.org,2002:timestamp"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def parse(text: str, where: str) -> Any:
    """The value of a document.

    Args:
        where: the file, or what else the text is, for error messages.

    Raises:
        UserError: naming `where` and the line.
    """
    if len(text) > LONGEST:
        raise UserError(f"{where}: is longer than {LONGEST} characters, which no options are")
    try:
        document = text.encode()
    except UnicodeEncodeError as error:
        raise _forbidden(where, text[: error.start].count("\n"), text[error.start]) from None
    try:
        return yaml.load(document, _Loader)
    except yaml.MarkedYAMLError as error:
        line = min((error.problem_mark or error.context_mark).line, document.count(b"\n")) + 1
        raise UserError(f"{where}:{line}: not YAML ({error.problem})") from None
    except yaml.reader.ReaderError as error:
        raise _forbidden(where, document.count(b"\n", 0, error.position), chr(error.character)) from None


def _forbidden(where: str, lines_before: int, character: str) -> UserError:
    return UserError(f"{where}:{lines_before + 1}: not YAML (character {character!a} is not allowed)")


class _Loader(Composer, SafeConstructor, Resolver, CParser):
    """libyaml's events, composed here: refuses what the module's docstring names while it does so."""

    def __init__(self, document: bytes):
        CParser.__init__(self, document)
        for part in (Composer, SafeConstructor, Resolver):
            part.__init__(self)
        self._values = self._depth = 0
        self._sizes: dict[int, int] = {}  # of finished nodes, with what their aliases stand for

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        event, before = self.peek_event(), self._values
        if getattr(event, "tag", None):
            raise yaml.composer.ComposerError(None, None, f"tag {event.tag!r:.60} is not read", event.start_mark)
        self._depth += 1
        if self._depth > DEEPEST:
            raise yaml.composer.ComposerError(None, None, f"nested deeper than {DEEPEST} levels", event.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if not isinstance(event, yaml.AliasEvent):
            self._values += 1
            self._sizes[id(node)] = self._values - before
        elif id(node) not in self._sizes:
            raise yaml.composer.ComposerError(None, None, "an alias stands for what it is part of", event.start_mark)
        else:
            self._values += self._sizes[id(node)]
        if self._values > MOST_VALUES:
            raise yaml.composer.ComposerError(None, None, f"more than {MOST_VALUES} values", event.start_mark)
        return node

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        names = set()
        for key, _ in node.value:
            if key.tag not in (_TEXT, "tag:yaml.org,2002:merge"):
                raise yaml.composer.ComposerError(None, None, "a key that is no text: put it in quotes", key.start_mark)
            if key.value in names:
                raise yaml.composer.ComposerError(None, None, f"{key.value!r:.60} stands twice", key.start_mark)
            names.add(key.value)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if node.tag in _NUMBERS and ":" in node.value:
            return node.value
        try:
            if node.tag in _NUMBERS and len(node.value) > LONGEST_NUMBER:
                raise ValueError
            return super().construct_object(node, deep)
        except ValueError:  # such as "0x_"
            raise yaml.constructor.ConstructorError(
                None, None, f"{node.value!r:.60} is no number that can be read", node.start_mark
            ) from None


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _DATE]
    for first, resolvers in Resolver.yaml_implicit_resolvers.items()
}
