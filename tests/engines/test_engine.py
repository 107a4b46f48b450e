"""TransformersEngine against transformers itself: chat templates, generation, log-probabilities, loading."""

import shutil

import pytest
import torch
from encoding import reply_ids
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
)

from harness.engines.base import Sampling
from harness.engines.chat import ChatTemplate
from harness.engines.conversations import fold_system
from harness.engines.transformers import TransformersEngine
from harness.errors import UserError

NO_SYSTEM_TEMPLATE = (  # in the manner of Gemma: refuses a system message, demands that roles alternate
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') == loop.index0 % 2 %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{{ '<|user|>' if message['role'] == 'user' else '<|assistant|>' }}{{ message['content'] | trim }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
HEADER_TEMPLATE = (  # in the manner of Llama 3: BOS before the first header, contents trimmed
    "{% for message in messages %}"
    "{% set text = '<|' + message['role'] + '|>' + message['content'] | trim + '<|end|>' %}"
    "{% if loop.index0 == 0 %}{% set text = bos_token + text %}{% endif %}{{ text }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SILENT_TEMPLATE = (
    "{% for message in messages if message['role'] != 'system' %}{{ '<|user|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
)
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def engine(tiny_model_dir):
    engine = TransformersEngine.load(tiny_model_dir, device="cpu", batch_size=16)
    sharpen(engine.model)
    return engine


def sharpen(model):
    """Larger weights: what a token will be then depends on all tokens before it and on their positions."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)


@pytest.fixture
def tokenizer_with_bos(tiny_model_dir):
    """Adds a BOS to all that it encodes, as the tokenizers of Llama and Gemma do."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.add_special_tokens({"bos_token": "<|bos|>"})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", tokenizer.bos_token_id)]
    )
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    return tokenizer


def prompts_of(engine, count):
    texts = [f"{'Please ' * (i % 7)}say number {i}." for i in range(count)]
    return [engine.encode_chat([{"role": "user", "content": text}]) for text in texts]


def items_of(count):
    return [f"item/{i}" for i in range(count)]


# Chat templates


def test_encode_chat_follows_the_template(engine):
    special = engine.tokenizer.convert_tokens_to_ids
    letters = [special(letter) for letter in "Hi"]
    user = [special("<|user|>"), *letters, special("<|end|>")]
    chat = [{"role": "user", "content": "Hi"}]
    assert engine.encode_chat(chat) == (*user, special("<|assistant|>"))
    assert engine.encode_chat(chat, add_generation_prompt=False) == tuple(user)


def test_encode_completion_is_the_template_s_reply(engine):
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello you."}]
    prompt, whole = engine.encode_chat(chat[:1]), engine.encode_chat(chat, add_generation_prompt=False)
    assert reply_ids(engine, "Hello you.") == whole[len(prompt) :]


@pytest.mark.parametrize("template", [HEADER_TEMPLATE, NO_SYSTEM_TEMPLATE], ids=["llama-3", "gemma"])
def test_there_is_one_bos(tokenizer_with_bos, template):
    tokenizer = tokenizer_with_bos
    tokenizer.chat_template = template
    chat = ChatTemplate(tokenizer, [tokenizer.eos_token_id], "model")
    ids = chat.encode(CHAT)
    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.bos_token_id) == 1
    assert tokenizer.bos_token_id not in reply_ids(chat, "Hello")


def test_a_template_with_a_system_role_keeps_it(tokenizer_with_bos):
    tokenizer_with_bos.chat_template = HEADER_TEMPLATE
    chat = ChatTemplate(tokenizer_with_bos, [tokenizer_with_bos.eos_token_id], "model")
    assert tokenizer_with_bos.decode(chat.encode(CHAT)) == (
        "<|bos|><|system|>Be brief.<|end|><|user|>Hi<|end|><|assistant|>"
    )


@pytest.mark.parametrize("template", [NO_SYSTEM_TEMPLATE, SILENT_TEMPLATE], ids=["refuses", "ignores"])
def test_without_a_system_role_the_user_message_carries_it(tokenizer_with_bos, template):
    tokenizer_with_bos.chat_template = template
    chat = ChatTemplate(tokenizer_with_bos, [tokenizer_with_bos.eos_token_id], "model")
    text = tokenizer_with_bos.decode(chat.encode(CHAT))
    assert "<|user|>Be brief.\n\nHi<|end|>" in text
    assert "<|system|>" not in text


