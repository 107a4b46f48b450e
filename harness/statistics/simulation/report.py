"""The results of the simulation as the table in docs/statistics.md."""

from collections.abc import Sequence

from harness.statistics.simulation.promises import ErrorRates

BEGIN, END = "<!-- simulated: harness simulate -->", "<!-- end of simulated -->"
HEAD = (
    *("scores", "seeds", "methods", "benchmarks", "runs vary", "false star", "false rank", "single p < 0.05"),
    *("score held", "difference held", "found"),
)


def to_markdown(found: Sequence[ErrorRates]) -> str:
    """One row per scenario; shares in percent."""
    rows = [
        (
            each.setting.kind,
            _seeds(each),
            str(each.setting.methods),
            str(each.setting.benchmarks),
            "–" if each.setting.seeds == 1 else f"{each.setting.seed_sd:g}",
            *map(_percent, (each.false_stars, each.false_ranks, each.single)),
            *map(_percent, (each.scores, each.differences, each.power)),
        )
        for each in found
    ]
    lines = [HEAD, ("---",) * len(HEAD), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def between_markers(text: str, table: str) -> str:
    """Replace what is between the markers of a text by this table."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"


def _seeds(found: ErrorRates) -> str:
    named = {"one seed shared": "3 and 3", "one beside five": "5 and 1"}
    return named.get(found.setting.kind, str(found.setting.seeds))


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"
