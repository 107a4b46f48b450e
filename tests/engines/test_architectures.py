"""Small models of the architectures that people train, with tokenizers and templates in their manner."""

import json
import math
from dataclasses import dataclass

import pytest
import small_models
import torch
from command_line import harness
from datasets import Dataset
from encoding import reply_ids
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    GenerationConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)
from trl import DPOConfig, DPOTrainer

from harness.engines.base import Sampling
from harness.engines.flex import flex_packed_attention
from harness.engines.logprobs import attend_packed, logprobs_and_balance, sequence_logprobs
from harness.engines.packing import NotPacked, pack, packed_attention
from harness.engines.reading import how_to_balance, how_to_read, tell
from harness.engines.transformers import TransformersEngine
from harness.errors import UserError

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
    ends = [ids(token) for token in (kind.ends, *kind.stops)]
    eos = ends if kind.stops else ends[0]  # in config.json, Llama 3.1 and Gemma 3 have lists
    config = kind.config(vocab_size=len(tokenizer), **SIZES | kind.more, bos_token_id=None, eos_token_id=eos)
    network = AutoModelForCausalLM.from_config(config)
    network.generation_config = GenerationConfig(eos_token_id=ends)
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
    reply, end = reply_ids(engine, "Red."), ids(kind.ends)
    assert reply.count(end) == 1 and not set(begins) & set(reply)
    assert not engine.tokenizer.decode(reply[reply.index(end) + 1 :]).strip()  # a new line at most
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


# Every architecture


def test_over_a_hundred_architectures_are_built():
    assert len(small_models.built()) > 100
    assert set(small_models.LEFT_OUT) <= set(small_models.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tokens(length: int, first: int) -> tuple[int, ...]:
    return tuple(3 + (first + 37 * step) % 83 for step in range(length))


X, Y = tokens(9, 1), tokens(3, 50)
PAIRS = [(X, tokens(7, 30)), (Y, tokens(12, 20)), (X, tokens(3, 11)), (Y, tokens(1, 70))]


def own_logprobs(model, pairs) -> torch.Tensor:
    """By the model's own forward pass, each sequence by itself."""
    sums = []
    for prompt, completion in pairs:
        logits = model(input_ids=torch.tensor([[*prompt, *completion]]), use_cache=False).logits[0]
        logps = logits[len(prompt) - 1 : -1].float().log_softmax(-1)
        sums.append(logps.gather(1, torch.tensor(completion)[:, None]).sum())
    return torch.stack(sums)


def gradients(model, sums) -> dict[str, torch.Tensor]:
    model.zero_grad()
    (sums * torch.linspace(-1, 1, len(sums))).sum().backward()
    return {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}


def check_reading(model, pairs=PAIRS) -> str:
    """How the model is read, once that is right: log-probabilities, and the gradient of every parameter."""
    reading = how_to_read(model)
    expected = own_logprobs(model, pairs)
    wanted = gradients(model, expected)
    with attend_packed(model, reading):
        found = sequence_logprobs(model, pack(pairs), reading)
        got = gradients(model, found)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert got.keys() == wanted.keys()
    largest = max(each.abs().max().item() for each in wanted.values())
    for name, gradient in wanted.items():
        assert torch.allclose(got[name], gradient, rtol=1e-3, atol=1e-5 * largest), name
    return reading.described


@pytest.mark.parametrize("model_type", small_models.built())
def test_log_probabilities_and_gradients_are_the_models_own(model_type):
    check_reading(small_models.small_model(model_type))


LONG = [(tokens(40, 5), tokens(30, 9)), (tokens(40, 5), tokens(8, 2)), (X, tokens(7, 30))]


@pytest.mark.parametrize(
    ("model_type", "more", "reading"),
    {
        "sinks": ("gpt_oss", {}, "packed sdpa"),
        "a window that attention is told of": ("mistral", {"sliding_window": 40}, "packed sdpa"),
        "a window that only the mask knows": ("phimoe", {"sliding_window": 40}, "padded"),
        "chunks": ("llama4_text", {"attention_chunk_size": 40}, "padded"),
        "a local window in a buffer": ("gpt_neo", {"window_size": 40}, "padded"),
        "selected tokens": ("deepseek_v32", {"index_topk": 40}, "one by one"),
        "arguments are not handed on": ("nemotron", {}, "padded"),
        "a recurrent state": ("mamba", {}, "padded"),
        "a convolution": ("lfm2", {"layer_types": ["conv", "full_attention"]}, "padded"),
        "alibi": ("falcon", {"alibi": True}, "padded"),
        "a rope that grows with the sequence": (
            "phi3",
            {
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 10000.0,
                    "short_factor": [1.0] * 4,
                    "long_factor": [4.0] * 4,
                    "original_max_position_embeddings": 60,
                }
            },
            "packed sdpa",
        ),
    }.values(),
    ids=str,
)
def test_what_short_sequences_do_not_show(model_type, more, reading):
    """Windows, chunks and selections are longer than the sequences that are compared when a model is loaded."""
    assert check_reading(small_models.small_model(model_type, **more), LONG) == reading


