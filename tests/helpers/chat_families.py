"""Small tokenizers with chat templates in the manner of real families, written for these tests.

Each has the traits of its family that decide which tokens a reply has: what is written before it (an opened thought, an
empty one, a channel), what ends its turn, who owns the space between, where a system message goes, what is refused.
"""
# ruff: noqa: E501 (templates)

from dataclasses import dataclass
from functools import cache
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "The sky is blue, and the sea is blue too.",
    "What colour is the sky? Answer briefly and say why.",
    "You are a helpful assistant. Be brief.",
    "Two and two are four. The answer is 4.\n\nIt is well known.",
    "<think>\nHm.\n</think>\n\n",
] * 4


@dataclass(frozen=True)
class Family:
    """template: as in tokenizer_config.json. special: special tokens; added: added tokens that are not special.

    eos: the tokenizer's end of sequence. sentencepiece: texts begin with a space, as in Llama 2; else bytes.
    """

    template: str | dict[str, str]
    special: tuple[str, ...]
    eos: str
    bos: str | None = None
    added: tuple[str, ...] = ()
    sentencepiece: bool = False

    def tokenizer(self) -> PreTrainedTokenizerFast:
        backend = Tokenizer.from_str(_trained(self.sentencepiece))
        backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in self.special])
        backend.add_tokens([AddedToken(token, normalized=False) for token in self.added])
        names = {"eos_token": self.eos, "pad_token": self.special[0], **({"bos_token": self.bos} if self.bos else {})}
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
        tokenizer.chat_template = self.template
        return tokenizer


@cache
def _trained(sentencepiece: bool) -> str:
    """A BPE vocabulary with merges, so that boundaries in the wrong place show."""
    if sentencepiece:
        tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        bytes_ = [f"<0x{number:02X}>" for number in range(256)]
        trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=["<unk>", *bytes_], show_progress=False)
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer.to_str()


def chatml(before: str = "", default: str = "", reply: str = "message.content", generation: str = "") -> str:
    """ChatML with what a family adds to it."""
    system = f"{{%- if messages[0].role != 'system' %}}<|im_start|>system\n{default}<|im_end|>\n{{% endif %}}"
    return (
        before
        + (system if default else "")
        + "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' }}"
        + f"{{%- if message.role == 'assistant' %}}{{{{- {reply} }}}}{{%- else %}}{{{{- message.content }}}}{{%- endif %}}"
        + "{{- '<|im_end|>\n' }}{%- endfor %}"
        + f"{{%- if add_generation_prompt %}}{{{{- '<|im_start|>assistant\n{generation}' }}}}{{%- endif %}}"
    )


IM = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QWEN_TOOLS = (
    "{%- if tools %}{{- '<|im_start|>system\n# Tools\n' }}"
    "{%- for tool in tools %}{{- tool | tojson + '\n' }}{%- endfor %}{{- '<|im_end|>\n' }}{%- endif %}"
)
QWEN_REPLY = (
    "(message.content or '') + ('\n<tool_call>\n' + (message.tool_calls[0].function | tojson) + '\n</tool_call>' "
    "if message.tool_calls else '')"
)
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0]['content'] %}"
    "{% else %}{% set rest = messages %}{% set system = false %}{% endif %}"
    "{% for message in rest %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if loop.index0 == 0 and system %}{% set content = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA_3 = (
    "{% for message in messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim "
    "+ '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
LLAMA_31 = (
    "{{- bos_token }}{%- if messages[0].role == 'system' %}{%- set system = messages[0].content | trim %}"
    "{%- set rest = messages[1:] %}{%- else %}{%- set system = '' %}{%- set rest = messages %}{%- endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' + strftime_now('%d %b %Y') + '\n\n' }}"
    "{%- if tools %}{%- for tool in tools %}{{- tool | tojson(indent=4) + '\n' }}{%- endfor %}{%- endif %}"
    "{{- system + '<|eot_id|>' }}"
    "{%- for message in rest %}{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' }}"
    "{%- if message.tool_calls %}{{- message.tool_calls[0].function | tojson }}"
    "{%- else %}{{- message.content | trim }}{%- endif %}{{- '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
ZEPHYR = (
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}"
    "\n{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}"
    "\n{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n' + message['content'] + eos_token }}\n{% endif %}"
    "\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)
MISTRAL_V1 = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ message['content'] + eos_token + ' ' }}{% endif %}{% endfor %}"
)


def mistral(space: str) -> str:
    """v3 (a space inside the marks) and tekken (none): the system message goes into the user message that is last."""
    return (
        "{%- if messages[0].role == 'system' %}{%- set system = messages[0].content %}{%- set rest = messages[1:] %}"
        "{%- else %}{%- set rest = messages %}{%- endif %}{{- bos_token }}"
        "{%- for message in rest %}{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{- raise_exception('After the optional system message, conversation roles must alternate') }}{%- endif %}"
        "{%- if message.role == 'user' %}{%- if loop.last and system is defined %}"
        f"{{{{- '[INST]{space}' + system + '\n\n' + message.content + '[/INST]' }}}}"
        f"{{%- else %}}{{{{- '[INST]{space}' + message.content + '[/INST]' }}}}{{%- endif %}}"
        f"{{%- else %}}{{{{- '{space}' + message.content + eos_token }}}}{{%- endif %}}{{%- endfor %}}"
    )


GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
PHI_3 = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ '<|system|>\n' + message['content'] + '<|end|>\n' }}"
    "{% elif message['role'] == 'user' %}{{ '<|user|>\n' + message['content'] + '<|end|>\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ '<|assistant|>\n' + message['content'] + '<|end|>\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
