"""Check that the policy's attention can be computed in the layout, and by the ranks, that the settings name."""

from actors.learning.context import check_context
from actors.policy_files.reading import load_config, meta_model
from actors.scoring.attention import resolved, undivided_layers, varlen_refusal, window
from actors.scoring.varlen import NAME
from configs.config import Config
from configs.learner import WIDEST_MASK


def check_layout(cfg: Config) -> None:
    """Check `learner.layout`, `learner.context_parallel` and `placement.tensor_parallel` against the policy's
    architecture, by its config.json.

    Raises:
        ValueError: the model cannot be computed so, or its rows may become so long that they need too large a mask;
            names the setting.
    """
    config, parallel = load_config(cfg.policy.path), cfg.placement.tensor_parallel
    if parallel > 1 and (rule := undivided_layers(config, parallel)):
        raise ValueError(f"placement.tensor_parallel: {rule}, got {parallel}")
    ranks = cfg.learner.context_parallel
    longest = cfg.sampling.max_prompt_tokens + cfg.sampling.max_new_tokens
    if cfg.learner.layout in ("auto", "pad") and ranks == 1 and longest <= WIDEST_MASK:
        return  # no model is refused, so none is built
    model = meta_model(config)
    device = "cuda" if cfg.placement.device == "gpu" else "cpu"
    layout = resolved(cfg.learner.layout, model, device=device, dtype=cfg.policy.dtype, elsewhere=True)
    if layout == "varlen":
        model.set_attn_implementation(NAME)
    if ranks > 1:
        check_context(model, ranks)
    size = window(model)
    if layout != "varlen" and size is not None and longest > max(WIDEST_MASK, size - 1):
        other = varlen_refusal(model)
        advice = f"it cannot be 'varlen' for {type(model).__name__}, {other}" if other else "take learner.layout=varlen"
        raise ValueError(
            f"sampling.max_new_tokens: with sampling.max_prompt_tokens must be at most {WIDEST_MASK:,} for a model "
            f"with windows of {size:,} tokens in learner.layout={layout}; its mask has row x row elements; got "
            f"{cfg.sampling.max_prompt_tokens:,} + {cfg.sampling.max_new_tokens:,}; {advice}, or shorten the answers"
        )
