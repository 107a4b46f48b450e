"""LaTeX that compiles, CSV for pandas, HTML and JSON: the same numbers, and names that can do no harm."""

import csv
import dataclasses
import io
import json
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from forged_run import forge
from table_rows import row, score

from harness.errors import UserError
from harness.tables import FORMATS, render, to_csv, to_html, to_latex, to_markdown
from harness.tables.build import build
from harness.tables.latex import escape
from harness.tables.reported import Reported
from harness.tables.schema import Tuning

HOSTILE = (
    "=HYPERLINK(1)",
    "a|b <script>alert(1)</script> [x](http://host) `c` **d**",
    r"100 % & $x_1^2$ #{} ~ \end{table} \input{x} ?` -- '' \\* [3pt]",
    "*star",
    "[opt",
    "tab\tline\nfeed\x1b[31m\x00\u202egnp.exe\u200b",
    "naïve Ł ő ï 中文 \N{PILE OF POO} e\u0301 µ ± “q” ½",
)
PAPER = "\n".join(
    [
        r"\documentclass{article}",
        r"\usepackage{booktabs}",
        r"\usepackage{graphicx}",
        r"\begin{document}",
        r"\input{table}",
        r"\end{document}",
    ]
)


def hostile_table():
    """Every text of a table is hostile: methods, supervision, judge, titles, notes, published rows, the command."""
    rows = [row(HOSTILE[0], {"a": [score([1.0, 2.0] * 4, judge=" ".join(HOSTILE))]})]
    rows += [row(name, {"a": [score([4.0] * 8, judge=" ".join(HOSTILE))]}, supervision=name) for name in HOSTILE[1:]]
    table = build(rows, HOSTILE[0], title=" ".join(HOSTILE), titles={"a": HOSTILE[1]}, remarks=HOSTILE)
    published = Reported(HOSTILE[1], HOSTILE[2], HOSTILE[3], HOSTILE[6], {"a": 1.5, "a-lc": 2.5})
    return dataclasses.replace(table, reported=(published,), command=" ".join(HOSTILE))


def plain_table():
    win = {"benchmark": "b", "metric": "win rate %"}
    base = row("base", {"a": [score([1.0] * 8)] * 3, "b": [score([50.0] * 8, **win)] * 3})
    scores = {"a": [score([2.0] * 8)] * 3, "b": [score([75.0, 65.0] * 4, **win)] * 3}
    sso = row("sso", scores, supervision="own")
    dpo = row("dpo", {"a": [score([1.5] * 8)] * 3, "b": [score([None, 60.0] * 4, **win)] * 3})
    return build([base, dataclasses.replace(sso, tuning=Tuning(6, 7.2e12)), dpo], title="demo")


@pytest.mark.parametrize("table", [plain_table(), hostile_table()], ids=["plain", "hostile"])
def test_latex_compiles(table, tmp_path):
    if not shutil.which("pdflatex"):
        pytest.skip("pdflatex is not installed (Debian: texlive-latex-base texlive-latex-recommended)")
    (tmp_path / "table.tex").write_text(to_latex(table))
    (tmp_path / "paper.tex").write_text(PAPER)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stdout.decode("latin-1")[-2000:]
    assert (tmp_path / "paper.pdf").stat().st_size > 1000


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("a_b & 5 % $x$ #1 {y}", r"a\_b \& 5 \% \$x\$ \#1 \{y\}"),
        (r"\input{x}", r"\textbackslash{}input\{x\}"),
        ("self-rewarding -2.7 [-5.9, +6.9] 1-10", r"self{-}rewarding $-$2.7 {[}$-$5.9, +6.9{]} 1{-}10"),
        ("99.7–100.0 † x", r"99.7--100.0 $\dagger$ x"),
        ("é ő ç ï", r"""{\'{e}} {\H{o}} {\c{c}} {\"{\i{}}}"""),
        ("中 \u202e", "{[}U+4E2D{]}"),
        ("*", "{*}"),
    ],
)
def test_latex_of_texts(text, latex):
    assert escape(text) == latex


