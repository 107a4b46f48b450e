"""Warnings about controls that do too well."""

from table_rows import row, score

from harness.tables import to_markdown
from harness.tables.build import build
from harness.tables.controls import control_warnings

LABELS = "random labels (control)"


def seeds(mean: float) -> list:
    """Scores of three seeds whose twenty questions all have about this value."""
    return [score([mean + 0.01 * ((place + seed) % 3) for place in range(20)]) for seed in range(3)]


def rows(base: float, dpo: float, control: float) -> list:
    return [
        row("base", {"mt-bench": seeds(base)}),
        row("dpo", {"mt-bench": seeds(dpo)}),
        row("random-labels", {"mt-bench": seeds(control)}, supervision=LABELS, control_of="dpo"),
    ]


def test_a_control_below_its_method_and_no_better_than_the_baseline_is_no_news():
    stored = rows(5.0, 6.0, 4.9)
    assert list(control_warnings(build(stored), stored)) == []


def test_a_control_that_does_well_is_a_warning_below_the_table():
    stored = rows(4.0, 5.0, 5.5)
    warning = (
        "Warning: random-labels is a control (random labels (control)) and should do badly, but it is not below dpo on "
        "mt-bench; it is significantly better than base on mt-bench; it has the highest score on mt-bench. There, this "
        "table does not show that better labels make a better model."
    )
    assert list(control_warnings(build(stored), stored)) == [warning]
    assert f"- {warning}" in to_markdown(build(stored))


def test_equal_is_not_below():
    stored = rows(5.0, 4.5, 4.5)
    (warning,) = control_warnings(build(stored), stored)
    assert "it is not below dpo on mt-bench. There" in warning
