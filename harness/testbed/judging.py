"""How the testbed's model is asked to judge: a short form of the additive 5-point prompt, and a pair prompt."""

RATING_SCALE = 5


def rate_prompt(question: str, answer: str) -> str:
    """Return a prompt to which the reply is "Score: n" with n from 0 to 5."""
    return f"Rate the answer from 0 to {RATING_SCALE}. Question: {question} Answer: {answer}"


def pair_prompt(question: str, first: str, second: str) -> str:
    """Return a prompt to which the reply is "Better: A" or "Better: B"."""
    return f"Which answer is better? Question: {question} A: {first} B: {second}"
