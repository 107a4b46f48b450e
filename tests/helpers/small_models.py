"""A small random model of every decoder-only architecture of transformers: two or three layers of width 32.

Sizes are set by the names that configurations share; OWN holds what an architecture needs besides. Sliding windows,
chunks and top-k selections are a few tokens, so that short sequences reach beyond them, and no weight keeps a constant
initial value (an attention sink of 0, a gate of 1), so that leaving one out shows.
"""

from dataclasses import fields

import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

VOCABULARY = 96
HEADS, WIDTH, INNER, LAYERS, POSITIONS, EXPERTS = 4, 32, 48, 2, 256, 4
SIZES = {
    "vocab_size": VOCABULARY,
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "emb_dim", "embedding_size"), WIDTH),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), HEADS),
    **dict.fromkeys(("intermediate_size", "decoder_ffn_dim", "ffn_dim", "n_inner", "dff", "ffn_hidden_size"), INNER),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), POSITIONS),
    "num_key_value_heads": 2,
    "head_dim": 8,
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), EXPERTS),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk"), 2),
    **dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("shared_intermediate_size", "shared_experts_intermediate_size"), 16),
    **dict.fromkeys(("n_shared_experts", "n_group", "topk_group"), 1),
    **{"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8},
    **dict.fromkeys(("sliding_window", "sliding_window_size", "attention_chunk_size", "window_size"), 6),
    **{"index_head_dim": 8, "index_n_heads": 2, "index_topk": 6, "index_block_size": 4, "index_topk_blocks": 1},
    **{"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_chunk_size": 8},
    **{"state_size": 8, "chunk_size": 8, "block_size": 8},
    **{"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    "is_decoder": True,
}
MIXED = {"layer_types": ["linear_attention", "full_attention"]}
OWN = {
    "axk2": {"num_key_value_heads": 4, "head_dim": 4},
    "bailing_hybrid": MIXED,
    "bamba": {"attn_layer_indices": [1]},
    "bigbird_pegasus": {"attention_type": "original_full"},
    "big_bird": {"attention_type": "original_full"},
    "codegen": {"rotary_dim": 4},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 32},
    },
    "cpmant": {"dim_head": 8, "dim_ff": 48, "position_bias_num_buckets": 16},
    "deepseek_v4": {"o_groups": 2, "o_lora_rank": 8},
    "deepseek_v32": {"num_key_value_heads": 4, "head_dim": 4},
    "dots3_note_text": {"num_key_value_heads": 4, "head_dim": 12},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n_text": {
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "vocab_size_per_layer_input": VOCABULARY,
        "hidden_size_per_layer_input": 8,
        "laurel_rank": 8,
        "activation_sparsity_pattern": [0.0] * 4,
    },
    "gemma4_text": {
        "vocab_size_per_layer_input": VOCABULARY,
        "hidden_size_per_layer_input": 8,
        "layer_types": ["sliding_attention", "full_attention"],
        "num_experts": None,
        "global_head_dim": 8,
    },
    "glm_moe_dsa": {"num_key_value_heads": 4, "head_dim": 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gptj": {"rotary_dim": 4},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "inkling2_text": {"unpadded_vocab_size": 90, "swa_num_attention_heads": 4, "swa_num_key_value_heads": 2}
    | {"swa_head_dim": 8, "rel_extent": 16, "log_scaling_n_floor": 4},
    "inkling_text": {"swa_num_attention_heads": 4, "swa_num_key_value_heads": 2, "swa_head_dim": 8, "rel_extent": 16},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": {"linear_head_dim": 8, "linear_num_heads": 4, "q_lora_rank": None, **MIXED},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "lfm3": {"layer_types": ["conv", "full_attention"]},
    "longcat_flash": {"head_dim": 4, "qk_head_dim": 8, "zero_expert_num": 2},
    "minicpm3": {"dim_model_base": 32},
    "mamba2": {"num_heads": 8, "n_groups": 1},
    "qwen3_5_moe_text": MIXED,
    "qwen3_5_text": MIXED,
    "qwen3_next": MIXED,
    "recurrent_gemma": {
        "lru_width": 32,
        "num_hidden_layers": 3,
        "block_types": ["recurrent", "recurrent", "attention"],
        "attention_window_size": 6,
    },
    "roc_bert": {"enable_pronunciation": False, "enable_shape": False, "pronunciation_vocab_size": 8}
    | {"shape_vocab_size": 8, "pronunciation_embed_dim": 8, "shape_embed_dim": 8},
    "xlm": {"causal": True},
    "xlstm": {"qk_dim_factor": 1.0, "chunk_size": 8},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX", "adapter_reduction_factor": 2},
    "zamba2": {"num_hidden_layers": 3, "layers_block_type": ["mamba", "hybrid", "mamba"]},
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 16},
}
COMPOSITE = "reads images or sound as well; its language model is built by itself where it has a type of its own"
LEFT_OUT = {
    **dict.fromkeys(("dots3_note", "emu3", "fuyu", "gemma3", "gemma3n", "gemma4", "gemma4_unified", "git"), COMPOSITE),
    **dict.fromkeys(("got_ocr2", "llama4", "mllama", "moss_transcribe_diarize", "phi4_multimodal"), COMPOSITE),
    **dict.fromkeys(("qwen3_5", "qwen3_5_moe", "qwen4_exp"), COMPOSITE),
    **dict.fromkeys(("moshi", "musicgen", "musicgen_melody"), "writes sound: several tokens at each position"),
    **dict.fromkeys(("gemma4_assistant", "gemma4_unified_assistant"), "drafts for another model"),
    "blt": "reads bytes in patches of three models of its own",
    "cohere_compass_text": "its own default configuration fails in this transformers (no rope for full_attention)",
    "prophetnet": "predicts several tokens at once: its logits depend on later tokens",
    "reformer": "hashes positions into buckets at random; needs sequences of whole chunks",
    "xlnet": "not causal: without a permutation mask each token sees all",
    "zamba": "its tied weights need 70 layers",
}


def built() -> list[str]:
    """The model types that are built here."""
    return [each for each in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if each not in LEFT_OUT]


def small_config(model_type: str, **more):
    kind = CONFIG_MAPPING[model_type]
    names = {each.name for each in fields(kind)}
    return kind(**{name: size for name, size in SIZES.items() if name in names} | OWN.get(model_type, {}) | more)


@torch.no_grad()
def small_model(model_type: str, **more) -> torch.nn.Module:
    """A random model in float32, in evaluation mode; `more` goes to its configuration."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(small_config(model_type, **more)).float().eval()
    for module in model.modules():
        plain = isinstance(module, torch.nn.Linear | torch.nn.Embedding)
        for name, parameter in module.named_parameters(recurse=False):
            if plain and name == "weight":
                parameter.normal_(0, parameter.shape[-1] ** -0.5)
            else:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model