def test_sinks_by_flex_attention():
    model = small_models.small_model("gpt_oss")
    reading = how_to_read(model, "flex")
    assert reading.described == "packed flex"
    with torch.no_grad(), attend_packed(model, reading):
        found = sequence_logprobs(model, pack(PAIRS), reading)
    torch.testing.assert_close(found, own_logprobs(model, PAIRS), rtol=0, atol=1e-4)


@pytest.mark.parametrize("attend", [packed_attention, flex_packed_attention])
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"position_bias": torch.zeros(1, 4, 5, 5)},
            "position_bias",
        ),  # even one that changes nothing yet: it would train
        ({"is_causal": False}, "later tokens"),
        ({"packed": None}, "pass arguments on"),
    ],
)
def test_an_attention_argument_that_is_not_known_is_not_ignored(attend, more, message):
    states = torch.zeros(1, 4, 5, 8)
    arguments = {"packed": pack([(X[:2], X[:3])]), "position_ids": None, "use_cache": False} | more
    with pytest.raises(NotPacked, match=message):
        attend(torch.nn.Identity(), states, states, states, None, **arguments)


def test_untrained_weights_do_not_hide_what_a_model_does():
    """A model whose output does not depend on its attention yet: the comparison alone would see no difference."""
    model = small_models.small_model("lfm2", layer_types=["conv", "full_attention"])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "out_proj" in name:
                parameter.zero_()
    assert not how_to_read(model).packs


@pytest.mark.parametrize("model_type", ["mixtral", "gpt_oss", "jamba"])
def test_the_load_balancing_loss_is_that_of_a_padded_batch(model_type):
    model = small_models.small_model(model_type)
    reading = how_to_balance(model, how_to_read(model), "it")
    rows = [[*prompt, *completion] for prompt, completion in PAIRS]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask, output_router_logits=True, use_cache=False).aux_loss
        with attend_packed(model, reading):
            found = logprobs_and_balance(model, pack(PAIRS), reading, torch.ones(len(PAIRS)))[1]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("model_type", ["llama", "deepseek_v3"])
def test_a_model_without_a_load_balancing_loss_is_refused_by_name(model_type):
    model = small_models.small_model(model_type)
    with pytest.raises(UserError, match="router_aux_loss_coef.*the-model"):
        how_to_balance(model, how_to_read(model), "the-model")


# Through the front door


