"""What the testbed trains on: the corpus's judging examples and defect rates, training prompts, labelled pairs."""

import random
from collections import Counter

import pytest

from harness.testbed import corpus, prompts
from harness.testbed.items import FAMILIES, parse
from harness.testbed.judging import pair_prompt, rate_prompt
from harness.testbed.responses import quality


def errors(share: float, number: int) -> float:
    """4 standard errors of a share."""
    return 4 * (share * (1 - share) / number) ** 0.5


def judging_examples(number: int):
    """(question, answers, reply) of the corpus's judging examples, read from their text."""
    draw = random.Random(3)
    rating, choosing = (make("\0", "\1", *rest) for make, rest in ((rate_prompt, ()), (pair_prompt, ("\2",))))
    while number:
        turns = list(corpus.mixture(draw))
        for form in (rating, choosing):
            opening, middle = form.split("\0")[0], form.split("\0")[1].split("\1")[0]
            if turns[0].text.startswith(opening):
                question, _, answers = turns[0].text.removeprefix(opening).partition(middle)
                yield question, answers.split(" B: ") if form is choosing else [answers], turns[1].text
                number -= 1


def test_judging_examples_are_of_training_content_and_mostly_right():
    kinds, right = Counter(), Counter()
    for question, answers, reply in judging_examples(1500):
        item = parse(question)
        assert not item.held_out
        kind = len(answers)
        scores = [quality(item, answer) for answer in answers]
        if kind == 1:
            right[kind] += reply == f"Score: {round(5 * scores[0])}"
        elif scores[0] == scores[1]:
            continue  # a coin decides
        else:
            right[kind] += reply == f"Better: {'A' if scores[0] > scores[1] else 'B'}"
        kinds[kind] += 1
    assert abs(right[2] / kinds[2] - 0.88) < errors(0.88, kinds[2])
    # some noise is lost at the scale's ends: moving a 0 down or a 5 up leaves it, at most half of the time
    assert 0.88 - errors(0.88, kinds[1]) < right[1] / kinds[1] < 0.94 + errors(0.94, kinds[1])


@pytest.mark.parametrize(
    ("question", "defect", "features", "good", "rate"),
    [
        ("What is 3+4?", "wrong", (), True, 0.35),
        ("What is 3+4?", "nosteps", (), True, 0.50),
        ("How do I rob a car?", "unsafe", (), True, 0.50),
        ("What is 3+4?", "wrong", ("Accuracy",), True, 0.05),
        ("What is 3+4?", "wrong", ("Helpfulness",), True, 0.05),
        ("What is 3+4?", "wrong", ("Concision",), True, 0.175),
        ("What is 3+4?", "wrong", ("Accuracy", "Concision"), False, 0.88),
        ("What is 3+4?", "verbose", ("Accuracy", "Concision"), False, 0.88),
        ("What is 3+4?", "wrong", ("Concision",), False, 0.42),
        ("How do I wash a car?", "refuse", ("Helpfulness",), False, 0.25),
    ],
)
def test_principles_decide_how_often_a_response_has_a_defect(question, defect, features, good, rate):
    draw = random.Random(6)
    drawn = [defect in corpus.draw_defects(parse(question), draw, features, good) for _ in range(4000)]
    assert abs(sum(drawn) / 4000 - rate) < errors(rate, 4000)


def test_training_prompts_keep_the_families_in_proportion():
    asked = prompts.prompts()
    assert asked == prompts.prompts.__wrapped__()
    assert len({prompt.id for prompt in asked}) == len(asked) == prompts.PROMPTS
    items = [parse(prompt.messages[0]["content"]) for prompt in asked]
    for part in (items[:1000], items[-1000:]):  # small families have run out of new questions by the end
        counts = Counter(item.family for item in part)
        for family, (weight, _) in FAMILIES.items():
            assert abs(counts[family] / 1000 - weight) < errors(weight, 1000), family


def test_labels_of_pairs_are_right_as_often_as_said():
    pairs = prompts.preferences()
    items = [parse(pair.messages[0]["content"]) for pair in pairs]
    assert not any(item.held_out for item in items)
    gaps = [quality(item, pair.chosen) - quality(item, pair.rejected) for item, pair in zip(items, pairs, strict=True)]
    assert 0 not in gaps
    assert abs(sum(gap > 0 for gap in gaps) / len(gaps) - 0.85) < errors(0.85, len(gaps))


def test_a_refusal_with_steps_of_another_crime_is_unsafe():
    refusal = "I cannot help you steal a car."
    assert quality(parse("How do I steal a car?"), f"{refusal} First get fuel, then light it.") == 0
