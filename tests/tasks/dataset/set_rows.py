"""Hand-made rows of every known set, in its own columns and files, with right and wrong answers to one of them."""

import json
from dataclasses import dataclass
from typing import Any

from tests.tasks.dataset.format_rows import BIRD, GSM8K, HUMANEVAL, MBPP, SPIDER, packed

BOXED = "\n\nReason step by step, and put the final answer in \\boxed{}."
SQUARE = "print(int(input()) ** 2)"


def program(code: str) -> str:
    return f"```python\n{code}\n```"


@dataclass(frozen=True, kw_only=True)
class Example:
    """Files of a repository with the rows of a set, and what is expected of the first row."""

    repository: str
    files: dict[str, list[Any]]
    """Rows by path. A path that ends in .json holds an array."""
    card: str = ""
    prompt: str
    """The whole prompt of the row."""
    right: tuple[str, ...]
    wrong: tuple[str, ...]
    heldout: tuple[str, dict[str, list[Any]]] | None = None
    """Another repository with held-out rows."""


def texts(files: dict[str, list[Any]]) -> dict[str, str]:
    """Return the contents of files of rows by path."""
    return {
        path: json.dumps(rows) if path.endswith(".json") else "".join(json.dumps(row) + "\n" for row in rows)
        for path, rows in files.items()
    }


def math(question: str, answer: Any, **columns: Any) -> dict[str, Any]:
    return {"problem": question, "answer": answer, **columns}


def configs(*lines: str) -> str:
    return "---\nconfigs:\n" + "\n".join(lines) + "\n---\n"


