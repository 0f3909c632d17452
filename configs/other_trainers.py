"""Settings of TRL, verl and OpenRLHF, and the setting here that does the same: for hints, and for docs/coming_from.md.

The names are those of TRL's `GRPOConfig`, of verl's `ppo_trainer` and of OpenRLHF's `train_ppo_ray`.
"""

from dataclasses import dataclass

TRAINERS = ("TRL", "verl", "OpenRLHF")
ACTOR = "actor_rollout_ref.actor"
ROLLOUT = "actor_rollout_ref.rollout"
MODEL = "actor_rollout_ref.model"
CUSTOM_REWARD = "custom_reward_function.path custom_reward_function.name reward.custom_reward_function.path"
TERM = "objective.terms.divergence"
KL = f"with {TERM}.name=reverse_kl; without a term there is no KL"


@dataclass(frozen=True)
class Counterpart:
    """One setting here and the settings of other trainers that it takes the place of."""

    ours: str
    """The full key here; empty: there is none."""
    trl: str = ""
    """Names in TRL, separated by spaces."""
    verl: str = ""
    openrlhf: str = ""
    note: str = ""
    """What differs."""

    @property
    def names(self) -> dict[str, list[str]]:
        """The names of each trainer."""
        return {
            trainer: names.split()
            for trainer, names in zip(TRAINERS, (self.trl, self.verl, self.openrlhf), strict=True)
        }