@pytest.fixture
def trained(tmp_path, tiny_model_dir):
    """Trains a small model of an architecture by DPO, with the tiny model's tokenizer: two updates. Returns the
    history, and the folders of the model before and after."""

    def run(model_type: str, *options: str, **more):
        tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
        network = small_models.small_model(
            model_type, vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, bos_token_id=None, **more
        )
        network.config.pad_token_id = network.generation_config.pad_token_id = tokenizer.pad_token_id
        folder = tmp_path / "model"
        network.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        rows = [
            {"id": str(i), "prompt": f"{i}+1?", "chosen": f"It is {i + 1}.", "rejected": "No idea."} for i in range(32)
        ]
        (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
        given = (
            "--model",
            folder,
            "--preferences",
            "pairs.jsonl",
            "--budget",
            "prompts=32",
            "--name",
            "x",
            "--limit",
            "2",
        )
        options = ("--set", "dpo.learning_rate=0.01", "--set", "dpo.lr_scheduler=constant", *options)
        harness("run", "--method", "dpo", *given, "--benchmark", "math", "--limit", "2", *options, cwd=tmp_path)
        arm = tmp_path / "results/runs/x/arms/dpo-seed0"
        history = [json.loads(line) for line in (arm / "training/policy.jsonl").read_text().splitlines()]
        return history, folder, arm / "checkpoints/policy"

    return run


def changed(before, after) -> set[str]:
    """The names of the weights that training changed."""
    first, second = (load_file(folder / "model.safetensors") for folder in (before, after))
    assert first.keys() == second.keys()
    return {name for name, values in first.items() if not torch.equal(values, second[name])}


def test_sinks_are_trained(trained, tmp_path):
    """As TRL's DPOTrainer trains them."""
    history, before, after = trained("gpt_oss", max_position_embeddings=512)
    assert len(history) == 2 and history[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    ours = changed(before, after)
    assert {"model.layers.0.self_attn.sinks", "model.layers.1.self_attn.sinks"} <= ours
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    dataset = Dataset.from_list([{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in rows])
    arguments = DPOConfig(
        output_dir=str(tmp_path / "trl"),
        max_steps=2,
        learning_rate=0.01,
        lr_scheduler_type="constant",
        router_aux_loss_coef=0.0,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        gradient_checkpointing=False,
    )
    trainer = DPOTrainer(
        AutoModelForCausalLM.from_pretrained(before),
        args=arguments,
        train_dataset=dataset,
        processing_class=AutoTokenizer.from_pretrained(before),
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "trl"))
    assert {name for name in changed(before, tmp_path / "trl") if "sinks" in name} == {
        name for name in ours if "sinks" in name
    }


def test_a_model_that_does_not_pack_trains_and_says_so_once(trained, capsys):
    history, before, after = trained("nemotron", max_position_embeddings=512)
    assert history[0]["loss"] == pytest.approx(math.log(2), abs=1e-6) and changed(before, after)
    tell.cache_clear()
    assert [TransformersEngine.load(each, device="cpu").reading.described for each in (before, after)] == ["padded"] * 2
    assert [line for line in capsys.readouterr().err.splitlines() if "packed" in line] == [
        "NemotronForCausalLM is read in padded batches, not packed: its layers do not pass arguments on to attention; "
        "scoring and training take longer"
    ]


@pytest.mark.parametrize("checkpointing", ["false", "true"])
def test_router_jitter_is_off_while_policy_and_reference_are_compared(trained, checkpointing):
    options = ("--set", f"dpo.gradient_checkpointing={checkpointing}")
    history, *_ = trained("mixtral", *options, max_position_embeddings=512, router_jitter_noise=0.3)
    assert history[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert history[0]["margin"] == pytest.approx(0, abs=1e-5)


def test_a_mixture_that_returns_router_logits_generates_and_trains_on_their_loss(trained):
    history, before, after = trained(
        "mixtral", "--set", "dpo.router_aux_loss_coef=0.5", max_position_embeddings=512, output_router_logits=True
    )
    first = history[0]
    assert first["loss"] == pytest.approx(math.log(2) + 0.5 * first["aux_loss"], abs=1e-5) and first["aux_loss"] >= 1
    assert json.loads((after / "config.json").read_text())["output_router_logits"] is True
    engine = TransformersEngine.load(before, device="cpu")
    assert len(engine.generate([X, Y], ["1", "2"], Sampling(4))) == 2


def test_a_load_balancing_loss_of_a_dense_model_is_refused(trained, tmp_path):
    with pytest.raises(AssertionError, match="router_aux_loss_coef"):
        trained("llama", "--set", "dpo.router_aux_loss_coef=0.5", max_position_embeddings=512)
