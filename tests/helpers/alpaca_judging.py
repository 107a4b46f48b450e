"""AlpacaEval with a judge that follows a rule."""

import math

from harness.benchmarks.base import Questions
from harness.endpoints.base import JudgeReply


class RuleJudge:
    """Replies with what a rule makes of (instruction, output shown as m, output shown as M)."""

    name = "rule"

    def __init__(self, rule) -> None:
        self.rule, self.asked = rule, []

    def complete(self, requests, advance=None):
        self.asked += requests
        return [self._reply(request) for request in requests]

    def _reply(self, request):
        answer = self.rule(*shown(request))
        error = str(answer) if isinstance(answer, Exception) else None
        text = "m" if answer and not error else "Both are good."
        return JudgeReply(request.id, text, None if error else answer, model="rule-1", error=error)


def shown(request) -> tuple[str, str, str]:
    """(instruction, output of m, output of M) as they stand in a prompt of the package."""
    text = request.messages[-1]["content"]
    head, _, outputs = text.partition('""",\n}\n\n## Model Outputs')
    outputs = outputs.partition('"model_identifier": "m",\n        "output": """')[2].rpartition('"""\n    }\n}')[0]
    first, _, second = outputs.partition('"""\n    },\n    {\n        "model_identifier": "M",\n        "output": """')
    return head.partition('"instruction": """')[2], first, second


def longer(instruction, first, second):
    """The longer output wins with probability 0.9."""
    return {"m": math.log(0.9), "M": math.log(0.1)} if len(first) > len(second) else {"M": -0.1054, "m": -2.3026}


def items(*references):
    return Questions(
        {"id": str(index), "instruction": f"question {index}", "reference": text, "generator": "r"}
        for index, text in enumerate(references)
    )


def samples(*outputs):
    return [{"id": str(index), "output": output} for index, output in enumerate(outputs)]