def test_latex_by_eye():
    """One row: bold for the best, the mark, the rank; rules of booktabs, and as many columns as headings."""
    lines = to_latex(plain_table()).splitlines()
    (sso,) = (line for line in lines if line.startswith(r"sso & own & \textbf{2.00}"))
    assert sso.startswith(r"sso & own & \textbf{2.00} {[}2.00, 2.00{]} {*} \#1 & ")
    assert r"tuned, 6 trials, 7.2e+12 FLOPs" in sso
    assert {line for line in lines if "rule" in line} == {r"\toprule", r"\midrule", r"\bottomrule"}
    head = lines[lines.index(r"\toprule") + 1]
    assert head.count("&") == sso.count("&") == 9


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_has_a_row_for_each_method_and_benchmark():
    found = rows_of(to_csv(plain_table()))
    assert [(each["method"], each["benchmark"]) for each in found] == [
        (method, benchmark) for method in ("base", "sso", "dpo") for benchmark in ("a", "b")
    ]
    sso, dpo = found[2], found[5]
    assert [sso[name] for name in ("value", "low", "difference", "rank", "best", "ranked", "tuning_trials")] == [
        *("2.0", "2.0", "1.0", "1", "True", "True", "6")
    ]
    assert (float(sso["p_value"]), dpo["missing"], dpo["value"]) == (2 / 256, "12", "60.0")
    assert found[0]["difference"] == found[0]["reason"].replace("not trained", "") == ""


def test_csv_in_pandas():
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_csv(io.StringIO(to_csv(plain_table())))
    wide = frame.pivot(index="method", columns="benchmark", values="value")
    assert wide.loc["sso", "b"] == 70.0 and wide.loc["base", "a"] == 1.0


def test_csv_holds_no_formula_and_no_control_character():
    text = to_csv(hostile_table())
    assert text.isascii() or not [mark for mark in text if not (mark.isprintable() or mark == "\n")]
    found = rows_of(text)
    assert found[0]["method"] == "'=HYPERLINK(1)" and found[0]["baseline"] == "'=HYPERLINK(1)"
    assert not [value for each in found for value in each.values() if value[:1] in ("=", "+", "@")]
    below_zero = build([row("base", {"a": [score([2.0] * 8)]}), row("-x", {"a": [score([1.0] * 8)]})])
    assert [rows_of(to_csv(below_zero))[1][name] for name in ("method", "difference")] == ["'-x", "-1.0"]


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.rows, self.text = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        self.text.append(data)
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip("\n")


def test_html_shows_texts_as_texts():
    page = to_html(hostile_table())
    found = Page(page)
    known = {"html", "head", "meta", "title", "style", "body", "h1", "div", "table", "caption", "thead", "tbody", "tr"}
    assert set(found.tags) <= known | {"th", "td", "strong", "ul", "li", "p", "code"}
    assert "<script>alert(1)</script>" in "".join(found.text) and "http-equiv" in page
    assert not [mark for mark in page if not (mark.isprintable() or mark == "\n")]


def test_html_is_whole_and_accessible():
    page = to_html(plain_table())
    found = Page(page)
    assert page.startswith("<!DOCTYPE html>") and '<html lang="en">' in page and "<strong>2.00</strong>" in page
    assert page.count("<caption>") == 2 and page.count('<th scope="row">') == 5
    assert len({len(each) for each in found.rows[:4]}) == 1
    assert not {"script", "link", "img"} & set(found.tags) and "http" not in page.replace("http-equiv", "")


def test_hostile_names_in_markdown():
    lines = to_markdown(hostile_table()).splitlines()
    table = [line for line in lines if line.startswith("| ")]
    assert {line.replace(r"\|", "").count("|") for line in table[:10]} == {10}
    assert not [line for line in lines if "<script" in line.replace(r"\<", "") and not line.startswith("Made by `")]


def test_json_is_the_same_everywhere():
    data = json.loads(render(plain_table(), "json"))
    assert data["rows"][1]["cells"]["a"]["rank"] == 1 and data["rows"][1]["tuning"] == {"trials": 6, "flops": 7.2e12}
    assert data["rows"][2]["tuning"] is None and data["pairs"] == 2


def test_an_unknown_format_is_told():
    assert set(FORMATS) == {"markdown", "latex", "csv", "json", "html"}
    with pytest.raises(UserError, match="unknown format 'latx': did you mean 'latex'"):
        render(plain_table(), "latx")


# Footnotes and columns


def controlled(rates, intervals):
    """Scores of AlpacaEval whose seeds have these length-controlled win rates and intervals."""
    return [
        score([40.0, 60.0], "alpaca-eval", "win rate %")
        if rate is None
        else score(
            [40.0, 60.0],
            "alpaca-eval",
            "win rate %",
            details={"length_controlled_win_rate": rate, "length_controlled_interval": interval},
        )
        for rate, interval in zip(rates, intervals, strict=True)
    ]


