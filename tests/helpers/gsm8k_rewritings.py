"""Ways of writing the answer of a GSM8K solution, right ones and wrong ones, and 10,000 responses made in them.

A wrong answer is one that a person who reads it would not take for the gold number. Golds are whole numbers above 4.
"""

import random
import re
from collections.abc import Callable, Iterator

Rewriting = Callable[[str, int], str]  # (the solution without its last line, the gold number) -> a response

RIGHT: dict[str, Rewriting] = {
    "marked": lambda steps, n: f"{steps}\n#### {n}",
    "marked, priced": lambda steps, n: f"{steps}\n#### ${n:,}.00",
    "marked, in bold": lambda steps, n: f"{steps}\n\n#### **{n}**",
    "marked, with a unit": lambda steps, n: f"{steps}\n#### {n} pieces in 2 boxes",
    "mark above its number": lambda steps, n: f"{steps}\n####\n{n}",
    "title above its number": lambda steps, n: f"{steps}\n\n#### Final Answer\n\n**{n}**",
    "boxed": lambda steps, n: f"{steps}\nTherefore $\\boxed{{{n}}}$.",
    "boxed, twice as a fraction": lambda steps, n: f"{steps}\n\\[\\boxed{{\\dfrac{{{2 * n}}}{{2}}}}\\]",
    "boxed, with a text": lambda steps, n: f"{steps}\n$\\boxed{{{n}\\text{{ dollars}}}}$",
    "boxed, with TeX's comma": lambda steps, n: f"{steps}\n$\\boxed{{{f'{n:,}'.replace(',', '{,}')}}}$",
    "in words": lambda steps, n: f"{steps}\nThe answer is {n}.",
    "in words, checked": lambda steps, n: f"{steps}\nSo the answer is {n}, as 3 checks show. I took 7 minutes.",
    "Answer:": lambda steps, n: f"{steps}\n\n**Answer:** {n} apples, which is 6 a day",
    "Answer: below": lambda steps, n: f"{steps}\n\nFinal Answer:\n\n{n}",
    "equation": lambda steps, n: f"{steps}\nThe answer is {n - 3} + 3 = {n}",
    "by headings": lambda steps, n: f"#### Step 1: think\n{steps}\n\n#### Step 2: conclude\nThat makes {n} in all.",
    "next question": lambda steps, n: (
        f"{steps}\n#### {n}\n\nQuestion: Bo has {n} pens and 2 more. How many?\nAnswer: {n} + 2 = {n + 2}\n#### {n + 2}"
    ),
    "spaced thousands": lambda steps, n: f"{steps}\n#### {f'{n:,}'.replace(',', ' ')}",
    "restated": lambda steps, n: f"**Question:** How many are there in {n + 1} boxes?\n\n{steps}\n#### {n}",
    "sum": lambda steps, n: f"{steps}\n#### {n - 2} + 2",
}
WRONG: dict[str, Rewriting] = {
    "another number": lambda steps, n: f"{steps}\n#### {n + 1}",
    "another number below": lambda steps, n: f"#### {n}\nNo, that is wrong.\n#### {n + 1}",
    "negative": lambda steps, n: f"#### -{n}",
    "negative, spaced": lambda steps, n: f"#### - {n}",
    "in millions": lambda steps, n: f"The answer is {n} million.",
    "boxed, in millions": lambda steps, n: f"$\\boxed{{{n}}}$ million",
    "half of it": lambda steps, n: f"\\boxed{{\\frac{{{n}}}{{2}}}}",
    "half of it, inline": lambda steps, n: f"The answer is {n}/2.",
    "mixed": lambda steps, n: f"The answer is {n} 2/3.",
    "mixed, Unicode": lambda steps, n: f"\\boxed{{{n}½}}",
    "power": lambda steps, n: f"\\boxed{{{n}^2}}",
    "power, Unicode": lambda steps, n: f"The answer is {n}²",
    "product": lambda steps, n: f"\\boxed{{{n} \\times 7}}",
    "scientific": lambda steps, n: f"The answer is {n}e3",
    "range": lambda steps, n: f"The answer is {n}-{n + 5}.",
    "range in words": lambda steps, n: f"The answer is between {n - 2} and {n}.",
    "choice": lambda steps, n: f"The answer is {n} or {n + 2}.",
    "pair of boxes": lambda steps, n: f"The answer is \\boxed{{{n - 1}}} or \\boxed{{{n}}}",
    "interval": lambda steps, n: f"\\boxed{{[{n}, {n + 5}]}}",
    "ratio": lambda steps, n: f"The answer is {n}:3",
    "time": lambda steps, n: f"The answer is {n}:30",
    "denied": lambda steps, n: f"The answer is not {n}.",
    "more than": lambda steps, n: f"The answer is more than {n}.",
    "twice": lambda steps, n: f"The answer is twice {n}.",
    "bound": lambda steps, n: f"\\boxed{{x > {n}}}",
    "either sign": lambda steps, n: f"\\boxed{{\\pm {n}}}",
    "root": lambda steps, n: f"\\boxed{{\\sqrt{{{n}}}}}",
    "factorial": lambda steps, n: f"\\boxed{{{n}!}}",
    "variable": lambda steps, n: f"\\boxed{{{n}x}}",
    "thousands": lambda steps, n: f"The answer is {n}k",
    "more digits, spaced": lambda steps, n: f"The answer is {n} 000",
    "decimals": lambda steps, n: f"The answer is {n}.5 dollars",
    "compound": lambda steps, n: f"The answer is {n} hours 30 minutes",
    "and a half": lambda steps, n: f"The answer is {n} and a half",
    "cut off in its box": lambda steps, n: f"That gives \\boxed{{{n}",
    "title of a section": lambda steps, n: (
        f"#### {n % 90 + 5}. Count them\n{n} each\n\n#### {n % 90 + 6}. Sum\n{n + 9} in all"
    ),
    "invented next": lambda steps, n: f"5 + 4 = 9\n#### 9{n}\n\nQuestion: And now?\nAnswer: #### {n}",
    "answered next": lambda steps, n: f"It is 9{n}. The answer is 9{n}.\n\nQ: What is {n}?\nA: The answer is {n}.",
    "question": lambda steps, n: f"Is the answer {n}? No, the answer is 9{n}.",
    "empty box": lambda steps, n: f"{n} is what I first thought, but \\boxed{{}}",
    "percent of": lambda steps, n: f"The answer is {n}% of 20.",
    "below zero": lambda steps, n: f"The answer is {n} degrees below zero.",
    "minus": lambda steps, n: f"The answer is minus {n}.",
    "range, dashed": lambda steps, n: f"It takes {n - 1}–{n} days",
    "unmarked choice": lambda steps, n: f"It takes {n + 1} or {n} days",
    "unmarked fraction": lambda steps, n: f"She gets 1/{n}",
    "unmarked millions": lambda steps, n: f"There are {n} million",
    "unmarked power": lambda steps, n: f"That makes 10^{n}",
}


def responses(golds: list[tuple[str, int]], number: int, seed: int = 0) -> Iterator[tuple[str, bool, str, int]]:
    """`number` of (rewriting, whether it is right, response, gold), each rewriting equally often.

    Args:
        golds: solutions in the data set's form, and their numbers.
    """
    draw = random.Random(seed)
    ways = [(name, right, way) for right, group in ((True, RIGHT), (False, WRONG)) for name, way in group.items()]
    for place in range(number):
        name, right, way = ways[place % len(ways)]
        solution, gold = golds[draw.randrange(len(golds))]
        steps = re.sub(r"<<.*?>>", "", solution.rpartition("####")[0]).strip()
        yield name, right, way(steps, gold), gold