@pytest.mark.parametrize(
    ("stop_tokens", "expected"),
    [(["<|pad|>", "<|end|>"], "<|end|>"), (["<|system|>", "<|end|>"], "<|end|>"), (["<|system|>"], "<|end|>")],
    ids=["not the tokenizer's", "not the user's", "the template's, which is not configured"],
)
def test_the_token_that_ends_a_reply(tokenizer_with_bos, stop_tokens, expected):
    tokenizer = tokenizer_with_bos
    tokenizer.eos_token = "<|pad|>"
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message['content'] }}"
        "{{ '<|end|>' if message['role'] == 'assistant' else '<|system|>' }}{% endfor %}"
    )
    chat = ChatTemplate(tokenizer, tokenizer.convert_tokens_to_ids(stop_tokens), "model")
    assert tokenizer.decode(reply_ids(chat, "Hi")) == f"Hi{expected}"


def test_folding_a_system_message_leaves_other_messages_alone():
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    assert fold_system(turns) == turns
    assert fold_system([CHAT[0], *turns]) == [{"role": "user", "content": "Be brief.\n\nHi"}, turns[1]]
    assert fold_system(CHAT[:1]) == [{"role": "user", "content": "Be brief."}]


def test_a_refused_conversation_is_the_user_s_mistake(tokenizer_with_bos):
    tokenizer_with_bos.chat_template = NO_SYSTEM_TEMPLATE
    chat = ChatTemplate(tokenizer_with_bos, [tokenizer_with_bos.eos_token_id], "some/model")
    with pytest.raises(UserError, match="some/model refuses a conversation of user, user: roles must alternate"):
        chat.encode([CHAT[1], CHAT[1]])


# Loading


def test_missing_model(tmp_path):
    with pytest.raises(UserError, match="cannot be loaded"):
        TransformersEngine.load(tmp_path / "nothing")


def test_pickled_weights_are_refused(tiny_model_dir, tmp_path):
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        TransformersEngine.load(folder)


def test_missing_chat_template(tiny_model_dir, tmp_path):
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="no chat template"):
        TransformersEngine.load(folder)


def test_missing_stop_token(tiny_model_dir):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.eos_token = model.generation_config.eos_token_id = None
    tokenizer.chat_template = "{% for message in messages %}{{ '<|user|>' + message['content'] }}{% endfor %}"
    with pytest.raises(UserError, match="no end-of-sequence token"):
        TransformersEngine(model, tokenizer, "model")


def test_unknown_dtype(tiny_model_dir):
    with pytest.raises(UserError, match="float8"):
        TransformersEngine.load(tiny_model_dir, dtype="float8")


def test_parameters_count_tied_weights_once(engine):
    # 261 x 32 embeddings; a layer: q, o 32 x 32, k, v 32 x 16, three 32 x 64 of the MLP, two norms; a final norm
    assert engine.parameters == 261 * 32 + 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64 + 2 * 32) + 32


def test_weights_hash_is_of_the_weights_alone(engine, tmp_path):
    engine.model.save_pretrained(tmp_path, max_shard_size="20KB")
    engine.tokenizer.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    sharded = TransformersEngine.load(tmp_path, device="cpu")
    assert sharded.weights_hash == engine.weights_hash
    with torch.no_grad():
        sharded.model.model.layers[1].mlp.up_proj.weight[3, 5] += 1e-3
    changed = TransformersEngine(sharded.model, sharded.tokenizer, "changed")
    assert changed.weights_hash != engine.weights_hash


def test_dtype_is_part_of_the_weights_hash(engine, tiny_model_dir):
    assert TransformersEngine.load(tiny_model_dir, "cpu", "bfloat16").weights_hash != engine.weights_hash


def test_release_frees_the_model(tiny_model_dir):
    engine = TransformersEngine.load(tiny_model_dir, device="cpu")
    engine.release()
    assert engine.model is None


# Generation


