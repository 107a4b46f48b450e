"""Fields of TRL's DPOConfig and of TrainingArguments that nothing in the SSO trainers reads, and what holds instead."""

OBJECTIVE = "the losses are those of loss_type"
FIXED_REFERENCE = "the reference is ref_model, or the model that a stage starts from"
ONE_PROCESS = "the trainer trains in one process"
SAVING = "states are saved as often as that is cheap, and output_dir keeps the result of each stage: use save_model"
PAIRS = "an evaluation compares the log-probabilities of pairs"
UNUSED = {  # fields of DPOConfig
    "disable_dropout": "dropout is always off, because policy and reference are compared",
    "activation_offloading": "set activation_checkpointing_kwargs={'offload': True}",
    "dataset_num_proc": "examples are token ids already",
    "max_length": "completions are never cut: set max_completion_length",
    "truncation_mode": "completions are never cut: set max_completion_length",
    "padding_free": "sequences are packed without padding where the model allows it",
    "pad_to_multiple_of": "sequences are packed without padding where the model allows it",
    "precompute_ref_batch_size": "set generation_batch_size",
    "loss_weights": OBJECTIVE,
    "ld_alpha": OBJECTIVE,
    "f_divergence_type": OBJECTIVE,
    "f_alpha_divergence_coef": OBJECTIVE,
    "label_smoothing": OBJECTIVE,
    "use_weighting": f"{OBJECTIVE}; SSOVersion1Config has a weight",
    "discopop_tau": OBJECTIVE,
    "sync_ref_model": FIXED_REFERENCE,
    "ref_model_mixup_alpha": FIXED_REFERENCE,
    "ref_model_sync_steps": FIXED_REFERENCE,
    "pad_token": "set it in the tokenizer, and pass that as processing_class",
}
REFUSED = UNUSED | {
    "label_smoothing_factor": OBJECTIVE,
    "label_names": OBJECTIVE,
    "auto_find_batch_size": "a batch that does not fit into memory is split already",
    "dataloader_drop_last": "the last, smaller batch is an update too",
    "ignore_data_skip": "a resumed training skips what it has seen",
    "length_column_name": "examples of similar length are batched together already",
    "logging_strategy": "every update is logged in output_dir/training",
    "logging_first_step": "every update is logged in output_dir/training",
    "include_num_input_tokens_seen": "train() returns the number of trained tokens",
    "neftune_noise_alpha": "models train without noise, because policy and reference are compared",
    "data_seed": "set seed",
    "do_predict": "the policy is the attribute model",
    **dict.fromkeys(("fsdp", "deepspeed", "parallelism_config", "ddp_backend"), ONE_PROCESS),
    **dict.fromkeys(
        ("ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph"), ONE_PROCESS
    ),
    **dict.fromkeys(
        (
            *("eval_accumulation_steps", "eval_do_concat_batches", "eval_use_gather_object", "prediction_loss_only"),
            *("include_for_metrics", "batch_eval_metrics"),
        ),
        PAIRS,
    ),
    **dict.fromkeys(("bf16_full_eval", "fp16_full_eval"), "an evaluation computes as training does: set bf16 or fp16"),
    "load_best_model_at_end": "the policy is the model after the last update; a callback may stop training earlier",
    **dict.fromkeys(
        ("save_steps", "save_total_limit", "save_only_model", "save_on_each_node", "enable_jit_checkpoint"), SAVING
    ),
    **dict.fromkeys(("hub_strategy", "hub_always_push"), "the policy is uploaded by save_model and push_to_hub"),
}
ALWAYS = {  # fields with one possible value here; the default of TRL or transformers is accepted too
    "precompute_ref_log_probs": True,
    "train_sampling_strategy": "sequential",
    "remove_unused_columns": False,
    "save_strategy": "no",
}
ARGUMENTS = {  # arguments of DPOTrainer, and of transformers' Trainer
    "data_collator": "batches are made from token ids, so that prompts are shared and nothing is padded",
    "compute_metrics": "an evaluation has the metrics of DPOTrainer; compute others from trainer.model",
    "preprocess_logits_for_metrics": "no logits are computed: only log-probabilities of completions",
    "optimizers": "each stage trains a model of its own: set optim, learning_rate and lr_scheduler_type",
    "optimizer_cls_and_kwargs": "set optim and optim_args",
    "model_init": "give a model or the name of one",
    "compute_loss_func": OBJECTIVE,
    "tokenizer": "it is called processing_class",
}
