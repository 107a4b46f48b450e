r"""A table as LaTeX, for \input into a paper: booktabs tables as wide as the text.

The paper needs \usepackage{booktabs} and \usepackage{graphicx}. It compiles with pdflatex whatever the names hold:
special characters are escaped, and letters that pdflatex cannot set are written as their number.
"""

import re
import unicodedata

from harness.tables.layout import DIFFERENCES, Entry, TextGrid, one_line, sheet
from harness.tables.schema import Table

_MINUS = re.compile(r"(?<![\w.)\]-])-(?=\d)")  # the sign of a number, not a hyphen
MARKS = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': '{"}',
    "'": "{'}",  # apart, so that two do not become a quotation mark
    "`": r"\`{}",
    "-": "{-}",  # apart, so that two do not become a dash
    "[": "{[}",  # at the start of a row it would be an option of the line break before
    "]": "{]}",
    "*": "{*}",  # after a line break it would belong to that
    "–": "--",
    "—": "---",
    "†": r"$\dagger$",
    "−": "$-$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "µ": r"$\mu$",
    "°": r"$^{\circ}$",
    "…": r"\dots{}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
}
ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0308": '"', "\u0304": "=", "\u0307": ".",
    "\u030c": "v", "\u0306": "u", "\u030b": "H", "\u0327": "c", "\u030a": "r",
}  # fmt: skip


def to_latex(table: Table) -> str:
    shown = sheet(table)
    parts = [r"% needs \usepackage{booktabs} and \usepackage{graphicx}"]
    if shown.command:
        parts.append(f"% made by {_comment(shown.command)}")
    parts.append(_float(shown.scores, escape(shown.title) or "Scores", shown.notes))
    if shown.differences:
        parts.append(_float(shown.differences, escape(DIFFERENCES.removesuffix(":")), ()))
    return "\n".join(parts) + "\n"


def escape(text: str) -> str:
    """The text on one line, without commands."""
    return "".join(map(_mark, _MINUS.sub("−", one_line(text))))


def _mark(mark: str) -> str:
    if mark in MARKS:
        return MARKS[mark]
    if mark.isascii():
        return mark
    decomposed = unicodedata.normalize("NFD", mark)
    letter, accents = decomposed[0], decomposed[1:]
    if letter.isascii() and letter.isalpha() and len(accents) == 1 and accents[0] in ACCENTS:
        base = rf"\{letter}{{}}" if letter in "ij" and accents[0] != "\u0327" else letter
        return rf"{{\{ACCENTS[accents[0]]}{{{base}}}}}"
    return rf"[U+{ord(mark):04X}]".replace("[", "{[}").replace("]", "{]}")


def _comment(text: str) -> str:
    """The text on one line that cannot end the comment."""
    return one_line(text).encode("ascii", "backslashreplace").decode()


def _float(grid: TextGrid, caption: str, notes: tuple[str, ...]) -> str:
    lines = [
        r"\begin{table}[htbp]",
        r"\centering",
        rf"\caption{{{caption}}}",
        r"\resizebox{\linewidth}{!}{%",
        rf"\begin{{tabular}}{{@{{}}{'l' * len(grid.head)}@{{}}}}",
        r"\toprule",
        rf"{' & '.join(map(escape, grid.head))} \\",
        r"\midrule",
        *(rf"{' & '.join(map(_entry, row))} \\" for row in grid.rows),
        r"\bottomrule",
        r"\end{tabular}}",
    ]
    if notes:
        lines += ["", r"\smallskip", r"\begin{minipage}{\linewidth}\footnotesize\raggedright"]
        lines += [rf"{escape(note)}\par" for note in notes]
        lines += [r"\end{minipage}"]
    return "\n".join([*lines, r"\end{table}"])


def _entry(entry: Entry) -> str:
    strong, rest = escape(entry.text[: entry.strong]), entry.text[entry.strong :]
    return rf"\textbf{{{strong}}} {escape(rest)}".rstrip() if strong else escape(entry.text)
