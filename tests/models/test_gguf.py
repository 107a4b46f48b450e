"""`--model FILE.gguf`: unpacked once below the results, then trained and scored as a folder is."""

import json

import pytest
from command_line import harness

from harness.errors import UserError
from harness.models.gguf import is_gguf, unpack
from harness.models.packaged import PACKAGED, PackagedModel

gguf = pytest.importorskip("gguf")

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LAYERS, HIDDEN, FEED_FORWARD, HEADS, KV_HEADS = 2, 32, 64, 4, 2


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A random Llama with a byte-level tokenizer, as llama.cpp's converter writes such files."""
    import numpy as np
    from tokenizers import pre_tokenizers

    path = tmp_path_factory.mktemp("gguf") / "Tiny-F32.gguf"
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = specials + sorted(pre_tokenizers.ByteLevel.alphabet()) + ["th"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_token_types([control if token in specials else normal for token in tokens])
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    draw = np.random.default_rng(0)

    def add(name, *shape):
        writer.add_tensor(name, draw.normal(0, 0.05, shape).astype(np.float32))

    add("token_embd.weight", len(tokens), HIDDEN)
    writer.add_tensor("output_norm.weight", np.ones(HIDDEN, np.float32))
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{block}.{norm}.weight", np.ones(HIDDEN, np.float32))
        add(f"{block}.attn_q.weight", HIDDEN, HIDDEN)
        for part in ("attn_k", "attn_v"):
            add(f"{block}.{part}.weight", HIDDEN * KV_HEADS // HEADS, HIDDEN)
        add(f"{block}.attn_output.weight", HIDDEN, HIDDEN)
        for part in ("ffn_gate", "ffn_up"):
            add(f"{block}.{part}.weight", FEED_FORWARD, HIDDEN)
        add(f"{block}.ffn_down.weight", HIDDEN, FEED_FORWARD)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_file_is_unpacked_once_with_its_digest_and_template(file, tmp_path, capsys):
    folder = unpack(str(file), tmp_path)
    source = json.loads((folder / "gguf.json").read_text())
    assert source["model"] == str(file) and folder.name == f"Tiny-F32-{source['sha256'][:12]}"
    assert "<|im_start|>assistant" in (folder / "chat_template.jinja").read_text()
    assert "unpacking" in capsys.readouterr().err
    assert unpack(str(file), tmp_path) == folder and not capsys.readouterr().err


def test_a_run_trains_and_scores_it(file, tmp_path):
    small = (
        "--budget",
        "updates=2",
        "--limit",
        "4",
        "--benchmark",
        "math",
        "--max-new-tokens",
        "8",
        "--answer-tokens",
        "8",
    )
    data = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"Say {word}.", "chosen": word, "rejected": "no"} for word in ("one", "two", "three", "four")]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("run", "--method", "dpo", "--model", file, "--preferences", data, "--set", "dpo.batch_size=2", *small)
    harness(*words, cwd=tmp_path)
    assert [folder.name[:8] for folder in (tmp_path / "results/models").iterdir()] == ["Tiny-F32"]
    experiment = (tmp_path / "results/runs/experiment/experiment.yaml").read_text()
    assert "model: results/models/Tiny-F32-" in experiment
    assert (tmp_path / "results/runs/experiment/arms/dpo-seed0/scores/math.json").exists()


def test_what_is_not_a_gguf_file_is_refused(tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF\x03\0\0\0")
    with pytest.raises(UserError, match="broken.gguf: transformers cannot read this GGUF file"):
        unpack(str(broken), tmp_path / "models")
    assert not list((tmp_path / "models").glob("*"))
    assert "give a GGUF file" in harness("run", "--method", "base", "--model", "absent.gguf", cwd=tmp_path, code=2)
    assert is_gguf("HuggingFaceTB/SmolLM2-135M-Instruct-GGUF:smollm2-135m-instruct-q8_0.gguf") and not is_gguf("gguf")


def test_a_model_that_the_hub_does_not_give_is_taken_from_a_package(file, tmp_path, monkeypatch):
    name, package = "nobody/tiny", tmp_path / "tiny_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / file.name).write_bytes(file.read_bytes())
    monkeypatch.setitem(PACKAGED, name, PackagedModel("tiny-package", "tiny_package", file.name))
    arguments = ("run", "--model", name, "--method", "base", "--benchmark", "math", "--limit", 2, "--name", "packaged")
    assert "pip install tiny-package" in harness(*arguments, cwd=tmp_path, code=2)
    monkeypatch.syspath_prepend(tmp_path)
    harness(*arguments, cwd=tmp_path)
    experiment = (tmp_path / "results/runs/packaged/experiment.yaml").read_text()
    assert f"model: results/models/{file.stem}-" in experiment
