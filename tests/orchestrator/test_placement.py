"""How roles share the cores of a machine, when they load and with how many threads they compute; and which weight
transfers a placement allows."""

import pytest

from configs.config import Config
from configs.load import load
from orchestrator.placement import check_transfer, load_order, reservations, threads
from orchestrator.preflight.named import check_training

ALL = ("learner", "generator", "grader", "reference")


def config(*overrides: str) -> Config:
    return load(["scale=cpu", *overrides])


@pytest.mark.parametrize(
    ("overrides", "cores", "learner", "generator"),
    [
        ((), 2, 2, 2),  # they take turns
        (("lag=1",), 2, 1, 1),
        (("lag=1",), 8, 4, 4),
        (("lag=1", "placement.generators=3"), 8, 2, 2),  # 8 // (3 + 1)
        (("lag=1", "placement.references=3"), 8, 2, 2),  # references and learner take turns
        (("placement.learners=2",), 8, 4, 8),
        (("placement.generators=16",), 8, 8, 1),  # never none
        (("placement.tensor_parallel=2",), 8, 8, 4),  # a generator of two processes
        (("placement.tensor_parallel=2", "lag=1"), 8, 2, 2),  # 8 // (2 + 1)
        (("placement.tensor_parallel=2", "placement.cpus_per_generator=6"), 0, 1, 3),
        (("placement.threads_per_learner=3", "lag=1"), 2, 3, 1),
        (("placement.cpus_per_learner=6",), 0, 6, 1),  # a cluster: as reserved, and a generator reserves 1
        ((), 0, 1, 1),  # 0.5 is reserved for a learner
    ],
)
def test_the_cores_are_divided_among_the_actors_that_work_at_the_same_time(
    overrides: tuple[str, ...], cores: int, learner: int, generator: int
) -> None:
    cfg = config(*overrides)
    assert (threads(cfg, "learner", ALL, cores), threads(cfg, "generator", ALL, cores)) == (learner, generator)


def test_generators_without_a_learner_have_all_cores_whatever_the_lag() -> None:
    assert threads(config("lag=2"), "generator", ["generator", "grader"], 8) == 8


def test_on_few_cores_the_other_roles_load_one_after_another_beside_the_generators() -> None:
    cfg = config("placement.references=2")

    def order(cores: int) -> list[tuple[str, int | None]]:
        return [(one.role, after) for one, after in load_order(reservations(cfg, ALL), cores)]

    names = ["generator", "learner", "grader", "reference", "reference"]
    assert order(2) == order(1) == list(zip(names, [None, None, 1, 2, 3], strict=True))
    assert order(3) == list(zip(names, [None, None, None, 1, 2], strict=True))
    assert order(5) == order(0) == list(zip(names, [None] * 5, strict=True))


def test_a_grader_has_one_thread() -> None:
    assert threads(config(), "grader", ALL, 8) == 1


def test_a_negative_number_of_threads_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^placement.threads_per_learner: must not be negative, got -1"):
        config("placement.threads_per_learner=-1")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["scale=8gpu", "placement.mode=colocated"],
            "generator.transfer: must be 'ipc' or 'host' with placement.mode=colocated: generators and learners are on "
            "the same GPUs, got 'nccl'",
        ),
        (
            ["scale=8gpu", "generator.transfer=ipc"],
            "generator.transfer: must be 'nccl' or 'host' with placement.mode=split: generators and learners are on "
            "different GPUs, got 'ipc'",
        ),
        (
            ["scale=8gpu_colocated", "placement.learners=4"],
            r"placement.generators: must be at most placement.learners \(4\) with generator.transfer=ipc: weights stay "
            "on a GPU, got 8",
        ),
    ],
)
def test_a_run_whose_weights_could_not_get_to_its_generators_is_refused_before_it_starts(
    words: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        check_training(load(words))


@pytest.mark.parametrize(
    "words",
    [
        ["scale=1gpu"],
        ["scale=8gpu"],
        ["scale=8gpu_colocated", "placement.generators=4"],
        ["scale=8gpu_colocated", "placement.learners=4", "generator.transfer=host"],
        ["scale=8gpu", "placement.mode=colocated", "learner.lora.r=8"],  # an adapter goes through host memory
        ["scale=cpu", "placement.mode=colocated"],
    ],
)
def test_weights_get_to_the_generators_by_host_memory_or_by_the_transfer_that_fits_the_placement(
    words: list[str],
) -> None:
    check_transfer(load(words))
