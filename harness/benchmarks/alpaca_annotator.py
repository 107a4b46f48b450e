"""AlpacaEval's own annotator, with completions from a judge."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import isnan
from types import SimpleNamespace
from typing import Any

from harness.benchmarks.alpaca_win_rates import KEYS, import_package
from harness.endpoints.base import JudgeReply
from harness.judges.verdicts import letter_logprobs
from harness.thoughts import spoken
from harness.types import Message

Pair = dict[str, Any]  # KEYS -> text, and SWITCHED
Complete = Callable[[Sequence[Pair], Sequence[Message]], list[JudgeReply]]
SWITCHED = "is_switched_outputs"  # the package's column: output_1 is shown second
ANNOTATOR = "weighted_alpaca_eval_gpt4_turbo"
LETTERS = ("m", "M")  # the judge's name for the first and the second output shown
# Patterns for the package's regex_parser: a letter in a text is alone, except for marks around it.
TEXT_LETTERS = {
    number: rf"\A\W*(?:(?i:best model identifier)\W*)?{letter}\W*\Z" for number, letter in enumerate(LETTERS, 1)
}


def annotate(pairs: Sequence[Pair], complete: Complete) -> list[float | None]:
    """Return preferences by the package's annotator: its order of each pair and reading of letters, our completions.

    Args:
        complete: gets the pairs as they are shown, each with SWITCHED, and the template of the messages.

    Returns:
        1 (the first output wins) to 2 for each pair, 1.5 if both outputs are the same, None without a letter.
    """
    annotator = _annotator(complete)
    with _without_bar():
        annotated = annotator([dict(pair) for pair in pairs], chunksize=None)
    preferences = {key_of(row): row["preference"] for row in annotated}
    return [_number(preferences.get(key_of(pair))) for pair in pairs]


@contextmanager
def _without_bar() -> Iterator[None]:
    """Inside, the package shows no progress bar: all pairs are one chunk, and we show progress ourselves.

    It has no option for that: `dataframe_chunk_generator` always gets a label, which turns the bar on.
    """
    from alpaca_eval import utils

    bar = utils.tqdm
    utils.tqdm = SimpleNamespace(tqdm=lambda chunks, **_options: chunks)
    try:
        yield
    finally:
        utils.tqdm = bar


def _annotator(complete: Complete) -> Any:
    """Return the package's annotator with our completions; nothing is cached or written.

    It shuffles and swaps pairs and reads the letters. It does not fill the prompt, because it would also replace
    "{output_2}" inside an output: its "prompts" are the pairs as they are shown, its completions our replies. The
    package takes such functions by name from its own modules only, hence the assignments to the annotator.
    """
    import_package()
    from alpaca_eval.annotators import PairwiseAnnotator

    def completions(prompts: Sequence[Pair], template: Sequence[Message]) -> dict[str, list[Any]]:
        answers = complete(prompts, template)
        free = [0.0] * len(answers)
        return {"completions_all": answers, "price_per_example": free, "time_per_example": free}

    annotator = PairwiseAnnotator(annotators_config=ANNOTATOR, caching_path=None)
    (single,) = annotator.annotators.values()
    parse = single.fn_completion_parser
    single.completions_kwargs = {"template": _messages(single.prompt_template)}
    single.fn_completions = completions
    single._make_prompts = lambda frame: (frame[[*KEYS, SWITCHED]].to_dict("records"), frame)
    single.fn_completion_parser = lambda reply: _preference(reply, parse)
    return annotator


def key_of(pair: Pair) -> tuple[str, ...]:
    """Return what identifies a pair: its texts."""
    return tuple(pair[name] for name in KEYS)


def _number(preference: float | None) -> float | None:
    """Return a preference from 1 to 2, with a tie (0 for equal outputs) as 1.5; None if the judge gave none."""
    if preference is None or isnan(preference):
        return None
    return float(preference) or 1.5


def _messages(template: str) -> list[Message]:
    """Return the system and user message of the package's template; chat marks inside an output have no effect."""
    turns = [turn.partition("\n") for turn in template.split("<|im_start|>")[1:]]
    return [{"role": role, "content": rest.partition("<|im_end|>")[0].strip()} for role, _, rest in turns]


def has_letter(reply: JudgeReply) -> bool:
    """Whether a reply has a preference."""
    return _preference(reply, lambda _completion: [1.0])[0] is not None


def _preference(reply: JudgeReply, parse: Callable[[dict[str, Any]], list[float | None]]) -> list[float | None]:
    """Parse log-probabilities with the package's `parse`, or the text with its regex_parser if there are none."""
    from alpaca_eval.completion_parsers import regex_parser

    if letters := letter_logprobs(reply.first_token, LETTERS):
        return parse(_as_openai(reply.text, letters))
    text = None if reply.error or reply.cut or reply.first_token else spoken(reply.text)
    numbers = regex_parser(text, dict(TEXT_LETTERS)) if text else []
    return [float(numbers[0]) if numbers else None]


def _as_openai(text: str, letters: dict[str, float]) -> dict[str, Any]:
    """Return a reply in the form that the package's parser reads."""
    top = [{"token": token, "logprob": logprob} for token, logprob in letters.items()]
    return {"text": text, "logprobs": {"content": [{"token": text, "top_logprobs": top}]}}
