"""Refuse a run whose every term compares the starting policy with itself: nothing would ever have a gradient."""

from configs.checks import require
from configs.config import Config


def check_gradient(cfg: Config) -> None:
    """Raise ValueError, naming the setting, if neither rewards nor any term can have a gradient."""
    objective = cfg.objective
    if objective.advantage != "none" or objective.entropy_bonus or objective.replays:
        return
    weighed = {name: term for name, term in objective.terms.items() if not term.coefficient.always_zero}
    rule = "must be other than 'none' where every coefficient is 0: nothing would be trained on"
    require(bool(weighed), "objective.advantage", rule, objective.advantage)
    if all(term.vanishes_at_anchor and _is_start(cfg, term.anchor) for term in weighed.values()):
        name, term = next(iter(weighed.items()))
        setting, path = _setting(cfg, name, term.anchor)
        rule = (
            "must be another policy than policy.path, because objective.advantage is none: "
            "the policy would be compared with itself, and no term would have a gradient"
        )
        require(False, setting, rule, path)


def _setting(cfg: Config, term: str, anchor: str) -> tuple[str, str]:
    """Return the setting that names the anchor's weights, and its value."""
    if anchor == "old":
        return f"objective.terms.{term}.anchor", anchor
    if anchor == "reference":
        return "reference_path", cfg.reference_path
    return f"references.{anchor}.path", cfg.references[anchor].path


def _is_start(cfg: Config, anchor: str) -> bool:
    """Return whether the anchor is the policy at the first step, from which then neither departs."""
    if anchor in cfg.references and (cfg.references[anchor].soup or cfg.references[anchor].informed):
        return False
    return anchor == "old" or cfg.starts_from(_setting(cfg, "", anchor)[1])
