"""An example row of every format, and sources made of rows."""

import base64
import json
import pickle
import sqlite3
import zlib
from contextlib import closing
from pathlib import Path
from typing import Any

from configs.task import TaskConfig
from tasks.registry import build
from tasks.source import Source
from trajectories.trajectory import Prompt

STOCK = "CREATE TABLE stock (fruit TEXT, kilos REAL);\nINSERT INTO stock VALUES ('plum', 3.5), ('fig', 1.0);"
GSM8K = {
    "question": "A crate holds 6 rows of 7 plums. How many plums are in 2 crates?",
    "answer": "One crate holds 6*7=<<6*7=42>>42 plums.\nTwo hold 42*2=<<42*2=84>>84.\n#### 84",
}
MATH = {"problem": "Find $x$ if $2x = 1$.", "solution": "Halving, $x = \\boxed{\\frac{1}{2}}$.", "level": "Level 1"}
SQL = {"question": "Which fruit is heaviest?", "schema_sql": STOCK, "gold_sql": "SELECT 'plum'"}
SPIDER = {"question": "How many orchards are there?", "query": "SELECT count(*) FROM orchard", "db_id": "farm"}
BIRD = {
    "question": "How many old orchards are there?",
    "evidence": "old means planted before 1950",
    "SQL": "SELECT count(*) FROM orchard WHERE planted < 1950",
    "db_id": "farm",
}
CODE = {
    "kind": "assert",
    "question": "Return the double of a number.",
    "entry_point": "double",
    "tests": "assert double(4) == 8",
    "solution": "def double(number):\n    return 2 * number",
    "timeout_s": 2,
}
ECHO = {
    "kind": "stdio",
    "question": "Print the line twice.",
    "tests": [{"stdin": "a\n", "stdout": "a\na\n"}],
    "solution": "line = input()\nprint(line)\nprint(line)",
}
HUMANEVAL = {
    "task_id": "Own/0",
    "prompt": 'def halve(number: float) -> float:\n    """Half of a number."""\n',
    "canonical_solution": "    return number / 2\n",
    "test": "def check(candidate):\n    assert candidate(3) == 1.5\n    assert candidate(0) == 0\n",
    "entry_point": "halve",
}
MBPP = {
    "task_id": 1,
    "text": "Write a function that joins words by a dash.",
    "code": "def helper(words):\n    return '-'.join(words)\ndef join_words(words):\n    return helper(words)",
    "test_list": ["assert str(join_words(['a', 'b'])) == 'a-b'", "assert join_words([]) == ''"],
    "test_setup_code": "",
    "challenge_test_list": ["assert join_words(['x']) == 'x'"],
}
CASES = [
    {"input": "3\n", "output": "9\n", "testtype": "stdin"},
    {"input": "4\n", "output": "16\n", "testtype": "stdin"},
]
CONTEST = {
    "question_title": "Square",
    "question_content": "Print the square of the number.",
    "starter_code": "",
    "public_test_cases": json.dumps(CASES[:1]),
    "private_test_cases": json.dumps(CASES[1:]),
    "metadata": "{}",
}
METHOD = CONTEST | {
    "question_content": "Return the pair of a list's sum and whether it is even.",
    "starter_code": "class Solution:\n    def pair(self, numbers: List[int], offset: float):\n        ",
    "public_test_cases": json.dumps([{"input": "[1, 2]\n0.5", "output": "[3.5, false]", "testtype": "functional"}]),
    "private_test_cases": json.dumps([{"input": "[]\n2", "output": "[2, true]", "testtype": "functional"}]),
    "metadata": json.dumps({"func_name": "pair"}),
}
DEEPCODER = {"problem": "Print the square.", "tests": json.dumps([{"input": "3\n", "output": "9\n"}])}
ORZ = {"0": {"from": "human", "value": "What is 4 + 6?"}, "1": {"from": "assistant", "ground_truth": {"value": "10"}}}
VERL = {
    "data_source": "openai/gsm8k",
    "prompt": [{"role": "user", "content": 'What is 48 + 24? Give the final answer after "####".'}],
    "ability": "math",
    "reward_model": {"style": "rule", "ground_truth": "72"},
    "extra_info": {"split": "train", "index": 0, "answer": "48 + 24 = 72\n#### 72"},
}
TRL = {
    "prompt": [
        {"role": "system", "content": "Answer in \\boxed{}."},
        {"role": "user", "content": "Find x."},
        {"role": "assistant", "content": "Given what?"},
        {"role": "user", "content": "2x = 1"},
    ],
    "solution": "Halving, $x = \\boxed{\\frac{1}{2}}$.",
}
OPEN_INSTRUCT = {
    "messages": [{"role": "user", "content": "What is 48 + 24?"}],
    "ground_truth": "72",
    "dataset": "gsm8k",
}
ROWS = {
    "plain": {"prompt": "6*7=", "answer": "42"},
    "gsm8k": GSM8K,
    "math": MATH,
    "sql": SQL,
    "spider": SPIDER,
    "bird": BIRD,
    "code": CODE,
    "humaneval": HUMANEVAL,
    "mbpp": MBPP,
    "livecodebench": CONTEST,
    "deepcoder": DEEPCODER,
    "orz": ORZ,
    "skywork": VERL | {"reward_model": {"ground_truth": '["72"]'}},
    "verl": VERL,
    "trl": TRL,
    "open_instruct": OPEN_INSTRUCT,
}


def packed(value: object) -> str:
    """Return a value as the public release of LiveCodeBench packs private tests."""
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


def make_databases(folder: Path) -> Path:
    """Make the database `farm` with two sets of rows, a broken database and an empty one; return `folder`."""
    farm = folder / "databases" / "farm"
    farm.mkdir(parents=True)
    for name, year in (("farm", 1949), ("farm_other", 1990)):
        with closing(sqlite3.connect(farm / f"{name}.sqlite")) as connection:
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("CREATE TABLE orchard (id INTEGER PRIMARY KEY AUTOINCREMENT, planted INTEGER)")
            connection.execute("CREATE VIEW old AS SELECT id FROM orchard WHERE planted < 1950")
            connection.execute("INSERT INTO orchard (planted) VALUES (?)", (year,))
            connection.commit()
    for name, content in (("broken", b"not a database at all" * 100), ("empty", b"")):
        (folder / "databases" / name).mkdir()
        (folder / "databases" / name / f"{name}.sqlite").write_bytes(content)
    return folder


def source(folder: Path, format_name: str, *rows: Any, **options: Any) -> Source:
    path = folder / f"{format_name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"path": str(path), "format": format_name, "heldout_fraction": 1e-9, **options}
    if format_name in ("spider", "bird"):
        options.setdefault("database_dir", str(folder / "databases"))
    return build(TaskConfig(name="dataset", options=options), seed=0)


def shown(folder: Path, format_name: str, row: Any, **options: Any) -> Prompt:
    return source(folder, format_name, row, **options).prompt(0)


def without_fence(response: str, language: str) -> str:
    assert response.startswith(f"```{language}\n") and response.endswith("\n```")
    return response.removeprefix(f"```{language}\n").removesuffix("```")


def all_heldout(one: Source) -> list[Prompt]:
    """All held-out prompts: `heldout` refuses a larger number."""
    count = 1
    while True:
        try:
            prompts = one.heldout(count)
        except ValueError:
            return prompts
        count += 1
