"""IFEval: verdicts equal to recorded ones, files of several forms, responses that hang, no network, the live run."""

import gzip
import json
import math
import subprocess
import sys
import time
import zipfile

import pytest
from scripted_engine import STOP, ScriptedEngine

from harness.benchmarks.base import Policy, Settings
from harness.benchmarks.files import read_rows
from harness.benchmarks.ifeval import IFEval, score_responses
from harness.benchmarks.ifeval_checks import TRAINED, UNTRAINED, Checker, check_resources, find_model
from harness.errors import UserError

WORDS = ("length_constraints:number_words", {"num_words": 3, "relation": "at least"})
SENTENCES = ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "less than"})
COMMA = ("punctuation:no_comma", {})


@pytest.fixture(scope="module")
def checker():
    with Checker(find_model(None)) as checker:
        yield checker


@pytest.fixture
def folder(tmp_path):
    """A data folder with two questions."""
    rows = [
        {"key": 7, "prompt": "Say it\nwithout commas.", "instruction_id_list": [COMMA[0]], "kwargs": [{}]},
        {
            "key": 8,
            "prompt": "Three words, no commas.",
            "instruction_id_list": [WORDS[0], COMMA[0]],
            "kwargs": [WORDS[1] | {"language": None}, None],
        },
    ]
    write(tmp_path / "ifeval" / "input_data.jsonl", *rows)
    return tmp_path


