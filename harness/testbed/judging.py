"""How the testbed's model is asked to judge: the short form of the additive 5-point prompt, and a pair."""

RATING_SCALE = 5


def rate_prompt(question: str, answer: str) -> str:
    """The reply to it is "Score: n" with n from 0 to 5."""
    return f"Rate the answer from 0 to {RATING_SCALE}. Question: {question} Answer: {answer}"


def pair_prompt(question: str, first: str, second: str) -> str:
    """The reply to it is "Better: A" or "Better: B"."""
    return f"Which answer is better? Question: {question} A: {first} B: {second}"