PHI_4 = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '<|im_sep|>' + message['content'] + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
)
R1 = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'] }}"
    "{% elif message['role'] == 'user' %}{{ '<|User|>' + message['content'] }}"
    "{% else %}{{ '<|Assistant|>' + message['content'].split('</think>')[-1] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|><think>\n' }}{% endif %}"
)
HARMONY = (
    "{{- '<|start|>system<|message|>You are a model. Current date: ' + strftime_now('%Y-%m-%d') + '<|end|>' }}"
    "{%- for message in messages %}{%- if message.role == 'assistant' %}"
    "{%- if message.thinking and loop.last %}"
    "{{- '<|start|>assistant<|channel|>analysis<|message|>' + message.thinking + '<|end|>' }}{%- endif %}"
    "{{- '<|start|>assistant<|channel|>final<|message|>' + message.content }}"
    "{{- '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}"
    "{%- elif message.role in ('system', 'developer') %}"
    "{{- '<|start|>developer<|message|># Instructions\n\n' + message.content + '<|end|>' }}"
    "{%- else %}{{- '<|start|>user<|message|>' + message.content + '<|end|>' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{%- endif %}"
)
QWEN_3_REPLY = (
    "('<think>\n' + (message.reasoning_content or '') + '\n</think>\n\n' if loop.last else '') "
    "+ message.content.split('</think>')[-1].lstrip('\n')"
)
COMMAND = (
    "{{ bos_token }}{% for message in messages %}{{ '<|START_OF_TURN_TOKEN|>' }}"
    "{{ {'user': '<|USER_TOKEN|>', 'assistant': '<|CHATBOT_TOKEN|>', 'system': '<|SYSTEM_TOKEN|>'}[message['role']] }}"
    "{{ message['content'].strip() + '<|END_OF_TURN_TOKEN|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}"
)
VICUNA = (
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + ' ' }}{% endif %}"
    "{% for message in messages if message['role'] != 'system' %}{% if message['role'] == 'user' %}"
    "{{ 'USER: ' + message['content'] + ' ' }}{% else %}{{ 'ASSISTANT: ' + message['content'] + eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
S, E = "<s>", "</s>"

FAMILIES = {
    "chatml": Family(chatml(), IM, "<|im_end|>"),
    "chatml whose turn end is not EOS": Family(chatml(), IM, "<|endoftext|>"),
    "qwen2.5": Family(
        chatml(QWEN_TOOLS, "You are Qwen.", QWEN_REPLY), IM, "<|im_end|>", added=("<tool_call>", "</tool_call>")
    ),
    "qwen3": Family(chatml(reply=QWEN_3_REPLY), IM, "<|im_end|>", added=("<think>", "</think>")),
    "qwen3 without thinking": Family(
        chatml(reply=QWEN_3_REPLY, generation="<think>\n\n</think>\n\n"),
        IM,
        "<|im_end|>",
        added=("<think>", "</think>"),
    ),
    "qwen3 with a switch": Family(
        chatml(reply=QWEN_3_REPLY)
        + "{%- if add_generation_prompt and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}",
        IM,
        "<|im_end|>",
        added=("<think>", "</think>"),
    ),
    "smollm2": Family(chatml(default="You are a helpful AI assistant."), IM, "<|im_end|>", bos="<|im_start|>"),
    "llama-2": Family(LLAMA_2, ("<pad>", S, E), E, S, sentencepiece=True),
    "llama-3": Family(
        LLAMA_3,
        ("<|end_of_text|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|eot_id|>",
        "<|begin_of_text|>",
    ),
    "llama-3.1": Family(
        LLAMA_31,
        ("<|end_of_text|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|eot_id|>",
        "<|begin_of_text|>",
    ),
    "zephyr": Family(ZEPHYR, ("<pad>", S, E), E, S, sentencepiece=True),
    "mistral-v1": Family(MISTRAL_V1, ("<pad>", S, E), E, S, sentencepiece=True),
    "mistral-v3": Family(mistral(" "), ("<pad>", S, E, "[INST]", "[/INST]"), E, S, sentencepiece=True),
    "mistral-tekken": Family(mistral(""), ("<pad>", S, E, "[INST]", "[/INST]"), E, S),
    "gemma": Family(GEMMA, ("<pad>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), "<end_of_turn>", "<bos>"),
    "gemma, its EOS alone": Family(
        GEMMA, ("<pad>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), "<eos>", "<bos>", sentencepiece=True
    ),
    "phi-3": Family(PHI_3, ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"), "<|endoftext|>"),
    "phi-4": Family(PHI_4, (*IM, "<|im_sep|>"), "<|im_end|>"),
    "deepseek-r1": Family(
        R1, ("<pad>", "<bos>", "<eos>", "<|User|>", "<|Assistant|>"), "<eos>", "<bos>", ("<think>", "</think>")
    ),
    "gpt-oss": Family(
        HARMONY, ("<pad>", "<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>"), "<|return|>"
    ),
    "command-r": Family(
        COMMAND,
        (
            *("<PAD>", "<BOS>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
            *("<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>"),
        ),
        "<|END_OF_TURN_TOKEN|>",
        "<BOS>",
    ),
    "vicuna": Family(VICUNA, ("<pad>", S, E), E, S, sentencepiece=True),
    "templates by name": Family({"default": chatml(), "tool_use": chatml(QWEN_TOOLS)}, IM, "<|im_end|>"),
}


def model_folder(name: str, folder: Any, **config: Any) -> Any:
    """A tiny Llama with the tokenizer of a family, saved in a folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = FAMILIES[name].tokenizer()
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    settings = {"vocab_size": len(tokenizer), "max_position_embeddings": 512, "tie_word_embeddings": True}
    model = LlamaForCausalLM(LlamaConfig(**sizes, **ids, **settings | config))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
