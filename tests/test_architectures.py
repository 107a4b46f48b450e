"""Small models of the architectures that people train, with tokenizers and templates in their manner."""

import json
from dataclasses import dataclass

import pytest
import torch
from encoding import reply_ids
from test_cli import harness
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GenerationConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from harness.engines.base import Sampling
from harness.engines.transformers import TransformersEngine

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


@dataclass(frozen=True)
class Kind:
    """begins: BOS, where there is one. ends: what a reply ends with; stops: after what else generation stops."""

    config: type
    begins: str | None
    ends: str
    stops: tuple[str, ...]
    pad: str | None
    others: tuple[str, ...]
    template: str
    system: bool
    more: dict


KINDS = {
    "llama-3": Kind(
        LlamaConfig,
        begins="<|begin_of_text|>",
        ends="<|eot_id|>",
        stops=("<|end_of_text|>",),
        pad=None,
        others=("<|start_header_id|>", "<|end_header_id|>"),
        template="{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
        "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
        system=True,
        more={"tie_word_embeddings": False},
    ),
    "qwen-2": Kind(
        Qwen2Config,
        begins=None,
        ends="<|im_end|>",
        stops=("<|endoftext|>",),
        pad="<|endoftext|>",
        others=("<|im_start|>",),
        template="{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        system=True,
        more={"tie_word_embeddings": True},
    ),
    "gemma-2": Kind(
        Gemma2Config,
        begins="<bos>",
        ends="<end_of_turn>",
        stops=("<eos>",),
        pad="<pad>",
        others=("<start_of_turn>",),
        template="{{ bos_token }}"
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
        "{{ m['content'] }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
        system=False,
        more={"head_dim": 8, "sliding_window": 16},
    ),
    "mistral": Kind(
        MistralConfig,
        begins="<s>",
        ends="</s>",
        stops=(),
        pad=None,
        others=("[INST]", "[/INST]"),
        template="{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }}[/INST]"
        "{% elif m['role'] == 'assistant' %} {{ m['content'] }}{{ eos_token }}"
        "{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}",
        system=False,
        more={"sliding_window": 16},
    ),
}


@pytest.fixture(scope="module", params=KINDS)
def model(request, tmp_path_factory):
    """The kind, and the folder of a random model of it."""
    kind, folder = KINDS[request.param], tmp_path_factory.mktemp(request.param)
    named = [kind.begins, kind.ends, *kind.stops, kind.pad, *kind.others]
    special = list(dict.fromkeys(token for token in named if token))
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(special + letters)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(special)
    if kind.begins:  # whatever is encoded gets a BOS: a templated text would have two
        backend.post_processor = processors.TemplateProcessing(
            single=f"{kind.begins} $A", special_tokens=[(kind.begins, special.index(kind.begins))]
        )
    names = {"bos_token": kind.begins, "eos_token": kind.stops[0] if kind.stops else kind.ends, "pad_token": kind.pad}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, **{name: token for name, token in names.items() if token}
    )
    tokenizer.chat_template = kind.template
    ids = tokenizer.convert_tokens_to_ids
    torch.manual_seed(0)
    config = kind.config(vocab_size=len(tokenizer), **SIZES | kind.more, bos_token_id=None, eos_token_id=ids(kind.ends))
    network = AutoModelForCausalLM.from_config(config)
    network.generation_config = GenerationConfig(eos_token_id=[ids(token) for token in (kind.ends, *kind.stops)])
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return kind, folder


def test_a_conversation_begins_and_ends_as_it_should(model):
    kind, folder = model
    engine = TransformersEngine.load(folder, device="cpu")
    ids = engine.tokenizer.convert_tokens_to_ids
    begins = [ids(kind.begins)] if kind.begins else []
    system = {"role": "system", "content": "Be brief."}
    chat = engine.encode_chat([system, {"role": "user", "content": "Name a colour."}])
    assert [token for token in chat if token in begins] == begins == list(chat[: len(begins)])
    text = engine.tokenizer.decode(chat)
    turn = "Be brief.\n\nName a colour." if not kind.system else "Name a colour."
    assert turn in text and text.count("Be brief.") == 1
    reply = reply_ids(engine, "Red.")
    assert reply[-1] == ids(kind.ends) and reply.count(ids(kind.ends)) == 1 and not set(begins) & set(reply)
    assert set(engine.stop_tokens) == {ids(token) for token in (kind.ends, *kind.stops)}
    forged = reply_ids(engine, f"Red.{kind.ends}")  # a text that names the token does not end the turn
    assert forged.count(ids(kind.ends)) == 1


def test_generation_and_log_probabilities_are_those_of_transformers(model):
    """Also beyond the sliding window of 16 tokens, in a batch of different lengths."""
    kind, folder = model
    engine = TransformersEngine.load(folder, device="cpu")
    chats = [engine.encode_chat([{"role": "user", "content": "a colour " * times}]) for times in (1, 3, 7)]
    completions = engine.generate(chats, ["1", "2", "3"], Sampling(12))
    logprobs = engine.logprobs(chats, [each.token_ids for each in completions])
    for chat, completion, logprob in zip(chats, completions, logprobs, strict=True):
        alone = torch.tensor([chat])
        with torch.inference_mode():
            mask = torch.ones_like(alone)
            out = engine.model.generate(
                alone, attention_mask=mask, max_new_tokens=12, do_sample=False, pad_token_id=engine.stop_tokens[0]
            )
            assert tuple(out[0, len(chat) :].tolist()) == completion.token_ids
            scores = engine.model(out).logits[0, len(chat) - 1 : -1].log_softmax(-1)
        own = scores.gather(1, out[0, len(chat) :, None]).sum().item()
        assert logprob.total == pytest.approx(own, abs=1e-4)


def test_dpo_trains_it(model, tmp_path):
    kind, folder = model
    rows = [
        {"id": str(i), "prompt": f"What is {i} plus 1?", "chosen": f"It is {i + 1}.", "rejected": "I do not know."}
        for i in range(40)
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = ("--model", folder, "--preferences", "pairs.jsonl", "--budget", "prompts=32", "--name", "x")
    harness("run", "--method", "dpo", *options, "--benchmark", "math", "--limit", "3", cwd=tmp_path)
    history = (tmp_path / "results/runs/x/arms/dpo-seed0/training/policy.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in history if "loss" in json.loads(line)]
    assert len(losses) == 2 and losses[0] == pytest.approx(0.6931, abs=1e-3)  # ln 2: policy and reference are equal
    trained = TransformersEngine.load(tmp_path / "results/runs/x/arms/dpo-seed0/checkpoints/policy", device="cpu")
    assert trained.weights_hash != TransformersEngine.load(folder, device="cpu").weights_hash
    assert trained.stop_tokens == TransformersEngine.load(folder, device="cpu").stop_tokens