def test_length_controlled_win_rates_have_a_column():
    """Seeds 30 and 34: mean 32; own half-widths 3 and 5 below, 4 and 6 above, mean 4 and 5; t(1 degree) at 97.5 % is
    12.7062, times the standard deviation 2.8284 / sqrt(2) = 2: 25.4124. sqrt(4^2 + 25.4124^2) = 25.7253 below."""
    one = row("one", {"alpaca-eval": controlled([30.0, 34.0], [[27.0, 34.0], [29.0, 40.0]])})
    single = row("single", {"alpaca-eval": controlled([30.0], [[27.0, 34.0]])})
    older = row("older", {"alpaca-eval": controlled([30.0, 31.0], [None, None])})
    table = build([row("base", {"alpaca-eval": controlled([None], [None])}), one, single, older])
    found = {each.method: each.cells["alpaca-eval"].length_controlled for each in table.rows}
    assert found["base"] is None
    assert (found["one"].value, found["one"].low) == (32.0, pytest.approx(32 - 25.7253, abs=1e-3))
    assert found["one"].high == pytest.approx(32 + 25.8996, abs=1e-3)
    assert vars(found["single"]) == {"value": 30.0, "low": 27.0, "high": 34.0}
    text = to_markdown(table)
    assert "alpaca-eval, length-controlled win rate %" in text
    cells = {line.split("|")[1].strip(): line.split("|")[4].strip() for line in text.splitlines()[:6]}
    assert (cells["base"], cells["single"], cells["older"]) == ("–", "30.0 [27.0, 34.0]", "30.5")
    lengths = [each for each in rows_of(to_csv(table)) if each["benchmark"] == "alpaca-eval-lc"]
    assert {each["method"]: each["value"] for each in lengths} == {"one": "32.0", "single": "30.0", "older": "30.5"}


def test_tuned_methods_say_so():
    lines = to_markdown(plain_table()).splitlines()
    options = [line.split("|")[5].strip(" -") for line in lines[2:7]]
    assert options == ["options", "", "–", "tuned, 6 trials, 7.2e+12 FLOPs", "default"]


def test_warnings_of_health_are_footnotes():
    warned = dataclasses.replace(
        row("sso", {"a": [score([1.0, 2.0])] * 3}), warnings={"policy: chosen lost": [0, 2], "policy: odd": [1]}
    )
    notes = build([row("base", {"a": [score([1.0, 2.0])] * 3}), warned]).notes
    assert notes[-1] == "Health of training, sso: policy: chosen lost (seeds 0, 2); policy: odd (seed 1)."


# The command


def harness(*arguments, cwd):
    return subprocess.run([sys.executable, "-m", "harness", *map(str, arguments)], cwd=cwd, capture_output=True)


def test_the_command_writes_what_it_is_asked(tmp_path):
    """By suffix, by --format, and with the command that made it; a folder is never replaced."""
    values = {"math": {"base": [[0.0] * 8], "dpo": [[100.0] * 8], "sso": [[100.0, 0.0] * 4]}}
    forge(tmp_path / "run", values)
    done = harness("table", "run", "--baseline", "dpo", "-o", "t.tex", cwd=tmp_path)
    assert done.stdout.decode() == "t.tex\n"
    text = (tmp_path / "t.tex").read_text()
    assert "% made by harness table run --format latex --output t.tex --baseline dpo" in text and "minus dpo" in text
    assert not (tmp_path / "run" / "table.md").exists(), "with another baseline the run keeps its own table"
    shown = [harness("table", "run", *asked, cwd=tmp_path).stdout for asked in (("--json",), ("--format", "json"))]
    assert shown[0] == shown[1] and json.loads(shown[0])["rows"][0]["method"] == "base"
    assert (tmp_path / "run" / "table.md").exists()
    assert harness("table", "run", "--format", "csv", cwd=tmp_path).stdout.startswith(b"method,run,benchmark,")
    for wrong in (("-o", "run"), ("--format", "xls"), ("--format", "csv", "--json"), ("--baseline", "nobody")):
        done = harness("table", "run", *wrong, cwd=tmp_path)
        assert done.returncode == 2 and done.stderr.decode().count("\n") == 1, done.stderr
    assert (tmp_path / "run" / "arms").is_dir()