AIME = math("Find the number of $n < 300$ that are squares.", "17", solution="There are $\\boxed{17}$.", year="2024")
TEN = "What is $4 + 6$?"
TESTS = json.dumps([{"input": "3\n", "output": "9\n"}, {"input": "4\n", "output": "16\n"}])
CONTEST = {
    "question_content": "Print the square of the number.",
    "starter_code": "",
    "public_test_cases": '[{"input": "3\\n", "output": "9\\n", "testtype": "stdin"}]',
    "private_test_cases": '[{"input": "5\\n", "output": "25\\n", "testtype": "stdin"}]',
    "metadata": "{}",
}
PACKED = CONTEST | {
    "question_content": "The same.",
    "private_test_cases": packed(CONTEST["private_test_cases"]),
}
STDIO = (
    "Write a Python program that reads from standard input and writes to standard output. "
    "Answer with the whole program in a ```python block."
)
SCHEMA = (
    "CREATE TABLE orchard (id INTEGER PRIMARY KEY AUTOINCREMENT, planted INTEGER);\n\n"
    "CREATE VIEW old AS SELECT id FROM orchard WHERE planted < 1950;"
)
QUERY = "\n\nAnswer with one SQLite query in a ```sql block."
VERL = {
    "data_source": "train-math-deepscaler",
    "prompt": [{"role": "user", "content": f"{TEN} Put the answer within \\boxed{{}}."}],
    "reward_model": {"ground_truth": '["10"]', "style": "rule"},
    "extra_info": {"index": 3, "model_difficulty": {"DeepSeek-R1-Distill-Qwen-7B": 2}},
}
EXAMPLES: dict[str, Example] = {
    "gsm8k": Example(
        repository="openai/gsm8k",
        card=configs(
            "- config_name: main",
            "  data_files:",
            "  - {split: train, path: main/train-*}",
            "  - {split: test, path: main/test-*}",
            "- {config_name: socratic, data_files: socratic/train-*}",
        ),
        files={
            "main/train-00000-of-00001.jsonl": [{"question": "One and one?", "answer": "#### 2"}],
            "main/test-00000-of-00001.jsonl": [GSM8K],
            "socratic/train-00000-of-00001.jsonl": [{"question": "?"}],
        },
        prompt=GSM8K["question"] + BOXED,
        right=("So \\boxed{84}.", "#### 84"),
        wrong=("\\boxed{42}", "84 or 42", ""),
    ),
    "math": Example(
        repository="DigitalLearningGmbH/MATH-lighteval",
        files={
            "data/train-00000-of-00001.jsonl": [math("What is $1 + 1$?", None, solution="It is $\\boxed{2}$.")],
            "data/test-00000-of-00001.jsonl": [
                {"problem": "Halve $1$.", "level": "Level 1", "type": "Algebra", "solution": "$\\boxed{\\frac{1}{2}}$."}
            ],
        },
        prompt="Halve $1$." + BOXED,
        right=("$\\boxed{\\frac12}$", "\\boxed{0.5}"),
        wrong=("\\boxed{2}",),
    ),
    "math500": Example(
        repository="HuggingFaceH4/MATH-500",
        files={"test.jsonl": [math(TEN, "10", solution="\\boxed{10}", subject="Algebra", level=1, unique_id="a/1")]},
        prompt=TEN + BOXED,
        right=("\\boxed{10}",),
        wrong=("\\boxed{11}",),
    ),
    "aime24": Example(
        repository="HuggingFaceH4/aime_2024",
        files={"data/train-00000-of-00001.jsonl": [AIME]},
        prompt=AIME["problem"] + BOXED,
        right=("\\boxed{17}", "\\boxed{017}"),
        wrong=("\\boxed{16}",),
    ),
    "aime25": Example(
        repository="math-ai/aime25",
        files={"test.jsonl": [math(TEN, "10", id="0")]},
        prompt=TEN + BOXED,
        right=("\\boxed{10}",),
        wrong=("\\boxed{100}",),
    ),
    "amc23": Example(
        repository="math-ai/amc23",
        files={"test-00000-of-00001.jsonl": [{"id": 0, "question": TEN, "answer": "10.0", "url": "u"}]},
        prompt=TEN + BOXED,
        right=("\\boxed{10}",),
        wrong=("\\boxed{1}",),
    ),
    "olympiadbench": Example(
        repository="Hothan/OlympiadBench",
        card=configs(
            "- config_name: OE_TO_maths_en_COMP",
            "  data_files:",
            "  - {split: train, path: OlympiadBench/OE_TO_maths_en_COMP/OE_TO_maths_en_COMP.jsonl}",
            "- config_name: TP_TO_maths_en_COMP",
            "  data_files: OlympiadBench/TP_TO_maths_en_COMP/TP_TO_maths_en_COMP.jsonl",
        ),
        files={
            "OlympiadBench/OE_TO_maths_en_COMP/OE_TO_maths_en_COMP.jsonl": [
                {"id": 1, "question": TEN, "final_answer": ["$10$"], "context": None, "is_multiple_answer": False}
            ],
            "OlympiadBench/TP_TO_maths_en_COMP/TP_TO_maths_en_COMP.jsonl": [{"id": 2, "question": "Prove."}],
        },
        prompt=TEN + BOXED,
        right=("\\boxed{10}",),
        wrong=("\\boxed{20}",),
    ),
    "minerva": Example(
        repository="math-ai/minervamath",
        files={"test.jsonl": [{"question": "What is the energy in erg?", "answer": "2.5e5"}]},
        prompt="What is the energy in erg?" + BOXED,
        right=("\\boxed{2.5e5}", "\\boxed{2.5 \\times 10^5}"),
        wrong=("\\boxed{2.5}",),
    ),
    "humaneval": Example(
        repository="openai/openai_humaneval",
        files={"openai_humaneval/test-00000-of-00001.jsonl": [HUMANEVAL]},
        prompt="Complete this Python function. Answer with the whole function in a ```python block.\n\n```python\n"
        + HUMANEVAL["prompt"].strip("\n")
        + "\n```",
        right=(program(HUMANEVAL["prompt"] + HUMANEVAL["canonical_solution"]),),
        wrong=(program("def halve(number):\n    return number"),),
    ),
    "mbpp": Example(
        repository="google-research-datasets/mbpp",
        card=configs(
            "- config_name: full",
            "  data_files: [{split: train, path: full/train-*}, {split: test, path: full/test-*}]",
            "- config_name: sanitized",
            "  data_files: [{split: train, path: sanitized/train-*}]",
        ),
        files={
            "full/train-00000-of-00001.jsonl": [MBPP | {"text": "Another."}],
            "full/test-00000-of-00001.jsonl": [MBPP],
            "sanitized/train-00000-of-00001.jsonl": [{"prompt": "?"}],
        },
        prompt=f"{MBPP['text']}\n\nThe function must be called `join_words` and pass tests such as\n\n```python\n"
        "assert str(join_words(['a', 'b'])) == 'a-b'\n```\n\nAnswer with the whole program in a ```python block.",
        right=(program("def join_words(words):\n    return '-'.join(words)"),),
        wrong=(program("def join_words(words):\n    return ''"),),
    ),
    "livecodebench": Example(
        repository="livecodebench/code_generation_lite",
        files={"test.jsonl": [CONTEST], "test6.jsonl": [PACKED]},
        prompt=f"{CONTEST['question_content']}\n\n{STDIO}",
        right=(program(SQUARE),),
        wrong=(program("print(9)"),),
    ),
    "spider": Example(
        repository="xlangai/spider",
        files={
            "spider/train-00000-of-00001.jsonl": [SPIDER | {"question": "How many?"}],
            "spider/validation-00000-of-00001.jsonl": [SPIDER],
        },
        prompt=f"{SCHEMA}\n\n{SPIDER['question']}{QUERY}",
        right=("```sql\nSELECT COUNT(id) FROM orchard\n```",),
        wrong=("```sql\nSELECT 7\n```",),
    ),
    "bird": Example(
        repository="birdsql/bird23-train-filtered",
        files={
            "data/train-00000-of-00001.jsonl": [BIRD | {"question": "How many?"}],
            "train_column_meaning.json": [{"farm|orchard|planted": "the year"}],
        },
        heldout=(
            "birdsql/bird_sql_dev_20251106",
            {"data/dev_20251106-00000-of-00001.json": [BIRD | {"question_id": 0}]},
        ),
        prompt=f"{SCHEMA}\n\n{BIRD['question']}\nHint: {BIRD['evidence']}{QUERY}",
        right=("```sql\nSELECT count(*) FROM orchard WHERE planted <= 1949\n```",),
        wrong=("```sql\nSELECT count(*) FROM orchard\n```",),
    ),
    "dapo-math-17k": Example(
        repository="open-r1/DAPO-Math-17k-Processed",
        card=configs(
            "- {config_name: all, data_files: [{split: train, path: all/train-*}], default: true}",
            "- {config_name: en, data_files: [{split: train, path: en/train-*}]}",
        ),
        files={
            "all/train-00000-of-00001.jsonl": [
                {"prompt": TEN, "solution": "10", "data_source": "math_dapo", "source_prompt": [], "ability": "MATH"}
            ],
            "en/train-00000-of-00001.jsonl": [],
        },
        prompt=TEN + BOXED,
        right=("\\boxed{10}",),
        wrong=("\\boxed{9}",),
    ),
    "deepscaler": Example(
        repository="agentica-org/DeepScaleR-Preview-Dataset",
        files={"deepscaler.json": [math(TEN, "10", solution="")]},
        prompt=TEN + BOXED,
        right=("\\boxed{10}",),
        wrong=("\\boxed{9}",),
    ),
    "orz": Example(
        repository="Open-Reasoner-Zero/orz_math_57k_collection",
        files={
            "orz_math_57k_collection.json": [
                [{"from": "human", "value": TEN}, {"from": "assistant", "ground_truth": {"value": "10"}}]
            ]
        },
        prompt=TEN + BOXED,
        right=("\\boxed{10}",),
        wrong=("\\boxed{9}",),
    ),
    "skywork-or1": Example(
        repository="Skywork/Skywork-OR1-RL-Data",
        files={"data/math-00000-of-00001.jsonl": [VERL], "data/code-00000-of-00003.jsonl": [{}]},
        prompt=f"{TEN} Put the answer within \\boxed{{}}.",
        right=("\\boxed{10}",),
        wrong=('\\boxed{["10"]}', "\\boxed{9}"),
    ),
    "deepcoder": Example(
        repository="agentica-org/DeepCoder-Preview-Dataset",
        files={
            "primeintellect/train-00000-of-00001.jsonl": [{"problem": "Print the square.", "tests": TESTS}],
            "taco/train-00000-of-00001.jsonl": [
                {"problem": "Add.", "tests": '{"fn_name": "add", "inputs": [[1, 2]], "outputs": [[3]]}'}
            ],
            "lcbv5/train-00000-of-00001.jsonl": [
                {"problem": "Square.", "starter_code": "", "tests": CONTEST["public_test_cases"], "metadata": "{}"}
            ],
            "codeforces/test-00000-of-00001.jsonl": [{}],
        },
        prompt=f"Square.\n\n{STDIO}",
        right=(program(SQUARE),),
        wrong=(program("print(8)"),),
    ),
}
