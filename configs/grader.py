"""Graders: worker processes, deadlines and self-tests."""

from dataclasses import dataclass

from configs.checks import require_not_negative, require_positive


@dataclass(frozen=True, kw_only=True)
class GraderConfig:
    """Settings of every grader."""

    workers: int = 0
    """Worker processes of one grader that judge at the same time. 0: as many as the verifier needs. A built-in verifier
    gets one for each core (those of `placement.cpus_per_grader` if that is 1 or more, else all of the machine). A
    function of your own starts with one and gets more as its calls are measured: one for each core if it computes, up
    to 16 if it waits, for example for a network; one alone while it takes more than 1 GiB, as with a model in it. An
    async function has one worker, with up to 64 calls at a time."""
    timeout_s: float = 6.0
    """Longest judgement of one answer in seconds of wall time, without the wait for a free worker. Then the worker is
    killed and the answer gets status `timeout`. Verifiers of Breadth have shorter limits of their own (countdown,
    first_number and scratchpad_sum 1 s, math 3 s, sql 5 s). The limit of `code` follows from the time limits of the
    problem alone; that of `sql` counts for each database anew, and is longer where the gold query is slow."""
    first_call_timeout_s: float = 300.0
    """Longest time in seconds in which a function of your own is loaded in a worker process, and longest first call in
    it; a model may be loaded then. After the first worker, twice the time that its first call took, if that is less."""
    canary_every_s: float = 300.0
    """Seconds between two self-tests of each verifier in use, with a correct and a wrong answer."""

    def __post_init__(self) -> None:
        require_not_negative(self, "workers")
        require_positive(self, "timeout_s", "first_call_timeout_s", "canary_every_s")
