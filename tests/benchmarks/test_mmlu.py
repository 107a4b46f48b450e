"""MMLU: the published archive, recorded predictions, and the most likely letter under our engine."""

import zipfile

import pytest

from harness.benchmarks.base import Policy, Settings
from harness.benchmarks.files import read_rows
from harness.benchmarks.mmlu import LETTERS, MMLU, MMLUOptions, by_subject, read_archive
from harness.errors import UserError


def test_the_published_archive(data_dir):
    """57 subjects, 14,042 questions; quoted line breaks make 18,721 lines of them (data/README.md)."""
    subjects = read_archive(data_dir / "mmlu" / "mmlu.zip")
    assert len(subjects) == 57
    assert sum(len(splits["test"]) for splits in subjects.values()) == 14_042
    assert sum(len(splits["dev"]) for splits in subjects.values()) == 285
    items = MMLU().load(data_dir, Settings())
    assert len({item["id"] for item in items}) == 14_042
    assert all(len(item["examples"]) == 5 for item in items)


def test_recorded_predictions(data_dir):
    """12,343 predictions of a Llama 2: 46.92 % of questions, 46.64 % over 55 subjects (data/README.md, own count)."""
    rows = read_rows(data_dir / "mmlu" / "predictions_llama-2-7b_checkpoint-0.jsonl.gz", subject=str, answer=str)
    values = {
        f"{row['subject']}/{row['i']}": 100.0 * (str(row["prediction"]).strip() == LETTERS[int(row["answer"])])
        for row in rows
    }
    found = by_subject(values, {key: key.partition("/")[0] for key in values})
    assert len(found["subjects"]) == 55
    assert (found["micro"], found["macro"]) == (pytest.approx(46.92, abs=0.005), pytest.approx(46.64, abs=0.005))


def archive(folder, **members):
    (folder / "mmlu").mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / "mmlu" / "mmlu.zip", "w") as file:
        for name, text in members.items():
            split = name.rpartition("_")[2]
            file.writestr(f"data/{split}/{name}.csv", text)
    return folder


ROW = '"Which,\none?",one,"two, too",three,four,{}\n'


def test_the_most_likely_letter_wins(tmp_path, tiny_model_dir):
    """lm-eval's prompt with the subject's examples as turns; the choice is that of the engine's log-probabilities."""
    from harness.engines.transformers import TransformersEngine

    members = {
        f"{subject}_{split}": "".join(ROW.format(letter) for letter in letters)
        for subject in ("anatomy", "virology")
        for split, letters in (("test", "AB"), ("dev", "CD"))
    }
    settings = Settings(options=MMLUOptions(num_fewshot=2))
    items = MMLU().load(archive(tmp_path, **members), settings)
    assert [item["id"] for item in items] == ["anatomy/0", "anatomy/1", "virology/0", "virology/1"]
    engine = TransformersEngine.load(str(tiny_model_dir))
    engine.context_length = 2000
    counts = []
    samples = MMLU().answer(Policy(engine), items, settings, counts.append)
    assert sum(counts) == MMLU.turns * len(items)
    question = "Which,\none?\nA. one\nB. two, too\nC. three\nD. four\nAnswer:"
    subject = "The following are multiple choice questions (with answers) about anatomy.\n\n"
    chat = [{"role": "system", "content": subject}]
    for letter in "CD":
        chat += [{"role": "user", "content": question}, {"role": "assistant", "content": letter}]
    prompt = engine.encode_chat([*chat, {"role": "user", "content": question}])
    letters = [tuple(engine.tokenizer.convert_tokens_to_ids([letter])) for letter in LETTERS]
    scored = engine.logprobs([prompt] * 4, letters)
    assert samples[0]["logprobs"] == pytest.approx([each.total for each in scored], abs=1e-4)
    best = LETTERS[max(range(4), key=lambda index: scored[index].total)]
    assert samples[0]["choice"] == best
    score = MMLU().score(items, samples, [])
    assert score.values["anatomy/0"] == 100 * (best == "A")
    assert set(score.details["categories"]) == {"stem", "other"}  # of anatomy and virology
    assert score.details["categories"]["other"] == score.details["subjects"]["virology"]
    assert (score.details["num_fewshot"], score.details["chat"], set(score.details["subjects"])) == (
        2,
        True,
        {"anatomy", "virology"},
    )


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"anatomy_test": "a,b,c\n", "anatomy_dev": ""}, "anatomy_test.csv: row 1 must be a question"),
        ({"anatomy_test": ROW.format("E")}, "row 1 must be"),
        ({"anatomy_test": ROW.format("A")}, "subject anatomy has fewer than 5 examples"),
        ({}, "holds no test"),
    ],
)
def test_faulty_archives(tmp_path, members, said):
    with pytest.raises(UserError, match=said):
        MMLU().load(archive(tmp_path, **members), Settings())


def test_no_archive(tmp_path):
    (tmp_path / "mmlu").mkdir()
    (tmp_path / "mmlu" / "mmlu.zip").write_text("text")
    with pytest.raises(UserError, match="cannot be read"):
        MMLU().load(tmp_path, Settings())
    with pytest.raises(UserError, match="num_fewshot must be from 0 to 5"):
        MMLUOptions(num_fewshot=9)