def greedy_reference(engine, prompts, new_tokens):
    """Greedy completions by transformers' own generate, one prompt at a time."""
    outputs = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        whole = engine.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=new_tokens,
            eos_token_id=list(engine.stop_tokens),
            pad_token_id=0,
        )
        outputs.append(tuple(whole[0, len(prompt) :].tolist()))
    return outputs


@pytest.fixture
def often_stopping(engine, monkeypatch):
    """The engine with so many stop tokens that an untrained model meets them, at several ids."""
    monkeypatch.setattr(engine, "stop_tokens", (*engine.stop_tokens, *range(100, 140)))
    return engine


def test_greedy_equals_transformers(engine):
    prompts = prompts_of(engine, 40)
    completions = engine.generate(prompts, items_of(40), Sampling(max_new_tokens=12))
    assert [each.token_ids for each in completions] == greedy_reference(engine, prompts, 12)
    assert len({each.token_ids for each in completions}) > 30


def test_greedy_equals_transformers_while_others_stop(often_stopping):
    prompts = prompts_of(often_stopping, 40)
    completions = often_stopping.generate(prompts, items_of(40), Sampling(max_new_tokens=24))
    assert [each.token_ids for each in completions] == greedy_reference(often_stopping, prompts, 24)
    assert len({len(each.token_ids) for each in completions}) > 5


def small_gemma(vocabulary):
    """Sliding windows, soft-capped attention and logits."""
    return Gemma2ForCausalLM(
        Gemma2Config(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            sliding_window=8,
            final_logit_softcapping=0.05,
            attn_implementation="eager",
            eos_token_id=4,
            pad_token_id=0,
        )
    )


def small_hybrid(vocabulary):
    """Convolutions, whose state is no key-value cache, and attention."""
    return Lfm2ForCausalLM(
        Lfm2Config(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            layer_types=["conv", "full_attention"],
            eos_token_id=4,
            pad_token_id=0,
        )
    )


def test_a_model_without_a_cache_is_refused(engine):
    model = MambaForCausalLM(
        MambaConfig(vocab_size=len(engine.tokenizer), hidden_size=8, state_size=4, num_hidden_layers=1)
    )
    with pytest.raises(UserError, match="no key-value cache"):
        TransformersEngine(model, engine.tokenizer, "mamba")


@pytest.mark.parametrize("build", [small_gemma, small_hybrid])
def test_other_architectures_equal_transformers(engine, build):
    torch.manual_seed(0)
    other = TransformersEngine(build(len(engine.tokenizer)), engine.tokenizer, "other", batch_size=5)
    sharpen(other.model)
    prompts = prompts_of(engine, 12)
    completions = other.generate(prompts, items_of(12), Sampling(max_new_tokens=12))
    assert [each.token_ids for each in completions] == greedy_reference(other, prompts, 12)
    scores = other.logprobs(prompts, [each.token_ids for each in completions])
    for prompt, completion, score in zip(prompts, completions, scores, strict=True):
        assert score.total == pytest.approx(naive_logprob(other.model, prompt, completion.token_ids), abs=1e-4)


def test_a_text_does_not_depend_on_the_batch(engine, tiny_model_dir):
    count = 400
    prompts, items = prompts_of(engine, count), items_of(count)
    sampling = Sampling(max_new_tokens=16, temperature=1.0, top_p=0.9, seed=7)
    engine.batch_size = 128
    together = engine.generate(prompts, items, sampling)
    order = list(range(100))[::-1]
    engine.batch_size = 1
    alone = engine.generate([prompts[i] for i in order], [items[i] for i in order], sampling)[::-1]
    engine.batch_size = 16
    same = sum(one.text == other.text for one, other in zip(together, alone, strict=False))
    assert same >= 99  # rounding in other batch shapes may turn a near tie


def test_noise_follows_item_and_seed(engine):
    prompt = prompts_of(engine, 1) * 3
    first = engine.generate(prompt, ["a", "b", "a"], Sampling(16, temperature=1.0, seed=0))
    assert first[0] == first[2] != first[1]
    assert engine.generate(prompt[:1], ["a"], Sampling(16, temperature=1.0, seed=1))[0] != first[0]


