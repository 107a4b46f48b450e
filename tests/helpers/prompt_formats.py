"""Rows in every format in which prompts and preferences are published, with what they are read as."""

from chat_messages import SYSTEM, assistant, user

CALL = {"type": "function", "function": {"name": "weather", "arguments": "{}"}}


RAIN = {"role": "tool", "content": "rain"}


FORMATS = {
    "prompt": ({"prompt": "Q"}, [user("Q")], None, None),
    "question": ({"question": "Q", "answer": "ignored"}, [user("Q")], None, None),
    "problem": ({"problem": "Q"}, [user("Q")], None, None),
    "instruction": ({"instruction": "Q", "input": " ", "output": "A"}, [user("Q")], None, None),
    "instruction and input": ({"instruction": "Q", "input": "I"}, [user("Q\n\nI")], None, None),
    "self-instruct": ({"instruction": "Q", "instances": [{"input": "I", "output": "A"}]}, [user("Q\n\nI")], None, None),
    "self-instruct without input": ({"instruction": "Q", "instances": [{"input": ""}]}, [user("Q")], None, None),
    "MT-Bench": ({"question_id": 81, "turns": ["Q", "R"]}, [user("Q")], None, None),
    "messages": ({"messages": [SYSTEM, user("Q"), assistant("A")]}, [SYSTEM, user("Q")], None, None),
    "several turns": (
        {"messages": [user("Q"), assistant("A"), user("R"), assistant("B")]},
        [user("Q"), assistant("A"), user("R")],
        None,
        None,
    ),
    "ShareGPT": (
        {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
        [user("Q")],
        None,
        None,
    ),
    "TRL standard": ({"prompt": "Q", "chosen": "A", "rejected": "B"}, [user("Q")], "A", "B"),
    "TRL conversational": (
        {"prompt": [SYSTEM, user("Q")], "chosen": [assistant("A")], "rejected": [assistant("B")]},
        [SYSTEM, user("Q")],
        "A",
        "B",
    ),
    "TRL implicit prompt": (
        {"chosen": [user("Q"), assistant("A")], "rejected": [user("Q"), assistant("B")]},
        [user("Q")],
        "A",
        "B",
    ),
    "UltraFeedback": (
        {"prompt": "Q", "chosen": [user("Q"), assistant("A")], "rejected": [user("Q"), assistant("B")]},
        [user("Q")],
        "A",
        "B",
    ),
    "LLaMA-Factory": (
        {
            "conversations": [{"from": "human", "value": "Q"}],
            "chosen": {"from": "gpt", "value": "A"},
            "rejected": {"from": "gpt", "value": "B"},
        },
        [user("Q")],
        "A",
        "B",
    ),
    "output over rejected": ({"instruction": "Q", "output": "A", "rejected": "B"}, [user("Q")], "A", "B"),
    "UltraFeedback with a system message": (
        {"prompt": "Q", "chosen": [SYSTEM, user("Q"), assistant("A")], "rejected": [SYSTEM, user("Q"), assistant("B")]},
        [SYSTEM, user("Q")],
        "A",
        "B",
    ),
    "a prompt of messages that the replies repeat": (
        {"prompt": [user("Q")], "chosen": [user("Q"), assistant("A")], "rejected": [assistant("B")]},
        [user("Q")],
        "A",
        "B",
    ),
    "TRL implicit prompt in standard form": (
        {"chosen": "Q: sky? A: Blue.", "rejected": "Q: sky? A: Green."},
        [user("Q: sky? A:")],
        " Blue.",
        " Green.",
    ),
    "TRL implicit prompt that diverges early": (
        {
            "chosen": [user("Q"), assistant("A"), user("Why?"), assistant("C")],
            "rejected": [user("Q"), assistant("B"), user("Why?"), assistant("D")],
        },
        [user("Q")],
        (assistant("A"), user("Why?"), assistant("C")),
        (assistant("B"), user("Why?"), assistant("D")),
    ),
    "replies of several turns": (
        {"prompt": [user("Q")], "chosen": [assistant("A"), user("R"), assistant("B")], "rejected": [assistant("C")]},
        [user("Q")],
        (assistant("A"), user("R"), assistant("B")),
        "C",
    ),
    "a prompt that ends with the assistant": (
        {"prompt": [user("Q"), assistant("It is")], "chosen": " A", "rejected": " B"},
        [user("Q"), assistant("It is")],
        " A",
        " B",
    ),
    "a prompt that ends with a system message": ({"prompt": [user("Q"), SYSTEM]}, [user("Q"), SYSTEM], None, None),
    "Intel's orca pairs": (
        {"system": "Be brief.", "question": "Q", "chosen": "A", "rejected": "B"},
        [SYSTEM, user("Q")],
        "A",
        "B",
    ),
    "an empty system column": ({"system_prompt": "", "question": "Q"}, [user("Q")], None, None),
    "ShareGPT with a system column": (
        {"system": "Be brief.", "conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
        [SYSTEM, user("Q")],
        None,
        None,
    ),
    "Alpaca with history": (
        {"instruction": "Q", "history": [["O", "P"]], "system": "Be brief."},
        [SYSTEM, user("O"), assistant("P"), user("Q")],
        None,
        None,
    ),
    "parts that are texts": (
        {"prompt": [{"role": "user", "content": [{"type": "text", "text": "Q"}, {"type": "text", "text": "R"}]}]},
        [user("QR")],
        None,
        None,
    ),
    "a developer's message": (
        {"prompt": [{"role": "developer", "content": "Be brief."}, user("Q")]},
        [{"role": "developer", "content": "Be brief."}, user("Q")],
        None,
        None,
    ),
    "a call of a function": (
        {
            "prompt": [user("Rain?"), {"role": "assistant", "content": None, "tool_calls": [CALL]}, RAIN],
            "chosen": [assistant("Yes.")],
            "rejected": [{"role": "assistant", "content": None, "tool_calls": [CALL]}],
        },
        [user("Rain?"), {"role": "assistant", "tool_calls": [CALL]}, RAIN],
        "Yes.",
        ({"role": "assistant", "tool_calls": [CALL]},),
    ),
    "a thought": (
        {"prompt": [user("Q")], "chosen": [{**assistant("A"), "reasoning_content": "Hm."}], "rejected": "B"},
        [user("Q")],
        ({**assistant("A"), "reasoning_content": "Hm."},),
        "B",
    ),
    "HH-RLHF": (
        {
            "chosen": "\n\nHuman: Q\n\nAssistant: A\n\nHuman: R\n\nAssistant: B",
            "rejected": "\n\nHuman: Q\n\nAssistant: A\n\nHuman: R\n\nAssistant: C",
        },
        [user("Q"), assistant("A"), user("R")],
        "B",
        "C",
    ),
    "HH-RLHF with a turn inside a reply": (
        {
            "chosen": "\n\nHuman: Q\n\nAssistant: A Human: R\n\nAssistant: more",
            "rejected": "\n\nHuman: Q\n\nAssistant: B",
        },
        [user("Q")],
        "A Human: R\n\nAssistant: more",
        "B",
    ),
    "HH-RLHF with two assistant turns": (
        {
            "chosen": "\n\nHuman: Q\n\nAssistant: A\n\nAssistant: B\n\nHuman: R\n\nAssistant: C",
            "rejected": "\n\nHuman: Q\n\nAssistant: A\n\nAssistant: B\n\nHuman: R\n\nAssistant: D",
        },
        [user("Q"), assistant("A\n\nB"), user("R")],
        "C",
        "D",
    ),
}
