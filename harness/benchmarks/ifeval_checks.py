"""IFEval's instructions, checked by lm-eval's own checkers in a separate process.

There, a response that would keep a regular expression busy for hours can be stopped, random choices are seeded, and
nltk finds its sentence splitter in one folder that we fill, so nothing is ever downloaded. If nltk's trained model
("punkt_tab") is not installed, an untrained one that knows no abbreviations replaces it.

Verdicts can differ from those that others recorded with the same checkers (at most 2 in 834 in the graded files of
Google and M-IFEval):
- keywords:letter_frequency of prompts 1122 and 1129 asks for "#" and "!", which are not letters: the checkers draw a
  random letter, separately for the strict and the loose verdict. Ours is that of seed 0 in both ("y"); with other
  seeds, or with the mark itself, 2 or 3 verdicts differ in the file that differs most.
- change_case:english_capital, change_case:english_lowercase and language:response_language: langdetect is random too,
  and unstable on lists of names, single words and text in two languages.
- length_constraints:number_sentences: one verdict, and only with the untrained model, which takes the "o." of
  "in o. Let's" for an initial and does not split there (GPT-4, prompt 1174, loose).
"""

import logging
import random
import re
import tempfile
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness.benchmarks.worker import NoAnswer, Worker
from harness.errors import UserError

LIMIT = 30.0  # seconds per instruction and response, strict and loose: 10,000 characters take under one
TRAINED, UNTRAINED = "punkt_tab", "punkt, untrained"
_MODEL = "tokenizers/punkt_tab"
_Request = tuple[str, dict[str, Any], str, str]  # instruction id, arguments, prompt, response
_MODEL_FILES = ("collocations.tab", "sent_starters.txt", "abbrev_types.txt", "ortho_context.tab")


class Checker:
    """Checks one instruction at a time; the process ends with the context.

    model: where nltk's trained model is (`find_model`); None uses an untrained one.
    sentence_splitter: the model that splits sentences, TRAINED or UNTRAINED.
    """

    def __init__(self, model: Path | None = None, limit: float = LIMIT) -> None:
        texts = _read_model(model) if model else None
        self.sentence_splitter = TRAINED if texts else UNTRAINED
        self._folder = tempfile.TemporaryDirectory(prefix="harness-ifeval-")
        english = Path(self._folder.name, _MODEL, "english")
        english.mkdir(parents=True)
        for name in _MODEL_FILES:
            (english / name).write_bytes(texts[name] if texts else b"")
        self._worker = Worker(_prepare, self._folder.name, limit=limit)

    def __enter__(self) -> "Checker":
        return self

    def __exit__(self, *_error: object) -> None:
        self._worker.close()
        self._folder.cleanup()

    def check(
        self, instruction_id: str, arguments: dict[str, Any], prompt: str, response: str
    ) -> tuple[bool, bool] | None:
        """Return whether a response follows an instruction, (strictly, loosely); None if the check does not finish.

        Raises:
            UserError: for an unknown instruction, or arguments that it cannot be checked with.
        """
        try:
            answer = self._worker.call((instruction_id, arguments, prompt, response))
        except NoAnswer:
            return None
        match answer:
            case str():
                raise UserError(answer)
            case (bool(strict), bool(loose)):
                return strict, loose
        return None

    def tools(self) -> dict[str, str]:
        """Return the versions that the verdicts depend on besides the responses."""
        return {
            "lm_eval": version("lm-eval"),
            "languages": f"langdetect {version('langdetect')}, seed 0",
            "sentence_splitter": self.sentence_splitter,
        }


def check_resources(data_dir: Path | None = None) -> str | None:
    """Return a notice to show before a run if nltk's trained model is not installed; None if it is."""
    if find_model(data_dir):
        return None
    return (
        "IFEval: nltk's punkt_tab is not installed, so an untrained model splits sentences and some verdicts of "
        "length_constraints:number_sentences differ; to get it: harness data fetch ifeval"
        + (f" --data-dir {data_dir}" if data_dir else "")
    )