COUNTERPARTS = (
    Counterpart(
        "policy.path",
        "model_name_or_path",
        f"{MODEL}.path",
        "pretrain",
        "a directory or org/name",
    ),
    Counterpart("policy.dtype", "bf16", "", "bf16", "policy.dtype=bfloat16"),
    Counterpart("policy.chat_template", "", "", "apply_chat_template", "policy.chat_template=true"),
    Counterpart("policy.template_arguments", "chat_template_kwargs", "data.apply_chat_template_kwargs", ""),
    Counterpart("task.options.path", "dataset_name", "data.train_files", "prompt_data", "with task.name=dataset"),
    Counterpart("task.options.heldout_path", "", "data.val_files", "eval_dataset", "with task.name=dataset"),
    Counterpart("task.options.prompt_field", "", "data.prompt_key", "input_key", "with task.name=dataset"),
    Counterpart("task.options.answer_field", "", "", "label_key", "with task.name=dataset"),
    Counterpart("task.options.prompt_template", "", "", "input_template", "with task.name=dataset"),
    Counterpart("task.verifier", "reward_funcs", CUSTOM_REWARD, "remote_rm_url", "a name, or file.py:function"),
    Counterpart(
        "groups_per_step",
        "generation_batch_size",
        "data.train_batch_size",
        "rollout_batch_size",
        "prompts per step; TRL counts answers",
    ),
    Counterpart("sampling.group_size", "num_generations", f"{ROLLOUT}.n", "n_samples_per_prompt", "answers per prompt"),
    Counterpart("sampling.temperature", "temperature", f"{ROLLOUT}.temperature", "temperature"),
    Counterpart("sampling.max_prompt_tokens", "max_prompt_length", "data.max_prompt_length", "prompt_max_len"),
    Counterpart("sampling.max_new_tokens", "max_completion_length", "data.max_response_length", "generate_max_len"),
    Counterpart(
        "sampling.max_refills",
        "",
        "algorithm.filter_groups.enable algorithm.filter_groups.max_num_gen_batches",
        "dynamic_filtering",
        "a number; method=dapo has 10",
    ),
    Counterpart(
        "steps",
        "max_steps num_train_epochs",
        "trainer.total_training_steps trainer.total_epochs",
        "num_episodes",
        "optimizer steps, not epochs",
    ),
    Counterpart("lag", "", "async_training.staleness_threshold", "async_train", "steps that rollouts may run ahead"),
    Counterpart("learner.learning_rate", "learning_rate", f"{ACTOR}.optim.lr", "actor_learning_rate"),
    Counterpart(
        "learner.schedule",
        "lr_scheduler_type",
        f"{ACTOR}.optim.lr_scheduler_type {ACTOR}.optim.warmup_style",
        "lr_scheduler",
    ),
    Counterpart(
        "learner.warmup_steps",
        "warmup_steps warmup_ratio",
        f"{ACTOR}.optim.lr_warmup_steps {ACTOR}.optim.lr_warmup_steps_ratio",
        "lr_warmup_ratio",
        "a number of updates, not a fraction",
    ),
    Counterpart("learner.weight_decay", "weight_decay", f"{ACTOR}.optim.weight_decay", "l2"),
    Counterpart("learner.beta1", "adam_beta1", "", "adam_betas"),
    Counterpart("learner.beta2", "adam_beta2", "", "adam_betas"),
    Counterpart("learner.max_grad_norm", "max_grad_norm", f"{ACTOR}.grad_clip", "max_norm"),
    Counterpart(
        "learner.updates_per_batch",
        "steps_per_generation num_iterations",
        f"{ACTOR}.ppo_mini_batch_size {ACTOR}.ppo_epochs",
        "train_batch_size max_epochs",
        "how many updates share the groups of a step, not their size; each answer is used once",
    ),
    Counterpart(
        "learner.token_budget",
        "per_device_train_batch_size gradient_accumulation_steps",
        f"{ACTOR}.ppo_micro_batch_size_per_gpu {ACTOR}.ppo_max_token_len_per_gpu",
        "micro_train_batch_size train_max_tokens_per_gpu",
        "padded tokens of a microbatch, for memory alone; the batch is groups_per_step x sampling.group_size answers",
    ),
    Counterpart(
        "learner.gradient_checkpointing",
        "gradient_checkpointing",
        f"{MODEL}.enable_gradient_checkpointing",
        "gradient_checkpointing",
    ),
    Counterpart("learner.offload_activations", "", f"{MODEL}.enable_activation_offload"),
    Counterpart(
        "learner.offload_states",
        "",
        f"{ACTOR}.fsdp_config.param_offload {ACTOR}.fsdp_config.optimizer_offload",
        "adam_offload",
        "during the update too: the optimizer steps on the CPU",
    ),
    Counterpart("learner.replicas", "", f"{ACTOR}.fsdp_config.fsdp_size", "", "placement.learners / fsdp_size"),
    Counterpart(
        "learner.context_parallel",
        "",
        f"{ACTOR}.ulysses_sequence_parallel_size",
        "ring_attn_size",
        "by heads (Ulysses)",
    ),
    Counterpart("learner.compile", "torch_compile"),
    Counterpart("learner.lora.r", "use_peft lora_r", f"{MODEL}.lora_rank", "lora_rank", "0: all weights are trained"),
    Counterpart("learner.lora.alpha", "lora_alpha", f"{MODEL}.lora_alpha", "lora_alpha"),
    Counterpart("learner.lora.target_modules", "lora_target_modules", f"{MODEL}.target_modules", "target_modules"),
    Counterpart(
        "objective.advantage",
        "scale_rewards",
        "algorithm.adv_estimator algorithm.norm_adv_by_std_in_grpo",
        "advantage_estimator no_advantage_std_norm",
        "or a method, such as method=dr_grpo",
    ),
    Counterpart("objective.clip.low", "epsilon", f"{ACTOR}.clip_ratio_low {ACTOR}.clip_ratio", "eps_clip"),
    Counterpart("objective.clip.high", "epsilon_high", f"{ACTOR}.clip_ratio_high", "eps_clip_low_high"),
    Counterpart("objective.clip.dual", "delta", f"{ACTOR}.clip_ratio_c", "dual_clip"),
    Counterpart(
        "objective.ratio",
        "importance_sampling_level",
        f"{ACTOR}.policy_loss.loss_mode",
        "policy_loss_type",
        "method=gspo has one ratio per answer",
    ),
    Counterpart(
        "objective.clip.kind",
        "loss_type",
        f"{ACTOR}.policy_loss.loss_mode",
        "",
        "cispo, sapo, dppo_tv, geo_mean, clip_cov, kl_cov: method=cispo, sapo, dppo, gmpo, clip_cov, kl_cov",
    ),
    Counterpart("objective.clip.temperature_positive", "sapo_temperature_pos", f"{ACTOR}.tau_pos"),
    Counterpart("objective.clip.temperature_negative", "sapo_temperature_neg", f"{ACTOR}.tau_neg"),
    Counterpart(
        "objective.covariance.fraction",
        "",
        f"{ACTOR}.policy_loss.clip_cov_ratio {ACTOR}.policy_loss.kl_cov_ratio",
    ),
    Counterpart("objective.covariance.low", "", f"{ACTOR}.policy_loss.clip_cov_lb"),
    Counterpart("objective.covariance.high", "", f"{ACTOR}.policy_loss.clip_cov_ub"),
    Counterpart("objective.covariance.penalty", "", f"{ACTOR}.policy_loss.ppo_kl_coef"),
    Counterpart("objective.reduction", "loss_type", f"{ACTOR}.loss_agg_mode"),
    Counterpart("objective.entropy_bonus", "", f"{ACTOR}.entropy_coeff", "entropy_loss_coef"),
    Counterpart(
        "objective.mismatch.kind",
        "vllm_importance_sampling_correction",
        "algorithm.rollout_correction.rollout_is",
        "enable_vllm_is_correction",
    ),
    Counterpart("objective.rewards", "reward_weights", "", "", "objective.rewards.NAME={verifier: ..., weight: ...}"),
    Counterpart("objective.combine", "multi_objective_aggregation", "", "", "before or after normalisation"),
    Counterpart("objective.overlong.mask", "mask_truncated_completions", "", ""),
    Counterpart("objective.overlong.limit", "", "reward_model.overlong_buffer.len", "overlong_buffer_len"),
    Counterpart(
        "objective.overlong.penalty", "", "reward_model.overlong_buffer.penalty_factor", "overlong_penalty_factor"
    ),
    Counterpart(
        f"{TERM}.coefficient.value", "beta", f"{ACTOR}.kl_loss_coef algorithm.kl_ctrl.kl_coef", "init_kl_coef", KL
    ),
    Counterpart(f"{TERM}.estimator", "", f"{ACTOR}.kl_loss_type algorithm.kl_penalty", "kl_estimator", KL),
    Counterpart(
        f"{TERM}.coefficient.target",
        "",
        "algorithm.kl_ctrl.target_kl",
        "kl_target",
        "method=grpo_adaptive_kl has this controller",
    ),
    Counterpart(
        f"{TERM}.coefficient.horizon",
        "",
        "algorithm.kl_ctrl.horizon",
        "kl_horizon",
        "method=grpo_adaptive_kl has this controller",
    ),
    Counterpart(f"{TERM}.wiring", "", f"{ACTOR}.use_kl_loss algorithm.use_kl_in_reward", "use_kl_loss", KL),
    Counterpart("generator.engine", "use_vllm", f"{ROLLOUT}.name"),
    Counterpart(
        "generator.memory_fraction",
        "vllm_gpu_memory_utilization",
        f"{ROLLOUT}.gpu_memory_utilization",
        "vllm_gpu_memory_utilization",
    ),
    Counterpart("generator.max_sequences", "", f"{ROLLOUT}.max_num_seqs"),
    Counterpart("placement.mode", "vllm_mode", "", "colocate_all_models", "scale=NAME chooses all of the placement"),
    Counterpart(
        "placement.learners",
        "",
        "trainer.n_gpus_per_node trainer.nnodes",
        "actor_num_gpus_per_node actor_num_nodes",
        "scale=NAME chooses all of the placement",
    ),
    Counterpart("placement.generators", "", "", "vllm_num_engines", "scale=NAME chooses all of the placement"),
    Counterpart(
        "placement.tensor_parallel",
        "vllm_tensor_parallel_size",
        f"{ROLLOUT}.tensor_model_parallel_size",
        "vllm_tensor_parallel_size",
    ),
    Counterpart("monitor.every", "eval_steps", "trainer.test_freq", "eval_steps", "steps between measurements"),
    Counterpart(
        "monitor.answers", "num_generations_eval", f"{ROLLOUT}.val_kwargs.n", "eval_n_samples_per_prompt", "n of Pass@k"
    ),
    Counterpart("monitor.sampling.temperature", "", f"{ROLLOUT}.val_kwargs.temperature", "eval_temperature"),
    Counterpart("checkpoint.every", "save_steps", "trainer.save_freq", "save_steps"),
    Counterpart("checkpoint.keep_last", "save_total_limit", "trainer.max_actor_ckpt_to_keep", "max_ckpt_num"),
    Counterpart("name", "run_name", "trainer.experiment_name", "wandb_run_name"),
    Counterpart("runs", "output_dir", "trainer.default_local_dir", "save_path ckpt_path", "the run is in runs/name"),
    Counterpart("logbook.wandb", "report_to", "trainer.logger", "use_wandb", "logbook.wandb=online"),
    Counterpart("logbook.wandb_project", "", "trainer.project_name", "wandb_project"),
    Counterpart("seed", "seed", "data.seed", "seed"),
    Counterpart("", "resume_from_checkpoint", "trainer.resume_mode", "load_checkpoint", "breadth train --resume"),
)


def counterparts(key: str) -> list[tuple[str, Counterpart]]:
    """Return the settings of other trainers that a key names, as words such as "TRL beta", each with its counterpart.

    A key names a setting if it equals its name, or if one of both ends with the other after a dot: `rollout.n`, `lr`.
    """
    return [
        (f"{trainer} {name}", row)
        for row in COUNTERPARTS
        for trainer, names in row.names.items()
        for name in names
        if name == key or name.endswith(f".{key}") or key.endswith(f".{name}")
    ]


def table() -> str:
    """Return the counterparts as a table of a page."""
    lines = [["here", *TRAINERS, "what differs"], ["---"] * 5]
    for row in COUNTERPARTS:
        names = [", ".join(f"`{name}`" for name in names) for names in row.names.values()]
        lines.append([f"`{row.ours}`" if row.ours else "-", *names, row.note])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
