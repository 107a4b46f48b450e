"""What the stored rows of each benchmark hold: questions (items), answers (samples) and judgments.

They are plain JSON objects in run folders; fields marked NotRequired may be missing in older files.
"""

from typing import Any, NotRequired, TypedDict


class GSM8KExample(TypedDict):
    """A few-shot example."""

    question: str
    answer: str


class TaskSettings(TypedDict):
    """How lm-eval asked the questions. protocol: of MATH alone."""

    task: str
    num_fewshot: int
    chat: bool
    lm_eval: str
    protocol: NotRequired[str]


class Grade(TypedDict):
    """The verdicts on a graded response, 0.0 or 1.0, and what was extracted from it.

    strict, math_verify: see `harness.benchmarks.math_answers.Grader`. extracted: None if there is no answer.
    strict_match, flexible_extract: lm-eval's exact match after its filters (GSM8K). minerva: lm-eval's (MATH).
    gave_up: present if a comparison took too long, and so counts as wrong.
    """

    strict: float
    math_verify: float
    extracted: str | None
    strict_match: NotRequired[float]
    flexible_extract: NotRequired[float]
    minerva: NotRequired[float]
    gave_up: NotRequired[bool]


class GradedSample(Grade):
    """A graded response with its question's id."""

    id: str
    response: str
    settings: TaskSettings


class GSM8KItem(TypedDict):
    """A question of GSM8K."""

    id: str
    question: str
    answer: str
    examples: list[GSM8KExample]


class MathItem(TypedDict):
    """answer: the gold answer, without the rest of its solution. protocol: "boxed" or "minerva"."""

    id: str
    prompt: str
    answer: str
    subject: str
    level: int
    protocol: str


class MMLUQuestion(TypedDict):
    """A row of the archive. answer: index of the right choice."""

    question: str
    choices: list[str]
    answer: int


class MMLUItem(MMLUQuestion):
    """A question of MMLU."""

    id: str
    subject: str
    examples: list[MMLUQuestion]


class MMLUSample(TypedDict):
    """choice: the likeliest letter. logprobs: of the four letters, nats."""

    id: str
    choice: str
    logprobs: list[float]
    category: str
    settings: TaskSettings


class IFEvalItem(TypedDict):
    """kwargs: the arguments of each instruction."""

    id: str
    prompt: str
    instruction_id_list: list[str]
    kwargs: list[dict[str, Any]]


class IFEvalVerdicts(TypedDict):
    """A verdict per instruction. unchecked: how many instructions could not be checked in time."""

    strict: list[bool]
    loose: list[bool]
    unchecked: int


class IFEvalSample(IFEvalVerdicts):
    """An answer to a prompt of IFEval, with its verdicts."""

    id: str
    response: str
    settings: dict[str, Any]  # TaskSettings and the checkers' versions


class JudgePrompt(TypedDict):
    """A judge prompt of FastChat. name: absent in RewardBench's items."""

    name: NotRequired[str]
    system: str
    template: str


class MTBenchItem(TypedDict):
    """reference: both turns of a reference answer, for the categories that are graded against one."""

    id: str
    category: str
    turns: list[str]
    reference: list[str] | None
    reference_file: str
    judge_prompts: list[JudgePrompt]


class MTBenchSample(TypedDict):
    """One entry per turn in each list."""

    id: str
    turns: list[str]
    finished: list[bool]
    tokens: list[int]


class MTBenchJudgment(TypedDict):
    """A row in FastChat's format. judge: name and prompt. score: -1 without a verdict."""

    question_id: int
    turn: int
    judge: list[str]
    user_prompt: str
    judgment: str
    score: float
    error: str | None
    finish_reason: str | None
    form: list[str]
    fingerprint: str | None
    date: str | None


class AlpacaItem(TypedDict):
    """official_index: place in the official set, None if the instruction is not in it."""

    id: str
    instruction: str
    reference: str
    generator: NotRequired[str]
    official_index: NotRequired[int | None]


class AlpacaSample(TypedDict):
    """An answer to an instruction of AlpacaEval."""

    id: str
    output: str
    finished: NotRequired[bool]
    tokens: NotRequired[int]


class AlpacaAsking(TypedDict):
    """One time that a pair was shown to the judge. preference: 1 (the reference wins) to 2, None without a verdict.

    policy_first, text: None if the judge was not asked, because both outputs are the same.
    """

    preference: float | None
    policy_first: bool | None
    text: str | None
    first_token: dict[str, float] | None
    finish_reason: str | None
    form: list[str]
    error: str | None


class AlpacaReply(AlpacaAsking):
    """A pair's asking with what else is known of the judge's reply."""

    judge: str | None
    fingerprint: str | None
    date: str | None


class AlpacaJudgment(TypedDict):
    """preference: mean over the askings with a verdict, None if there is none."""

    id: str
    preference: float | None
    judge: str | None
    error: str | None
    fingerprint: str | None
    date: str | None
    askings: NotRequired[list[AlpacaAsking]]


class ArenaItem(TypedDict):
    """A question of Arena-Hard. reference: the baseline's answer; None where the untrained model is the baseline."""

    id: str
    category: str
    prompt: str
    baseline: str
    reference: str | None
    judge_prompt: JudgePrompt


