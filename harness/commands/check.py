"""Shows the findings of `harness check` to people, programs and CI systems."""

import math
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.commands.output import print_rows, readable
from harness.files.disk import writing
from harness.files.store import plain
from harness.regression.gate import Check, Finding

SHOWN = 12  # findings of training that are shown if none failed


def as_json(check: Check, run: Path, against: Path) -> dict[str, Any]:
    """Return the fields of a `Check`, and what was compared."""
    return plain(asdict(check)) | {"run": str(run), "against": str(against), "passed": check.passed}


def headline(check: Check) -> str:
    failed = sum(not each.passed for each in check.findings)
    if check.verdict == "identical":
        return "identical to the reference: scores, preferences and ledgers of all seeds"
    alarms = f"an equal run fails in at most {check.false_alarms:.0%}"
    if check.passed:
        return f"no worse than the reference in {len(check.findings)} checks ({alarms})"
    return f"WORSE than the reference: {failed} of {len(check.findings)} checks failed ({alarms})"


def text(each: Finding) -> str:
    """Return a finding as a sentence."""
    if each.kind == "score":
        said = (
            f"{each.value:.4g}, the reference {each.expected:.4g}: difference {each.difference:+.4g}, above "
            f"{each.bound:+.4g} with 95 % confidence; margin {each.margin:.4g} (equal runs pass it in {each.power:.1%})"
        )
    else:
        said = f"{each.value:.4g}, expected {each.expected:.4g} within [{each.low:.4g}, {each.high:.4g}]"
    return said + (f". Look at {each.meaning}" if each.meaning else "")


def print_check(check: Check, run: Path, against: Path) -> None:
    seeds = f"seeds {_list(check.seeds)}; reference: seeds {_list(check.reference_seeds)}"
    print(readable(f"{run} against {against} ({seeds})"))
    scores = [each for each in check.findings if each.kind == "score"]
    training = [each for each in check.findings if each.kind == "training"]
    if scores:
        score_columns = ("arm", "benchmark", "run", "reference", "difference", "at least", "margin", "power", "")
        score_rows = [
            (
                *(each.arm, each.name, each.value, each.expected, each.difference, each.bound, each.margin),
                *(each.power, "ok" if each.passed else "WORSE"),
            )
            for each in scores
        ]
        print_rows(score_columns, score_rows, title="scores: worse by less than the margin")
    if training:
        failed = [each for each in training if not each.passed]
        columns = ("arm", "measure", "run", "expected", "from", "to", "look at")
        rows = [
            (each.arm, each.name, each.value, each.expected, each.low, each.high, each.meaning)
            for each in failed or _nearest(training)
        ]
        title = (
            "training: outside the range of other seeds of the reference" if failed else "training: nearest to a limit"
        )
        print_rows(columns, rows, title=title)
        print(f"{len(training) - len(failed)} of {len(training)} measures of training are as expected")
    for each in check.unequal[:SHOWN]:
        print(readable(f"not identical: {each}"))
    if len(check.unequal) > SHOWN:
        print(f"not identical: {len(check.unequal) - SHOWN} more")
    if check.not_checked:
        print(readable(f"not in the run, not checked: {', '.join(check.not_checked)}"))
    print(headline(check))


def _nearest(findings: list[Finding]) -> list[Finding]:
    def room(each: Finding) -> float:
        width = (math.inf if each.high is None else each.high) - each.expected
        return (width - abs(each.value - each.expected)) / width if width else math.inf

    return sorted(findings, key=room)[:SHOWN]


def _list(seeds: tuple[int, ...]) -> str:
    return ", ".join(map(str, seeds))


def write_junit(check: Check, path: Path) -> None:
    """Write one test case per finding, as CI systems read them."""
    from junitparser import Failure, JUnitXml, TestCase, TestSuite

    suite = TestSuite("harness check")
    for each in check.findings:
        case = TestCase(_xml(each.name), classname=_xml(f"{each.kind}.{each.arm}"))
        if not each.passed:
            case.result = [Failure(_xml(text(each)))]
        suite.add_testcase(case)
    if not check.findings:
        suite.add_testcase(TestCase("identical", classname="identity"))
    xml = JUnitXml("harness check")
    xml.add_testsuite(suite)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        xml.write(str(path), pretty=True)


def _xml(said: str) -> str:
    return readable(said)  # without control characters, which XML lacks


def annotate_github(check: Check) -> None:
    """Write annotations to standard error and a summary of the step, under GitHub Actions."""
    if not os.environ.get("GITHUB_ACTIONS"):
        return
    for each in check.findings:
        if not each.passed:
            print(f"::error title={_property(f'{each.arm} {each.name}')}::{_data(text(each))}", file=sys.stderr)
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with writing(Path(summary)), open(summary, "a", encoding="utf-8") as file:
            file.write(markdown(check))


def _data(said: str) -> str:
    return said.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(said: str) -> str:
    return _data(said).replace(":", "%3A").replace(",", "%2C")


def markdown(check: Check) -> str:
    """Return the summary of a step."""
    from harness.tables.markdown import escape

    lines = ["## harness check", "", escape(headline(check)), ""]
    if check.findings:
        lines += ["| arm | check | |", "| --- | --- | --- |"]
        failed = [each for each in check.findings if not each.passed]
        for each in [*failed, *(each for each in check.findings if each.passed and each.kind == "score")]:
            mark = "ok" if each.passed else "**worse**"
            lines.append(f"| {escape(each.arm)} | {escape(f'{each.name}: {text(each)}')} | {mark} |")
    return "\n".join(lines) + "\n"
