"""AlpacaEval's own annotator, asked through a judge."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import isnan
from types import SimpleNamespace

from harness.benchmarks.alpaca_win_rates import KEYS, import_package
from harness.endpoints.base import JudgeReply
from harness.judges.verdicts import letter_logprobs
from harness.thoughts import spoken
from harness.types import Message

Pair = dict[str, str]  # KEYS -> text
SWITCHED = "is_switched_outputs"  # the package's column: output_1 is shown second
ANNOTATOR = "weighted_alpaca_eval_gpt4_turbo"
LETTERS = ("m", "M")  # the judge's name for the first and the second output shown
# What the package's regex_parser takes for a letter in a text: it stands alone, but for marks around it.
TEXT_LETTERS = {
    number: rf"\A\W*(?:(?i:best model identifier)\W*)?{letter}\W*\Z" for number, letter in enumerate(LETTERS, 1)
}


def annotate(
    pairs: Sequence[Pair], complete: Callable[[Sequence[Pair], Sequence[Message]], list[JudgeReply]]
) -> list[float | None]:
    """Preferences by the package's annotator: its order of each pair and its reading of the letters, our completions.

    Args:
        complete: gets the pairs as they are to be shown, each with SWITCHED, and the template of the messages.

    Returns:
        1 (the first output wins) to 2 of each pair, 1.5 where both outputs are the same, None without a letter.
    """
    annotator = _annotator(complete)
    with _without_bar():
        annotated = annotator([dict(pair) for pair in pairs], chunksize=None)
    preferences = {_key(row): row["preference"] for row in annotated}
    return [_number(preferences.get(_key(pair))) for pair in pairs]


@contextmanager
def _without_bar() -> Iterator[None]:
    """Inside, the package shows no bar of its own: all pairs are one chunk, and progress is ours to show."""
    from alpaca_eval import utils

    bar = utils.tqdm
    utils.tqdm = SimpleNamespace(tqdm=lambda chunks, **_options: chunks)
    try:
        yield
    finally:
        utils.tqdm = bar


def _annotator(complete: Callable):
    """The package's annotator with our completions; nothing is cached or written.

    It shuffles and swaps pairs and reads the letters. It does not fill the prompt: it would replace "{output_2}" inside
    an output too. Its "prompts" are the pairs as they are to be shown, its completions our replies.
    """
    import_package()
    from alpaca_eval.annotators import PairwiseAnnotator

    def completions(prompts: Sequence[Pair], template: Sequence[Message]) -> dict[str, list]:
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


def _key(pair: Pair) -> tuple:
    """What a pair is recognized by."""
    return tuple(pair[name] for name in KEYS)


def _number(preference: float | None) -> float | None:
    """1 to 2, a tie (0 for equal outputs) as 1.5; None where the judge gave none."""
    if preference is None or isnan(preference):
        return None
    return float(preference) or 1.5


def _messages(template: str) -> list[Message]:
    """The system and the user message of the package's template; an output can hold marks of a chat without effect."""
    turns = [turn.partition("\n") for turn in template.split("<|im_start|>")[1:]]
    return [{"role": role, "content": rest.partition("<|im_end|>")[0].strip()} for role, _, rest in turns]


def _preference(reply: JudgeReply, parse: Callable[[dict], list[float]]) -> list[float | None]:
    """By the package's `parse` of log-probabilities; by its regex_parser of the text where there are none."""
    from alpaca_eval.completion_parsers import regex_parser

    if letters := letter_logprobs(reply.first_token, LETTERS):
        return parse(_as_openai(reply.text, letters))
    text = None if reply.error or reply.cut or reply.first_token else spoken(reply.text)
    found = regex_parser(text, dict(TEXT_LETTERS)) if text else []
    return [float(found[0]) if found else None]


def _as_openai(text: str, letters: dict[str, float]) -> dict:
    """A reply as the package's parser wants it."""
    top = [{"token": token, "logprob": logprob} for token, logprob in letters.items()]
    return {"text": text, "logprobs": {"content": [{"token": text, "top_logprobs": top}]}}
