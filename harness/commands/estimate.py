"""Prints what a run would do and cost."""

from collections.abc import Iterator, Mapping
from typing import Any

from harness.commands.output import print_facts, print_rows
from harness.methods.prompts import MOST_EPOCHS


def print_estimate(planned: dict[str, Any]) -> None:
    print_plan(planned)
    _print_cost(planned["cost"])


def print_plan(planned: Mapping[str, Any]) -> None:
    """Print how the budget is divided: a `harness.stages.plan.RunPlan`."""
    columns = ("method", "stage", "queries", "examples", "updates", "trained tokens", "FLOPs")
    rows = [
        (method, *(stage[name] for name in ("stage", "queries", "examples", "updates", "trained_tokens")), flops(stage))
        for method, plan in planned["methods"].items()
        for stage in plan["stages"]
    ]
    size = f"{planned['parameters']:,} parameters, {planned['ledger']} FLOPs"
    print_rows(columns, rows, title=f"Plan under {planned['budget']} per run, {size}")
    print(f"{planned['seeds']} seed(s) per method: {planned['flops']:.3g} FLOPs in total, without scoring")
    for name, method in planned["methods"].items():
        if (method["epochs"] or 0) > 1:
            many = f": more than {MOST_EPOCHS} help little" if method["epochs"] > MOST_EPOCHS else ""
            print(f"{name}: {method['epochs']:.1f} passes over its prompts or pairs{many}")
    if tuning := planned["tuning"]:
        for method, trials in tuning["methods"].items():
            print(f"{method}: tuning tries {', '.join(trials['options'][0])} in {tuning['trials']} trials")
        answers = f"including answers to {tuning['prompts']} held-out prompts per trial"
        print(f"Tuning: {tuning['flops']:.3g} FLOPs in total, {answers}")


def flops(stage: dict[str, Any]) -> str:
    return f"{stage['flops']:.3g}"


def _print_cost(cost: dict[str, Any]) -> None:
    hours, memory, judge, disk = (cost[name] for name in ("hours", "memory", "judge", "disk"))
    dated = f" at list prices of {judge['prices']}" if judge["prices"] else ""
    price = "of unknown price (--judge-price)" if judge["usd"] is None else f"{judge['usd']:,.2f} USD{dated}"
    sizes = f"training {_size(memory['training_gib'])}, generating {_size(memory['generating_gib'])}"
    fits = {None: "", True: ", fits", False: f", does NOT fit {cost['speed']['memory']} GiB"}[memory["fits"]]
    if here := cost["here"]:
        print(f"On this machine, as measured: about {_time(24 * here['days'])} ({_by_role(here['hours'])})")
        if memory := here["memory"]:
            needed = _size(max(memory["training_gib"], memory["generating_gib"]))
            verdict = "fits" if memory["fits"] else "does NOT fit"
            print(f"  memory: about {needed} of {_size(memory['machine_gib'])}, {verdict}")
    for line in _lengths(cost):
        print(line)
    print(f"Cost on {cost['gpus']} x {cost['speed']['name']}:")
    facts = {
        "time": f"about {_time(24 * cost['days'])}" + (f" on all {cost['gpus']} devices" if cost["gpus"] > 1 else ""),
        "of one device": _by_role(hours),
        "memory of a device": sizes + fits,
        **({"what would fit": _ways(memory["remedies"])} if memory["fits"] is False else {}),
        "judge": f"{judge['calls']:,} calls, {price}" if judge["calls"] else "no calls",
        "disk": f"checkpoints {_size(disk['checkpoints_gib'])}, texts {_size(disk['texts_gib'])}, and "
        f"{_size(disk['state_gib'])} while a stage trains",
    }
    print_facts(facts, 2)


def _lengths(cost: Mapping[str, Any]) -> Iterator[str]:
    """Say how long answers are taken to be."""
    for measured, said in ((True, "Measured on a few questions"), (False, "Assumed")):
        names = [
            f"{each['tokens']:.0f} tokens per {name} answer"
            for name, each in cost["answers"].items()
            if each["measured"] == measured
        ]
        if names:
            yield f"{said}: {', '.join(names)}"
    if made := cost["completions"]:
        ends = f"of which {made['finished']:.0%} end before their limit"
        yield f"Measured on a few prompts: {made['tokens']:.0f} tokens per completion, {ends}"


def _by_role(hours: dict[str, float]) -> str:
    return " + ".join(f"{name} {_time(value)}" for name, value in hours.items() if value)


def _ways(remedies: dict[str, float]) -> str:
    return "; or ".join(f"{way}: {gib:.0f} GiB" for way, gib in remedies.items()) or "nothing known here"


def _size(gib: float) -> str:
    return f"{gib:.1f} GiB" if gib >= 0.1 or not gib else f"{1024 * gib:.0f} MiB"


def _time(hours: float) -> str:
    """Return a number of hours as people read it."""
    seconds = 3600 * hours
    for unit, length in (("days", 86400), ("hours", 3600), ("min", 60)):
        if seconds >= 2 * length:
            number = seconds / length
            return f"{number:.0f} {unit}" if number >= 10 else f"{number:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 else "less than 1 s"
