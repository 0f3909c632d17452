"""Extraction modes of the mathematics verifier: which part of a response each of them reads, and how they travel."""

import pytest

from rewards.judge import judge_all
from rewards.mathematics.answer import check_problem, verify
from rewards.mathematics.modes import extract

RIGHT = {
    "boxed": [
        r"so \boxed{72}",
        r"\boxed{71}. No: \boxed{72}",
        r"<think>\boxed{71}</think> \boxed{72} is it, not 71",
        r"\boxed{72} or \boxed{72.0}",
    ],
    "last_number": [
        "first 71, then 72.",
        "= $72",
        "is **72**",
        r"\boxed{72}",
        "72 m^2",
        "72^{\\circ}",
        "He has 72 on the 2nd of May.",
        "H2O weighs 72",
        r"7{,}1 and 72.00",
        "Day 3: 72",
        "the sum of apples - 72",
        "72:",
        "<think>72 or 5</think> 72 <|im_end|> 5",
    ],
    "tag:answer": [
        "<answer>72</answer>",
        "<answer>71</answer> No: <answer> 72\n</answer> 5",
        r"<answer>So \boxed{72}</answer> \boxed{71}",
        "<think><answer>71</answer></think><answer>$72$</answer><|im_end|>",
        "<Answer>71</Answer> <ANSWER>72</answer>",
    ],
    "tag:final-result_2": ["<answer>71</answer><final-result_2>72</final-result_2>"],
}
# Texts whose last number is only a part of a value.
PARTS = [
    "2+72i",
    "x-72",
    "10-72",
    "(3)-72",
    "$x$ - 72",
    "10 -72",
    "$10 - $72",
    "12:72",
    "3 : 72",
    "72:x",
    "1/72x",
    "72x",
]
PARTS += ["72!", "72/x", "72 + x", r"\frac{x}{72}", r"\frac{72}{x}", r"\pm 72", r"2 \cdot 72"]
NONE = {
    "boxed": ["72", "#### 72", "the answer is 72", r"<think>\boxed{72}</think>72", r"\boxed{72", ""],
    "last_number": [
        "",
        "seventy-two",
        "x^72",
        "v72",
        "72nd",
        r"72\sqrt{2}",
        r"72 \times 10^3",
        r"72\pi",
        "<think>72",
        *PARTS,
    ],
    "tag:answer": [
        "72",
        r"\boxed{72}",
        "<answer>72",
        "72</answer>",
        "<answer> </answer>",
        "</answer>72<answer>",
        "<think><answer>72</answer>",
        "<answer2>72</answer2>",
    ],
}


@pytest.mark.parametrize(("mode", "response"), [(mode, text) for mode, texts in RIGHT.items() for text in texts])
def test_a_mode_reads_the_part_of_the_response_that_it_is_named_after(mode: str, response: str) -> None:
    assert verify(response, {"answer": "72", "extraction": mode}).status == "correct"
    assert verify(response, {"answer": "73", "extraction": mode}).status == "wrong"


@pytest.mark.parametrize(("mode", "response"), [(mode, text) for mode, texts in NONE.items() for text in texts])
def test_a_response_without_that_part_has_no_answer_whatever_else_it_says(mode: str, response: str) -> None:
    verdict = verify(response, {"answer": "72", "extraction": mode})
    assert (verdict.status, verdict.reward) == ("no_answer", 0.0)
    assert verdict.reason.startswith("no final answer: no ")


@pytest.mark.parametrize(
    ("response", "number"),
    [
        ("3/4 of it", "3/4"),
        ("2 1/2 cups", "2 1/2"),
        (r"2\frac{1}{2}", r"2\frac{1}{2}"),
        (r"-\dfrac34", r"-\dfrac34"),
        ("x = -4", "-4"),
        ("−7", "−7"),
        ("$-5", "-5"),
        ("-$1,234.50.", "-$1,234.50"),
        (r"1{,}234 or 12\,345", "12,345"),
        ("1 200", "1,200"),
        ("$12 345 678.", "$12,345,678"),
        ("1,2,3", "3"),
        ("1,2345", "2345"),
        ("50\\%", "50\\%"),
        ("1.5e-3", "1.5e-3"),
        (".5", ".5"),
    ],
)
def test_the_last_number_is_read_whole_with_its_sign_and_separators(response: str, number: str) -> None:
    final = extract(response, "last_number")
    assert final is not None and final.text == number
    assert verify(response, {"answer": number, "extraction": "last_number"}).status == "correct"


def test_without_a_mode_the_extraction_is_strict() -> None:
    for response in ("72", "#### 72", r"\boxed{72} not 71", "it is 72 not 71", "<answer>72</answer>"):
        assert verify(response, {"answer": "72"}) == verify(response, {"answer": "72", "extraction": "strict"})
    assert verify("It took 71 days, 72 at most", {"answer": "72"}).status != "correct"


def test_a_verdict_notes_what_was_extracted_up_to_a_limit() -> None:
    assert verify(r"so \boxed{72} cm", {"answer": "72"}).extracted == "72"
    assert verify("2, then 3 apples", {"answer": "72", "extraction": "last_number"}).extracted == "3"
    assert verify("I do not know what it may be.", {"answer": "72", "extraction": "boxed"}).extracted == ""
    assert verify(rf"\boxed{{{'x' * 900}}}", {"answer": "72"}).extracted == "x" * 200


@pytest.mark.parametrize("mode", ["Boxed", "", None, 3, "tag:", "tag:think", "tag:a b", "tag:" + "a" * 50, ["boxed"]])
def test_an_unknown_mode_is_a_fault_of_the_problem_and_never_a_reward(mode: object) -> None:
    problem = {"answer": "72", "extraction": mode}
    assert verify(r"\boxed{72}", problem).status == "grader_error"
    [fault] = check_problem(problem)
    assert fault.startswith("extraction: must be strict, boxed, last_number or tag:NAME")


@pytest.mark.parametrize("mode", ["boxed", "last_number", "tag:answer"])
@pytest.mark.parametrize(
    "part",
    [
        "1",
        "1,234,",
        "1{,}234",
        r"\boxed{",
        "<answer>",
        "</answer>",
        "<",
        r"\frac{1}{",
        "-",
        "1 1/",
        "9.",
        "1e",
        "{",
        "^",
    ],
)
def test_a_long_hostile_response_takes_linear_time_and_is_not_right(mode: str, part: str) -> None:
    # 2^20 characters, the most that a judge passes on. A quadratic search would take minutes.
    response = part * (2**20 // len(part))
    assert verify(response, {"answer": "-123456789.5", "extraction": mode}).reward == 0.0


def test_a_cached_verdict_of_one_mode_is_not_that_of_another() -> None:
    answer = r"It is \boxed{72}, not 71."
    problems = [{"answer": "72", "extraction": mode} for mode in ("boxed", "last_number", "tag:answer", "boxed")]
    verdicts = judge_all("math", [(problem, answer) for problem in [*problems, {"answer": "72"}]], workers=1)
    assert [verdict.status for verdict in verdicts] == ["correct", "wrong", "no_answer", "correct", "correct"]
