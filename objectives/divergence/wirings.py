"""The wiring of each legal form of a divergence term; what is legal is decided in `configs/forms.py`."""

from configs.forms import Level, Route
from configs.forms import Wiring as WiringName
from configs.terms import TermConfig
from objectives.divergence.wiring import explore_loss, joint, rehearse, reward, vocabulary, whole_answer
from objectives.divergence.wiring.term import Wiring

WIRINGS: dict[tuple[Route, Level, WiringName], Wiring] = {
    ("explore", "token", "loss"): explore_loss.WIRING,
    ("explore", "token", "reward"): reward.WIRING,
    ("explore", "token", "joint"): joint.WIRING,
    ("explore", "token", "vocabulary"): vocabulary.WIRING,
    ("explore", "sequence", "loss"): whole_answer.LOSS,
    ("explore", "sequence", "reward"): whole_answer.REWARD,
    ("rehearse", "token", "loss"): rehearse.WIRING,
    ("rehearse", "token", "vocabulary"): vocabulary.WIRING,
}


def wiring_of(term: TermConfig) -> Wiring:
    """Return the functions of the term's wiring."""
    return WIRINGS[term.route, term.level, term.wiring]
