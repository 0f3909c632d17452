"""Break every rule of the settings once: the error names the full key, the rule and the value."""

import pytest

from configs.config import Config
from configs.load import load
from configs.monitor import parse_stop_rule

POSITIVE = [
    "steps",
    "groups_per_step",
    "task.heldout_prompts",
    "sampling.group_size",
    "sampling.max_prompt_tokens",
    "sampling.max_new_tokens",
    "objective.clip.high",
    "objective.terms.divergence.coefficient.target",
    "objective.terms.divergence.coefficient.horizon",
    "objective.clip.delta",
    "objective.target.beta",
    "rehearsal.batch",
    "rehearsal.prompts",
    "rehearsal.answers",
    "replay.batch",
    "objective.recap.temperature",
    "learner.learning_rate",
    "learner.max_grad_norm",
    "learner.updates_per_batch",
    "learner.token_budget",
    "learner.logits_megabytes",
    "learner.max_skipped_in_a_row",
    "learner.replicas",
    "learner.context_parallel",
    "learner.checkpoint_every",
    "generator.timeout_s",
    "grader.first_call_timeout_s",
    "grader.timeout_s",
    "placement.generators",
    "placement.tensor_parallel",
    "placement.learners",
    "placement.graders",
    "placement.references",
    "placement.start_timeout_s",
    "placement.publish_timeout_s",
    "placement.heartbeat_s",
    "placement.restart_window_s",
    "placement.min_generators",
    "placement.collective_timeout_s",
    "monitor.answers",
    "checkpoint.keep_last",
    "logbook.trajectories",
    "evaluate.answers",
    "inspect_task.prompts",
    "inspect_task.dimensions",
    "inspect_task.neighbours",
    "inspect_task.clip",
    "warm_start.steps",
    "warm_start.batch",
    "warm_start.hidden_size",
    "warm_start.layers",
    "warm_start.heads",
    "warm_start.intermediate_size",
]
NOT_NEGATIVE = [
    "grader.workers",
    "lag",
    "seed",
    "objective.terms.divergence.coefficient.final",
    "objective.terms.divergence.coefficient.over",
    "objective.terms.divergence.weights.entropy_power",
    "objective.entropy_bonus",
    "objective.replay_weight",
    "objective.recap.window",
    "objective.gates.entropy_penalty",
    "objective.gates.entropy_limit",
    "objective.mismatch.low",
    "objective.mismatch.veto",
    "objective.mismatch.off_policy",
    "objective.overlong.limit",
    "learner.weight_decay",
    "learner.warmup_steps",
    "placement.cpus_per_generator",
    "placement.cpus_per_learner",
    "placement.cpus_per_grader",
    "placement.cpus_per_reference",
    "placement.restarts",
    "placement.restart_delay_s",
    "monitor.every",
    "checkpoint.every",
    "logbook.trajectories_every",
]