class ArenaSample(TypedDict):
    """An answer with the baseline's."""

    id: str
    output: str
    reference: str
    finished: bool
    tokens: int


class ArenaAsking(TypedDict):
    """A time that a pair was shown to the judge. preference: its verdict, such as "A>>B", None without one."""

    preference: str | None
    policy_first: bool
    text: str
    finish_reason: str | None
    form: list[str]
    error: str | None


class ArenaJudgment(TypedDict):
    """scores: outcomes for the model from both orders, 1 for a win, [] without both verdicts.

    askings: none where both answers are the same.
    """

    id: str
    scores: list[float]
    judge: str | None
    error: str | None
    fingerprint: str | None
    date: str | None
    askings: list[ArenaAsking]


class RewardBenchItem(TypedDict):
    """count: official number of examples in the subset. sections: all sections of the data folder.

    judge_prompt: in the generative mode alone.
    """

    id: str
    subset: str
    section: str
    count: int
    sections: list[str]
    prompt: str
    chosen: str
    rejected: str
    judge_prompt: NotRequired[JudgePrompt]


class PairSample(TypedDict):
    """A pair's result in one of three modes (`harness.benchmarks.reward_bench_modes`).

    too_long: present if the pair does not fit the model's context; then nothing below is there.
    beta, *_logprob, *_tokens, *_reference_logprob: mode "implicit", in nats; None without a reference.
    *_reward: mode "classifier". choices, texts: mode "generative", one per asking.
    training: how the reward model was trained (benchmark reward-model).
    """

    id: str
    mode: str
    too_long: NotRequired[bool]
    beta: NotRequired[float | None]
    chosen_logprob: NotRequired[float]
    chosen_tokens: NotRequired[int]
    chosen_reference_logprob: NotRequired[float | None]
    rejected_logprob: NotRequired[float]
    rejected_tokens: NotRequired[int]
    rejected_reference_logprob: NotRequired[float | None]
    chosen_reward: NotRequired[float]
    rejected_reward: NotRequired[float]
    choices: NotRequired[list[str | None]]
    texts: NotRequired[list[str]]
    training: NotRequired[dict[str, Any]]


class BestOfQuestion(TypedDict):
    """A question of RewardBench 2. responses: the right ones first. right: how many these are."""

    prompt: str
    responses: list[str]
    right: int


class BestOfItem(TypedDict):
    """questions: one, or in the subset Ties the reference and the tied one. judge_prompt: in the generative mode."""

    id: str
    subset: str
    questions: list[BestOfQuestion]
    judge_prompt: NotRequired[JudgePrompt]


class BestOfSample(TypedDict):
    """What was read of an item, by question and response.

    too_long: present if a response does not fit the model's context; then nothing below is there.
    beta, logprobs, tokens, reference_logprobs: mode "implicit", in nats; None without a reference.
    rewards: the other modes; a rating is None without a verdict. texts: mode "generative".
    """

    id: str
    mode: str
    too_long: NotRequired[bool]
    beta: NotRequired[float | None]
    logprobs: NotRequired[list[list[float]]]
    tokens: NotRequired[list[list[int]]]
    reference_logprobs: NotRequired[list[list[float]] | None]
    rewards: NotRequired[list[list[float | None]]]
    texts: NotRequired[list[list[str]]]


class XSTestItem(TypedDict):
    """label: "safe" or "unsafe". focus: the phrase that a prompt is about."""

    id: str
    prompt: str
    type: str
    label: str
    focus: str
    judge_prompt: str


class XSTestSample(TypedDict):
    """An answer to a prompt of XSTest."""

    id: str
    output: str
    finished: bool
    tokens: int


class XSTestJudgment(TypedDict):
    """preference: the class of the answer (`harness.judges.verdicts.REFUSALS`), None without a verdict."""

    id: str
    preference: str | None
    text: str
    judge: str
    error: str | None
    finish_reason: str | None
    form: list[str]
    fingerprint: str | None
    date: str | None


class LMEvalContext(TypedDict):
    """A conversation (begun: its last message begins the answer), or a plain text."""

    messages: NotRequired[list[dict[str, Any]]]
    begun: NotRequired[bool]
    text: NotRequired[str]


class LMEvalRequest(TypedDict):
    """What is asked after a context (its place in the item): the log-probability of a continuation, or a text.

    generation: lm-eval's normalized settings.
    """

    context: int
    continuation: NotRequired[str]
    generation: NotRequired[dict[str, Any]]


class LMEvalItem(TypedDict):
    """A document of an lm-eval task with all that is asked about it.

    repeats: how often a text is sampled. greedy: whether a metric asks if continuations are greedy.
    settings: how the task is asked and scored, the same for each item.
    """

    id: str
    doc: dict[str, Any]
    contexts: list[LMEvalContext]
    requests: list[LMEvalRequest]
    repeats: int
    greedy: bool
    settings: dict[str, Any]


class LMEvalSample(TypedDict):
    """responses: by request and repeat, a text or [log-probability (nats), whether it is greedy, None if not asked].

    too_long: present if the question does not fit the context; then there are no responses.
    """

    id: str
    responses: NotRequired[list[list[Any]]]
    too_long: NotRequired[bool]