def write(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def follows(checker, instruction, response):
    return checker.check(*instruction, "a prompt", response)


GRADED = [
    "Qwen__Qwen2.5-0.5B-Instruct-GPTQ-Int4",
    "Qwen__Qwen2.5-7B-Instruct-GPTQ-Int4",
    "claude-3-opus-20240229",
    "gpt-4o-mini-2024-07-18",
    "gpt4_20231107",
    "hugging-quants__Meta-Llama-3.1-8B-Instruct-AWQ-INT4",
    "mistralai__Mistral-7B-Instruct-v0.3",
]
# keywords:letter_frequency is "#" and "!", for which a letter is drawn; the others are verdicts of langdetect, which
# draws too, and the one text that the untrained splitter takes apart elsewhere (ifeval_checks says more).
EXPLAINED = {
    "keywords:letter_frequency",
    "change_case:english_capital",
    "change_case:english_lowercase",
    "language:response_language",
    "length_constraints:number_sentences",
}


@pytest.mark.parametrize("name", [GRADED[0], *(pytest.param(name, marks=pytest.mark.slow) for name in GRADED[1:])])
def test_verdicts_equal_the_recorded_ones(data_dir, name):
    graded = data_dir / "ifeval" / "graded"
    recorded = {
        "strict": read_rows(graded / f"{name}.strict.jsonl.gz"),
        "loose": read_rows(graded / f"{name}.loose_verdicts.jsonl"),
    }
    result = score_responses(graded / f"{name}.strict.jsonl.gz", items=True, data_dir=data_dir)
    assert (result["n"], result["missing"], result["unchecked"]) == (len(recorded["strict"]), 0, 0)
    for kind, rows in recorded.items():
        pairs = [
            (instruction, ours, theirs)
            for item, row in zip(result["items"], rows, strict=True)
            for instruction, ours, theirs in zip(
                item["instruction_id_list"], item[kind], row["follow_instruction_list"], strict=True
            )
        ]
        different = [instruction for instruction, ours, theirs in pairs if ours != theirs]
        assert len(pairs) == result["instructions"] >= 832
        assert len(different) <= 0.003 * len(pairs), different
        assert set(different) <= EXPLAINED
        recorded_share = 100 * sum(theirs for *_, theirs in pairs) / len(pairs)
        assert result[f"instruction_{kind}"] == pytest.approx(recorded_share, abs=0.3)


def test_responses_of_gpt4_without_ids(data_dir):
    """The paper (table 3) has 76.89 and 83.57 strictly; two prompts of 541 have random verdicts (ifeval_checks)."""
    path = data_dir / "ifeval" / "input_response_data_gpt4_20231107_145030.jsonl.gz"
    result = score_responses(path, items=True, data_dir=data_dir)
    assert (result["n"], result["instructions"], result["missing"]) == (541, 834, 0)
    assert abs(result["prompt_strict"] - 76.89) < 200 / 541 + 0.01
    assert abs(result["instruction_strict"] - 83.57) < 200 / 834 + 0.01
    assert len(result["groups"]) == 9 and sum(each["instructions"] for each in result["groups"].values()) == 834
    shinto = result["items"][339]  # answers the earlier wording, which asked for one placeholder
    assert shinto["strict"] == [True, True] and shinto["instruction_id_list"][1].endswith("number_placeholders")


def test_four_accuracies_by_hand(folder):
    path = write(
        folder / "responses.jsonl",
        {"prompt": "Say it\nwithout commas.", "response": "it"},  # strict 1, loose 1
        {"prompt": "Say it without  commas. ", "response": "it, it"},  # 0, 0; known in spite of its white space
        {"key": 8, "response": "no, never\nbut all words here"},  # strict 1 0; loose, without line 1: 1 1
        {"prompt": "Three words, no commas.", "response": "  "},  # empty: 0 0
        {"prompt": "Another prompt.", "response": "it"},  # missing
        {"prompt": "Three words, no commas.", "response": None},  # missing
    )
    counted = []
    result = score_responses(path, items=True, data_dir=folder, advance=counted.append)
    assert {name: result[name] for name in ("n", "instructions", "missing", "empty", "duplicates", "unchecked")} == {
        "n": 4, "instructions": 6, "missing": 2, "empty": 1, "duplicates": 2, "unchecked": 0,
    }  # fmt: skip
    assert (result["prompt_strict"], result["prompt_loose"]) == (25, 50)
    assert result["instruction_strict"] == pytest.approx(100 * 2 / 6)
    assert result["instruction_loose"] == pytest.approx(100 * 3 / 6)
    assert result["groups"] == {
        "length_constraints": {"instructions": 2, "strict": 50, "loose": 50},
        "punctuation": {"instructions": 4, "strict": 25, "loose": 50},
    }
    assert [item["strict"] for item in result["items"]] == [[True], [False], [True, False], [False, False], None, None]
    assert [item["row"] for item in result["items"]] == [1, 2, 3, 4, 5, 6] and result["items"][2]["key"] == 8
    assert sum(counted) == 6
    assert result["languages"].endswith("seed 0") and result["sentence_splitter"] in (TRAINED, UNTRAINED)
    json.dumps(result, allow_nan=False)


def test_rows_that_bring_their_instructions(tmp_path):
    """As M-IFEval writes ids and the hub's data set writes arguments; no data folder is needed."""
    row = {
        "prompt": "p",
        "instruction_id_list": ["en:" + WORDS[0], "en:" + COMMA[0]],
        "kwargs": [WORDS[1] | {"num_words": 3.0, "num_bullets": None}, {"keywords": None}],
        "response": "one two, three",
    }
    path = tmp_path / "responses.json.gz"
    path.write_bytes(gzip.compress(json.dumps([row]).encode()))
    result = score_responses(path)
    assert (result["instruction_strict"], result["prompt_strict"], result["n"]) == (50, 0, 1)


def test_no_rows_left(folder):
    result = score_responses(write(folder / "r.jsonl", {"prompt": "unknown", "response": "a"}), data_dir=folder)
    assert (result["n"], result["missing"], result["prompt_strict"], result["instruction_loose"]) == (0, 1, None, None)


FILLED = {"prompt": "p", "response": "a", "instruction_id_list": ["keywords:existence"]}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "p"}, "field 'response' is missing"),
        ({"prompt": "p", "response": 3}, "'response' must be of type str"),
        ({"response": "a"}, "neither 'prompt' nor 'key'"),
        ({"prompt": "p", "response": "a", "kwargs": [{}]}, "one object for each"),
        ({"prompt": "p", "response": "a", "instruction_id_list": [COMMA[0]], "kwargs": []}, "one object for each"),
        ({"prompt": "p", "response": "a", "instruction_id_list": [], "kwargs": []}, "must hold texts"),
        ({"prompt": "p", "response": "a", "instruction_id_list": ["es:a:b"], "kwargs": [{}]}, "unknown instruction"),
        ({"prompt": "p", "response": "a", "instruction_id_list": [WORDS[0]], "kwargs": [{}]}, "num_words, relation"),
        (FILLED | {"kwargs": [{"keywords": ["a"], "letter": "a"}]}, "unexpected keyword"),
        (FILLED | {"kwargs": [{"keywords": ["(a"]}]}, "keywords:existence: missing \\)"),
    ],
)
def test_faulty_rows(tmp_path, row, said):
    with pytest.raises(UserError, match=rf"responses\.jsonl:1: .*{said}"):
        score_responses(write(tmp_path / "responses.jsonl", row))


def test_rows_that_need_the_input_data(folder):
    path = write(folder / "r.jsonl", {"prompt": "Say it without commas.", "response": "a"})
    with pytest.raises(UserError, match=r"r\.jsonl:1: .*give --data-dir"):
        score_responses(path)
    path = write(folder / "r.jsonl", json.loads(path.read_text()) | {"instruction_id_list": [WORDS[0]]})
    with pytest.raises(UserError, match=r"r\.jsonl:1: has other instructions"):
        score_responses(path, data_dir=folder)


def test_verdicts_do_not_change_from_call_to_call(checker):
    """langdetect and the letter in the place of "#" are drawn at random upstream."""
    names = "1. *ALICE*\n2. BRIAN\n3. CAROLINE\n4. DAVID\n5. EVELYN\n6. FIONA\n7. GORDON\n8. HARRIET"
    hashes = ("keywords:letter_frequency", {"letter": "#", "let_frequency": 2, "let_relation": "at least"})
    for instruction in (("change_case:english_capital", {}), hashes):
        assert len({follows(checker, instruction, names) for _ in range(12)}) == 1