KL = "objective.terms.divergence"
RKL = f"{KL}.name=reverse_kl"
ANSWERS = f"{RKL} {KL}.level=sequence {KL}.wiring=reward {KL}.estimator=k1"
EXACT = f"{RKL} {KL}.wiring=vocabulary {KL}.estimator=exact"
EXPLORE = f"{KL}.name=forward_kl"
REHEARSE = f"{EXPLORE} {KL}.route=rehearse"
IN_PROCESS = "placement.kind=in_process generator.engine=transformers"
# overrides, separated by spaces | field | words of the rule | the value
OTHER_RULES = [
    ("name=a/b", "name", "a folder name without '/'", "'a/b'"),
    ("name=''", "name", "a folder name without '/'", "''"),
    ("sampling.temperature=0", "sampling.temperature", "must be at least 0.01", "0.0"),
    ("sampling.stop=['']", "sampling.stop", "must hold texts that are not empty", "['']"),
    ("policy.system_prompt=x", "policy.system_prompt", "must be left out unless policy.chat_template is true", "'x'"),
    ("evaluate.temperatures=[0.009]", "evaluate.temperatures", "each 0 (greedy) or between 0.01", "[0.009]"),
    ("evaluate.samplings.a.temperature=0.005", "evaluate.samplings.a.temperature", "between 0.01 and 100", "[0.005]"),
    ("monitor.sampling.top_p=0", "monitor.sampling.top_p", "must be in (0, 1]", "0.0"),
    ("monitor.sampling.min_p=1", "monitor.sampling.min_p", "must be in [0, 1)", "1.0"),
    ("evaluate.samplings.a.top_k=-1", "evaluate.samplings.a.top_k", "must not be negative", "-1"),
    ("monitor.sampling.top_k=9", "monitor.kl_to_base", "must be false when monitor.sampling has another", "True"),
    ("monitor.sampling.temperature=0", "monitor.kl_to_base", "must be false when monitor.sampling has", "True"),
    ("evaluate.frontier=[0.5,0.5]", "evaluate.frontier", "must be different numbers", "[0.5, 0.5]"),
    ("monitor.frontier=[-1]", "monitor.frontier", "each 0 (greedy) or between 0.01", "[-1.0]"),
    ("sampling.top_p=0.9", "sampling.top_p", "biases every importance ratio", "0.9"),
    (
        "sampling.top_k=50",
        "sampling.top_k",
        "may be truncated: monitor.sampling.top_k, evaluate.samplings.NAME.top_k",
        "50",
    ),
    ("sampling.group_size=1", "sampling.group_size", "above 1 for objective.advantage=group_zscore", "1"),
    (
        "sampling.group_size=1 objective.advantage=leave_one_out",
        "sampling.group_size",
        "above 1 for objective.advantage=leave_one_out",
        "1",
    ),
    ("objective.clip.low=0", "objective.clip.low", "in (0, 1]", "0.0"),
    ("objective.clip.low=1.5", "objective.clip.low", "in (0, 1]", "1.5"),
    ("objective.clip.dual=1", "objective.clip.dual", "above 1 or null", "1.0"),
    ("objective.reduction=constant", "objective.constant_length", "positive when reduction is 'constant'", "0"),
    ("objective.old_policy=learner lag=1", "objective.old_policy", "ignore staleness", "'learner'"),
    (f"{KL}.coefficient.value=0.1", f"{KL}.name", "must be given", "nothing"),
    (f"{KL}.name=reverse_k1", f"{KL}.name", "did you mean 'reverse_kl'?", "'reverse_k1'"),
    (f"{EXPLORE} {KL}.alpha=1", f"{KL}.alpha", "in (0, 1)", "1.0"),
    (
        f"{REHEARSE} {KL}.wiring=reward",
        f"{KL}.wiring",
        "have no advantage to subtract from",
        "'reward'",
    ),
    (
        f"{REHEARSE} {KL}.estimator=naive",
        f"{KL}.estimator",
        "k1 (f as it is), k2, k3 (f minus tangent) or supervised",
        "'naive'",
    ),
    (f"{REHEARSE} {KL}.estimator=k2", f"{KL}.estimator", "must be k1, k3 or supervised for forward_kl", "'k2'"),
    (f"{EXPLORE} {KL}.wiring=reward", f"{KL}.estimator", "subtract the detached slope of f", "'k3'"),
    (f"{EXPLORE} {KL}.estimator=k1", f"{KL}.estimator", "nothing would be regularised", "'k1'"),
    (EXPLORE, f"{KL}.estimator", "differentiating k3 of forward_kl on explored answers is not", "'k3'"),
    (f"{KL}.name=tsallis {KL}.alpha=0", f"{KL}.alpha", "in (0, 2] for tsallis", "0.0"),
    (f"{KL}.name=tsallis {KL}.alpha=2.5", f"{KL}.alpha", "power of a single ratio overflows", "2.5"),
    (f"{RKL} {KL}.normalised=true", f"{KL}.normalised", "makes k3 a differentiated k1", "True"),
    (f"{REHEARSE} {KL}.normalised=true", f"{KL}.normalised", "here it changes nothing", "True"),
    (f"{EXPLORE} {KL}.estimator=naive {KL}.normalised=true", f"{KL}.normalised", "here it changes nothing", "True"),
    (
        f"{RKL} {KL}.estimator=exact",
        f"{KL}.estimator",
        "must not be 'exact' outside the vocabulary wiring",
        "'exact'",
    ),
    (f"{RKL} {KL}.wiring=vocabulary", f"{KL}.estimator", "must be 'exact' in the vocabulary wiring", "'k3'"),
    (f"{KL}.name=plackett_luce {KL}.estimator=k2", f"{KL}.wiring", "compares whole distributions", "'loss'"),
    (f"{EXACT} {KL}.anchor=old", f"{KL}.anchor", "distributions of the policy that sampled the answers", "'old'"),
    (f"{EXACT} {KL}.horizon=to_go", f"{KL}.horizon", "only the reward wiring subtracts", "'to_go'"),
    (f"{EXACT} {KL}.level=sequence", f"{KL}.level", "must be 'token' in the vocabulary wiring", "'sequence'"),
    (f"{REHEARSE} {KL}.anchor=old", f"{KL}.anchor", "rehearsed answers, which the reference sampled", "'old'"),
    (
        f"{RKL} {KL}.horizon=to_go",
        f"{KL}.horizon",
        "only the reward wiring subtracts",
        "'to_go'",
    ),
    (
        f"{RKL} {KL}.wiring=joint {KL}.estimator=k1 {KL}.horizon=to_go",
        f"{KL}.horizon",
        "only the reward wiring subtracts",
        "'to_go'",
    ),
    (f"{RKL} {KL}.wiring=joint", f"{KL}.estimator", "subtract the detached slope of f", "'k3'"),
    (
        f"{RKL} {KL}.anchor=old {KL}.wiring=reward {KL}.estimator=k1",
        f"{KL}.anchor",
        "the slope of the sampling policy against itself is 0",
        "'old'",
    ),
    (f"{RKL} {KL}.root=true", f"{KL}.root", "defined for whole answers", "True"),
    (
        f"{RKL} {KL}.level=sequence {KL}.root=true {KL}.anchor=old",
        f"{KL}.root",
        "at distance 0 the root has no slope",
        "True",
    ),
    (f"{REHEARSE} {KL}.level=sequence", f"{KL}.level", "must be 'token' for rehearsed answers", "'sequence'"),
    (f"{ANSWERS} {KL}.normalised=true", f"{KL}.normalised", "must be false at the sequence level", "True"),
    (f"{ANSWERS} {KL}.horizon=to_go", f"{KL}.horizon", "every token is charged for its whole answer", "'to_go'"),
    (
        f"{RKL} {KL}.level=sequence {KL}.estimator=k2",
        f"{KL}.wiring",
        "must be 'reward' (exact) or 'loss' with estimator k3",
        "'loss'",
    ),
    (
        f"{RKL} {KL}.wiring=joint {KL}.estimator=k1 objective.ratio=sequence",
        "objective.ratio",
        "whose slope is weighted by the ratio of its token",
        "'sequence'",
    ),
    ("objective.mismatch.kind=k3", "objective.old_policy", "a weight would count it twice", "'sampler'"),
    ("objective.mismatch.low=2.5", "objective.mismatch.high", "must be above low (2.5)", "2.0"),
    (
        "objective.clip.kind=cispo objective.clip.dual=3",
        "objective.clip.dual",
        "null for kind=cispo",
        "3.0",
    ),
    (
        "objective.clip.kind=sapo objective.ratio=sequence",
        "objective.ratio",
        "must be 'token' for clip.kind=sapo: the clip is a function of a token's own ratio",
        "'sequence'",
    ),
    (
        "objective.clip.kind=dppo objective.ratio=sequence",
        "objective.ratio",
        "must be 'token' for clip.kind=dppo: the clip is decided by a token's own probability",
        "'sequence'",
    ),
    (
        "objective.clip.kind=gmpo",
        "objective.ratio",
        "must be 'sequence' for clip.kind=gmpo: the clip is made on the log-ratios whose mean",
        "'token'",
    ),
    (
        f"{RKL} {KL}.wiring=joint {KL}.estimator=k1 objective.clip.kind=sapo",
        "objective.clip.kind",
        "must not be 'sapo' for a term in the joint wiring",
        "'sapo'",
    ),
    ("objective.clip.kind=dppo objective.clip.dual=3", "objective.clip.dual", "null for kind=dppo", "3.0"),
    ("objective.clip.temperature_negative=0", "objective.clip.temperature_negative", "must be positive", "0.0"),
    ("objective.covariance.fraction=2", "objective.covariance.fraction", "in [0, 1]", "2.0"),
    ("objective.covariance.high=1", "objective.covariance.high", "above low (1.0)", "1.0"),
    ("objective.covariance.penalty=0", "objective.covariance.penalty", "must be positive", "0.0"),
    ("objective.gates.long_failures=0.9", "objective.gates.long_failures", "must be at least 1", "0.9"),
    ("objective.overlong.fraction=0", "objective.overlong.fraction", "in (0, 1]", "0.0"),
    ("objective.terms.replay.name=reverse_kl", "objective.terms", "must not name a term 'replay'", "['replay']"),
    (
        "objective.recap.window=5",
        "objective.recap.window",
        "without a mixture, objective.replay_weight, or objective.rewards",
        "5",
    ),
    ("task.extraction=box", "task.extraction", "strict, boxed, last_number or tag:NAME", "'box'"),
    ("task.extraction=tag:think", "task.extraction", "strict, boxed, last_number or tag:NAME", "'tag:think'"),
    ("monitor.extraction=tag:<a>", "monitor.extraction", "strict, boxed, last_number or tag:NAME", "'tag:<a>'"),
    ("evaluate.extraction=flexible", "evaluate.extraction", "strict, boxed, last_number or tag:NAME", "'flexible'"),
    ("inspect_task.similarity=1.5", "inspect_task.similarity", "in (0, 1]", "1.5"),
    ("inspect_task.others.train.task=countdown", "inspect_task.others", "named 'train' or 'heldout'", "['train']"),
    ("replay.options.path=rows", "replay.options", "left out without task", "{path: 'rows'}"),
    (
        f"{REHEARSE} {KL}.coefficient.kind=adaptive",
        f"{KL}.coefficient.kind",
        "follows the KL to the reference on explored answers",
        "'adaptive'",
    ),
    ("rehearsal.threshold=0", "rehearsal.threshold", "between 1 and answers (8)", "0"),
    (
        "rehearsal.answers=3 rehearsal.threshold=4",
        "rehearsal.threshold",
        "between 1 and answers (3)",
        "4",
    ),
    ("learner.replicas=2", "learner.replicas", "must divide placement.learners (1)", "2"),
    ("placement.learners=4 learner.context_parallel=3", "learner.context_parallel", "must divide placement.l", "3"),
    (
        "placement.learners=2 learner.context_parallel=2 learner.layout=pack learner.token_budget=4096",
        "learner.layout",
        "not be 'pack'",
        "'pack'",
    ),
    ("learner.checkpoint_every=2", "learner.checkpoint_every", "1 without learner.gradient_checkpointing", "2"),
    ("learner.offload_activations=true", "learner.offload_activations", "must be false without learner.gr", "True"),
    ("learner.beta1=1", "learner.beta1", "in [0, 1)", "1.0"),
    ("learner.extragradient=true lag=1", "lag", "must be 0 with learner.extragradient", "1"),
    ("learner.extragradient=true steps=7", "steps", "the weights of an odd step are those of a look-ahead", "7"),
    ("learner.extragradient=true monitor.every=5", "monitor.every", "must be even with learner.extragradient", "5"),
    ("learner.extragradient=true checkpoint.every=1", "checkpoint.every", "must be even with", "1"),
    (
        "method=sdpo objective.terms.divergence.wiring=joint",
        f"{KL}.wiring",
        "for an anchor that reads feedback",
        "'joint'",
    ),
    ("method=sdpo objective.terms.divergence.reweight=reward", f"{KL}.reweight", "reads feedback", "'reward'"),
    ("method=sdpo objective.terms.divergence.weights.certainty_power=1", f"{KL}.anchor", "prompt alone", "'teacher'"),
    (
        "method=dpo references.teacher.reads=feedback objective.pairs.anchor=teacher",
        "objective.pairs.anchor",
        "must be a reference that reads the prompt alone",
        "'teacher'",
    ),
    ("method=nash_mp references.slow.every=1", "references.slow.every", "must be even with", "1"),
    ("method=nash_mp references.slow.update=kl", "references.slow.update", "must not be 'kl' with", "'kl'"),
    (
        "learner.extragradient=true learner.updates_per_batch=2",
        "learner.updates_per_batch",
        "must be 1 with extragradient",
        "2",
    ),
    ("learner.beta2=-0.1", "learner.beta2", "in [0, 1)", "-0.1"),
    ("generator.kv_cache_bytes=1000", "generator.kv_cache_bytes", "at least 2**24", "1000"),
    ("generator.memory_fraction=1", "generator.memory_fraction", "in (0, 1)", "1.0"),
    ("generator.transfer=nccl", "generator.transfer", "'host' when placement.device is 'cpu'", "'nccl'"),
    (
        "placement.kind=in_process generator.engine=vllm",
        "generator.engine",
        "'transformers' when placement.kind is 'in_process'",
        "'vllm'",
    ),
    (f"{IN_PROCESS} placement.learners=2", "placement.learners", "1 when placement.kind is 'in_process'", "2"),
    (
        f"{RKL} {KL}.coefficient.value=-1",
        "objective.terms.divergence.coefficient.value",
        "must not be negative, except for an unweighted reverse KL on explored answers",
        "-1.0",
    ),
    (
        f"{RKL} {KL}.coefficient.kind=linear {KL}.coefficient.value=-1",
        "objective.terms.divergence.coefficient.value",
        "must not be negative, except for kind=constant",
        "-1.0",
    ),
    ("placement.min_generators=2", "placement.min_generators", "must be at most placement.generators", "2"),
    ("placement.tensor_parallel=2 placement.mode=colocated", "placement.tensor_parallel", "must be 1 where", "2"),
    ("monitor.ks=[]", "monitor.ks", "between 1 and answers (32)", "[]"),
    ("monitor.answers=8 monitor.ks=[1,16]", "monitor.ks", "between 1 and answers (8)", "[1, 16]"),
    ("monitor.ks=[0]", "monitor.ks", "between 1 and answers (32)", "[0]"),
    ("evaluate.headline_k=32", "evaluate.headline_k", "must be one of ks (1, 4, 16, 64, 128), or 0", "32"),
    ("evaluate.ks=[]", "evaluate.ks", "between 1 and answers (128)", "[]"),
    ("evaluate.ks=[1,129]", "evaluate.ks", "between 1 and answers (128)", "[1, 129]"),
    ("monitor.stop_if=[retention<0.8]", "monitor.stop_if", 'must read "metric < number"', "'retention<0.8'"),
    ("warm_start.hidden_size=99", "warm_start.hidden_size", "an even multiple of heads (3)", "99"),
]