def test_a_stop_token_ends_a_completion(often_stopping):
    engine = often_stopping
    completions = engine.generate(prompts_of(engine, 64), items_of(64), Sampling(20, temperature=1.0))
    assert {each.finished for each in completions} == {True, False}
    for each in completions:
        assert not set(each.token_ids[:-1]) & set(engine.stop_tokens)
        assert each.finished == (each.token_ids[-1] in engine.stop_tokens)
        assert each.finished or len(each.token_ids) == 20
        assert each.text == engine.tokenizer.decode(each.token_ids, skip_special_tokens=True)


def test_eos_of_generation_config_and_tokenizer_both_stop(tiny_model_dir):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    model.generation_config.eos_token_id = [7, 9]
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    assert TransformersEngine(model, tokenizer, "model").stop_tokens == (4, 7, 9)


def test_progress_counts_every_item_once(engine):
    counts = []
    engine.generate(prompts_of(engine, 40), items_of(40), Sampling(8, temperature=1.0), counts.append)
    assert sum(counts) == 40


def test_a_completion_ends_with_the_context(engine):
    context = engine.context_length
    assert context == 512
    prompt = (2, *[50] * (context - 6))
    completion = engine.generate([prompt, (2, 50, 3)], ["near the end", "short"], Sampling(20))
    assert len(completion[0].token_ids) == 5 and not completion[0].finished
    assert len(completion[1].token_ids) == 20


def test_a_prompt_without_room_is_named(engine):
    prompts = [(2, 3), (2,) * 512]
    with pytest.raises(UserError, match="mt-bench/81 has 512 tokens"):
        engine.generate(prompts, ["fine", "mt-bench/81"], Sampling(4))


# Log-probabilities


def naive_logprob(model, prompt, completion):
    """Straight from the full logits of one unpadded sequence."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *completion]])).logits[0].double()
    table = logits.log_softmax(dim=-1)
    return sum(table[len(prompt) - 1 + step, token].item() for step, token in enumerate(completion))


def test_logprobs_equal_the_full_logits(engine):
    prompts = prompts_of(engine, 30)
    completions = [reply_ids(engine, "reply " * (i % 5) + "end") for i in range(30)]
    counts = []
    scores = engine.logprobs(prompts, completions, counts.append)
    assert sum(counts) == 30
    for prompt, completion, score in zip(prompts, completions, scores, strict=True):
        assert score.tokens == len(completion)
        assert score.total == pytest.approx(naive_logprob(engine.model, prompt, completion), rel=1e-5)


def test_logprobs_of_a_sequence_beyond_the_context(engine):
    with pytest.raises(UserError, match="513 tokens do not fit"):
        engine.logprobs([(2,) * 500], [(3,) * 13])


def test_logprobs_need_a_prompt_and_a_completion(engine):
    for prompt, completion in [((), (3,)), ((2,), ())]:
        with pytest.raises(ValueError, match="at least one"):
            engine.logprobs([prompt], [completion])


def test_nothing_in_nothing_out(engine):
    assert engine.generate([], [], Sampling(4)) == []
    assert engine.logprobs([], []) == []


# The shipped model


def test_shipped_model_gives_the_same_texts_at_any_batch_size(testbed_model_dir):
    engine = TransformersEngine.load(testbed_model_dir, device="cpu")
    prompts = [engine.encode_chat([{"role": "user", "content": f"What is {i} + {i + 7}?"}]) for i in range(200)]
    sampling = Sampling(max_new_tokens=32, temperature=1.0)
    engine.batch_size = 128
    together = engine.generate(prompts, items_of(200), sampling)
    engine.batch_size = 1
    alone = engine.generate(prompts[:60], items_of(60), sampling)
    assert sum(one.text == other.text for one, other in zip(together, alone, strict=False)) >= 59


@pytest.mark.parametrize(("attention", "message"), [("flax", "did you mean 'flex'"), ("flex", "needs CUDA")])
def test_an_attention_that_can_not_be_had(tiny_model_dir, attention, message):
    with pytest.raises(UserError, match=message):
        TransformersEngine.load(tiny_model_dir, device="cpu", attention=attention)