def test_typographic_quotes_end_no_sentence(checker):
    """nltk 3.10 splits after the question, and would count two sentences; the published verdicts count one."""
    assert follows(checker, SENTENCES, "He asked “Where are you?” in a low voice.") == (True, True)
    assert follows(checker, SENTENCES, "He was late. She was not.") == (False, False)


@pytest.mark.parametrize(
    ("instruction", "response"),
    [
        (("detectable_content:number_placeholders", {"num_placeholders": 1}), "[" * 1_000_000),
        (("detectable_format:json_format", {}), "[" * 1_000_000),
    ],
)
def test_responses_that_can_not_be_checked(instruction, response):
    with Checker(limit=2.0) as impatient:
        start = time.perf_counter()
        assert follows(impatient, instruction, response) is None
        assert follows(impatient, COMMA, "still works") == (True, True)
        assert time.perf_counter() - start < 60


@pytest.mark.parametrize("response", ["\0", "\ud800 ‮ \U0001f600", "\n" * 20000, "word, " * 20000])
def test_odd_responses(checker, response):
    for instruction in (WORDS, COMMA, SENTENCES, ("language:response_language", {"language": "en"})):
        assert follows(checker, instruction, response) is not None


MODEL = {
    "collocations.tab": b"",
    "sent_starters.txt": b"",
    "abbrev_types.txt": b"dr\n",
    "ortho_context.tab": b"",
}


def test_the_model_for_sentences(tmp_path, monkeypatch):
    import nltk.data

    monkeypatch.setattr(nltk.data, "path", [])
    doctor = "A friend of dr. Who came."
    assert "harness data fetch ifeval" in check_resources(tmp_path)
    with Checker(find_model(tmp_path)) as untrained:
        assert untrained.sentence_splitter == UNTRAINED
        assert follows(untrained, SENTENCES, doctor) == (False, False)
    archive = tmp_path / "nltk_data" / "tokenizers" / "punkt_tab.zip"
    archive.parent.mkdir(parents=True)
    with zipfile.ZipFile(archive, "w") as opened:
        for name, content in MODEL.items():
            opened.writestr(f"punkt_tab/english/{name}", content)
    assert check_resources(tmp_path) is None
    with Checker(find_model(tmp_path)) as trained:
        assert trained.sentence_splitter == TRAINED
        assert follows(trained, SENTENCES, doctor) == (True, True)
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(UserError, match="punkt_tab.zip: cannot be read"):
        Checker(find_model(tmp_path))


def test_nothing_is_downloaded(tmp_path):
    """The worker's preparation and every import of lm-eval in it, where each try to connect ends the process."""
    program = """
import socket, sys
from pathlib import Path
def refuse(*arguments, **options):
    print("network")
    sys.exit(3)
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from harness.benchmarks import ifeval_checks
english = Path(sys.argv[1], "tokenizers/punkt_tab/english")
english.mkdir(parents=True)
for name in ifeval_checks._MODEL_FILES:
    (english / name).write_bytes(b"")
check = ifeval_checks._prepare(sys.argv[1])
arguments = {"num_sentences": 2, "relation": "less than"}
print(check(("length_constraints:number_sentences", arguments, "", "One. Two. Three.")))
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "(False, False)\n"), done.stderr


def test_a_live_run(folder):
    benchmark = IFEval()
    items = benchmark.load(folder, Settings())
    assert [item["id"] for item in items] == ["7", "8"]
    replies = {"7": "it", "8": "one, two three"}
    engine = ScriptedEngine(lambda chat, item: replies[item.partition("/")[2]] + chr(STOP))
    samples = benchmark.answer(Policy(engine), items, Settings(), None)
    assert [sample["strict"] for sample in samples] == [[True], [True, False]]
    (chat, name, sampling), _ = engine.asked
    assert (name, sampling.temperature, sampling.max_new_tokens) == ("ifeval/7", 0.0, 1280)
    assert chat.endswith("Say it\nwithout commas.\x04") and chat.count("\x02") == 1
    score = benchmark.score(items, samples, [])
    assert (score.value, score.values, score.questions) == (50, {"7": 100, "8": 0}, 2)
    assert score.details["instruction_strict"] == pytest.approx(100 * 2 / 3)
    assert (score.details["task"], score.details["num_fewshot"], score.details["chat"]) == ("ifeval", 0, True)
    assert score.details["sentence_splitter"] in (TRAINED, UNTRAINED)
    assert math.isfinite(score.details["groups"]["punctuation"]["loose"])


def test_duplicate_keys(folder):
    path = folder / "ifeval" / "input_data.jsonl"
    path.write_text(path.read_text() * 2)
    with pytest.raises(UserError, match=r"input_data\.jsonl:3: key 7 occurs twice"):
        IFEval().load(folder, Settings())


def test_real_questions(data_dir):
    items = IFEval().load(data_dir, Settings())
    assert len(items) == len({item["id"] for item in items}) == 541
    assert sum(len(item["instruction_id_list"]) for item in items) == 834