def message_for(name: str, value: float) -> str:
    """Return the error message of a value."""
    with pytest.raises(ValueError) as caught:
        load([RKL, f"{name}={value}"])
    return str(caught.value)


@pytest.mark.parametrize("name", POSITIVE)
def test_zero_is_refused_where_a_value_must_be_positive(name: str) -> None:
    assert message_for(name, 0).replace("0.0", "0") == f"{name}: must be positive, got 0"


@pytest.mark.parametrize("name", NOT_NEGATIVE)
def test_a_negative_value_is_refused_where_zero_is_the_least(name: str) -> None:
    assert message_for(name, -1).replace("-1.0", "-1") == f"{name}: must not be negative, got -1"


@pytest.mark.parametrize(("overrides", "name", "rule", "got"), OTHER_RULES)
def test_the_error_of_a_broken_rule_names_field_rule_and_value(overrides: str, name: str, rule: str, got: str) -> None:
    with pytest.raises(ValueError) as caught:
        load(overrides.split())
    message = str(caught.value)
    assert message.startswith(f"{name}: ")
    assert rule in message
    assert message.endswith(f", got {got}")


@pytest.mark.parametrize("rule", ["", "retention", "retention <", "retention = 0.8", "retention < much", "a < 1 b"])
def test_a_stop_rule_is_a_metric_a_relation_and_a_number(rule: str) -> None:
    with pytest.raises(ValueError, match=r'^stop_if: must read "metric < number" or "metric > number", got '):
        parse_stop_rule(rule)
    assert parse_stop_rule("kl_to_base > 1e2") == ("kl_to_base", ">", 100.0)