def find_model(data_dir: Path | None) -> Path | None:
    """Find the folder or archive of nltk's English model, in a data folder (its nltk_data) or where nltk looks."""
    if data_dir and (model := _model_in(data_dir / "nltk_data")):
        return model
    import nltk.data  # takes a second or two

    return next(filter(None, map(_model_in, map(Path, nltk.data.path))), None)


def _model_in(folder: Path) -> Path | None:
    archive, english = folder / f"{_MODEL}.zip", folder / _MODEL / "english"
    if all((english / name).is_file() for name in _MODEL_FILES):
        return english
    return archive if archive.is_file() else None


def _read_model(model: Path) -> dict[str, bytes]:
    """Return the model's files by name.

    Raises:
        UserError: when they cannot be read.
    """
    try:
        if model.is_dir():
            return {name: (model / name).read_bytes() for name in _MODEL_FILES}
        with zipfile.ZipFile(model) as opened:
            return {name: opened.read(f"punkt_tab/english/{name}") for name in _MODEL_FILES}
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{model}: cannot be read ({error}); remove it and fetch it again") from None


def _prepare(nltk_data: str) -> Callable[[_Request], tuple[bool, bool] | str | None]:
    """Prepare the process; return the function that checks (instruction id, arguments, prompt, response)."""
    logging.disable()  # langdetect logs its failures with the whole response
    import langdetect
    import nltk.data

    nltk.data.path[:] = [nltk_data]  # before importing lm-eval, which downloads what is not there
    _split_as_published()
    langdetect.DetectorFactory.seed = 0
    from lm_eval.tasks.ifeval import utils
    from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT

    def check(request: _Request) -> tuple[bool, bool] | str | None:
        instruction_id, arguments, prompt, response = request
        if instruction_id not in INSTRUCTION_DICT:
            return f"unknown instruction {instruction_id!r:.80}"
        if problem := _problem(INSTRUCTION_DICT[instruction_id](instruction_id), arguments):
            return f"arguments of {instruction_id}: {problem}"
        example = utils.InputExample(0, [instruction_id], prompt, [arguments])
        verdicts = []
        try:
            for test in (utils.test_instruction_following_strict, utils.test_instruction_following_loose):
                random.seed(0)
                verdicts.append(test(example, response).follow_all_instructions)
        except (RecursionError, TimeoutError):  # JSON nested too deeply; nltk's own limit
            return None
        except (TypeError, ValueError, AttributeError, re.error) as error:  # such as a keyword that is not a pattern
            return f"arguments of {instruction_id}: {error}"
        return bool(verdicts[0]), bool(verdicts[1])

    return check


def _split_as_published() -> None:
    """Remove typographic quotes from nltk's punctuation, which has them since 3.10.

    With them, a sentence ends at each quoted question; the published verdicts were made without. nltk has no public
    setting for its punctuation.
    """
    from nltk.tokenize.punkt import PunktLanguageVars

    def without_quotes(pattern: str) -> str:
        return re.sub(r"\\u201[89cd]|\\x[ab]b|[\u2018\u2019\u201c\u201d\xab\xbb]", "", pattern)

    realignment, non_word = PunktLanguageVars.re_boundary_realignment, PunktLanguageVars()._re_non_word_chars
    PunktLanguageVars.re_boundary_realignment = re.compile(without_quotes(realignment.pattern), re.MULTILINE)
    PunktLanguageVars._re_non_word_chars = without_quotes(non_word)


def _problem(instruction: Any, arguments: dict[str, Any]) -> str | None:
    """Return why an instruction cannot be checked with these arguments, None if it can."""
    given = {name: value for name, value in arguments.items() if value}
    lacking = [name for name in instruction.get_instruction_args_keys() if name not in given]
    if lacking:  # lm-eval would draw random ones
        return f"{', '.join(lacking)} must be given"
    try:
        instruction.build_description(**given)
    except (TypeError, ValueError, AttributeError) as error:
        return str(error)
    return None
