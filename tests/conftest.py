"""Fixtures that tests share: a tiny random model, the embedded model, the real benchmark data."""

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from paths import ROOT

os.environ.setdefault("HF_HUB_OFFLINE", "1")

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

# Files (test_*.py) that carry out runs or trainings or start many processes, about the longest first: make check leaves
# them out. To look again: pytest -m "not integration" --durations 40.
INTEGRATION = """
    faults regression kill tuning trajectory recount cli write_faults hidden_inputs ifeval bench exports
    real_rows sso_trainer trl_habits examples reward_model_bench alpaca_annotations alpaca_interval alpaca_win_rates
    math_responses math verify rejudge launch live_scores earlier trainer memory methods_testbed
    reward_model tracking judge_audit endpoint plugins sources judge_modes judge_faults simulation planning
    architectures testbed_model testbed_training cost report_browser hostile_texts judged_benchmarks
    score_cases gsm8k lm_eval_task arena_hard xstest saveable counting extras gguf checkpoints snapshots four_bits
""".split()
DATA_FIXTURES = {"data_dir", "golden"}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks tests by file and fixture, skips slow ones unless asked for, and puts the longest files first, so that
    workers end at the same time."""
    order = {f"test_{name}": place for place, name in enumerate(INTEGRATION)}
    wants_slow = "slow" in config.option.markexpr
    for item in items:
        if item.path.stem in order:
            item.add_marker(pytest.mark.integration)
        if DATA_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.data)
        if item.get_closest_marker("slow") and not wants_slow:
            item.add_marker(pytest.mark.skip(reason="takes minutes with its like: -m slow, or make test-all"))
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.fixture(scope="module", autouse=True)
def no_server_is_left():
    """A server that was closed and not shut down spins on its socket for as long as the tests go on."""
    yield
    assert not [thread.name for thread in threading.enumerate() if "serve_forever" in thread.name]


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory) -> Path:
    """A randomly initialised Llama with a byte-level tokenizer and a chat template, on disk."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    specials = ["<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(specials + letters)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(specials)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<|pad|>", eos_token="<|end|>")
    tokenizer.chat_template = CHAT_TEMPLATE
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )
    folder = tmp_path_factory.mktemp("tiny-model")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def testbed_model_dir() -> Path:
    from harness.models.folder import MODEL_DIR

    if not (MODEL_DIR / "model.safetensors").exists():
        pytest.skip("the embedded model is not built: harness testbed build")
    return MODEL_DIR


@pytest.fixture(scope="session")
def finished_run(testbed_model_dir, tmp_path_factory) -> Callable[..., Path]:
    """finished_run(*options): a folder in which `harness run` with these options has finished, made once for all test
    files and workers. Tests change copies of it only."""
    from command_line import harness
    from filelock import FileLock

    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base  # which the workers share

    def finished(*options: object) -> Path:
        place = base / f"run-{hashlib.sha256(repr(options).encode()).hexdigest()[:12]}"
        with FileLock(f"{place}.lock"):
            if not (place / "finished").exists():
                place.mkdir(exist_ok=True)
                harness("run", *options, cwd=place)
                (place / "finished").touch()
        return place

    return finished


@pytest.fixture(scope="session")
def data_dir() -> Path:
    folder = Path(os.environ.get("HARNESS_DATA_DIR", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no benchmark data at {folder}: set HARNESS_DATA_DIR")
    return folder


@pytest.fixture
def judge_key(monkeypatch) -> str:
    """A key of an endpoint in the environment, which no text may show."""
    from openai_endpoint import KEY

    from harness.endpoints.client import KEY_VARIABLE

    monkeypatch.setenv(KEY_VARIABLE, KEY)
    return KEY