@pytest.mark.parametrize(
    "overrides",
    [
        "objective.clip.low=1 objective.clip.dual=null",
        "objective.advantage=mean_only sampling.group_size=1",
        "objective.advantage=global_whiten sampling.group_size=1",
        f"{KL}.name=reverse_kl",
        f"{EXPLORE} {KL}.estimator=straight_through",
        f"{EXPLORE} {KL}.wiring=reward {KL}.estimator=k1",
        f"{REHEARSE} {KL}.estimator=k1",
        f"{EXACT} {KL}.route=rehearse",
        f"{EXPLORE} {KL}.estimator=naive",
        f"{RKL} {KL}.estimator=ratio_weighted {KL}.normalised=true {KL}.anchor=old",
        f"{RKL} {KL}.wiring=reward {KL}.estimator=k1 {KL}.horizon=to_go {KL}.normalised=true",
        f"{KL}.name=chi_squared {KL}.level=sequence {KL}.estimator=k3 {KL}.root=true",
        f"{KL}.name=tsallis {KL}.alpha=2 {KL}.estimator=straight_through",
        f"{ANSWERS} {KL}.root=true {KL}.coefficient.kind=safe",
        "objective.mismatch.kind=k3 objective.old_policy=learner",
        "objective.mismatch.veto=0.0001 objective.clip.kind=kl3 objective.clip.dual=3",
        "placement.device=gpu placement.tensor_parallel=2 generator.transfer=nccl",
        "placement.tensor_parallel=2 placement.environment={}",
        "rehearsal.threshold=8 learner.beta1=0 warm_start.hidden_size=12 warm_start.heads=6",
        IN_PROCESS,
    ],
)
def test_settings_at_the_allowed_limits_are_accepted(overrides: str) -> None:
    assert isinstance(load(overrides.split()), Config)


def test_a_config_is_frozen() -> None:
    with pytest.raises(AttributeError):
        Config().steps = 0  # type: ignore[misc]
