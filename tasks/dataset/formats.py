"""The formats of dataset rows by name, their prompt templates, and the check of a template."""

import string
from collections.abc import Collection, Mapping

from configs.checks import nearest
from tasks.dataset.chats import read_open_instruct, read_orz, read_skywork, read_trl, read_verl
from tasks.dataset.contests import read_deepcoder, read_livecodebench
from tasks.dataset.programs import read_code, read_humaneval, read_mbpp
from tasks.dataset.rows import Format, read_gsm8k, read_math, read_plain
from tasks.dataset.sql import read_bird, read_spider, read_sql

MATH = "{question}\n\nReason step by step, and put the final answer in \\boxed{{}}."
SQL = "{schema}\n\n{question}\n\nAnswer with one SQLite query in a ```sql block."
HUMANEVAL = (
    "Complete this Python function. Answer with the whole function in a ```python block.\n\n```python\n{prompt}\n```"
)
MBPP = (
    "{question}\n\nThe function must be called `{entry_point}` and pass tests such as\n\n```python\n{example}\n```\n\n"
    "Answer with the whole program in a ```python block."
)
CODE = "{question}\n\n{how}"

FORMATS: Mapping[str, Format] = {
    "plain": Format(read=read_plain, fields=("prompt",), template="{prompt}", verifier="math"),
    "gsm8k": Format(read=read_gsm8k, fields=("question",), template=MATH, verifier="math"),
    "math": Format(read=read_math, fields=("question",), template=MATH, verifier="math"),
    "sql": Format(read=read_sql, fields=("schema", "question"), template=SQL, verifier="sql"),
    "spider": Format(read=read_spider, fields=("schema", "question"), template=SQL, verifier="sql"),
    "bird": Format(
        read=read_bird,
        fields=("schema", "question", "evidence", "hint"),
        template=SQL.replace("{question}", "{question}{hint}"),
        verifier="sql",
    ),
    "code": Format(read=read_code, fields=("question", "how"), template=CODE, verifier="code"),
    "humaneval": Format(read=read_humaneval, fields=("prompt", "entry_point"), template=HUMANEVAL, verifier="code"),
    "mbpp": Format(
        read=read_mbpp, fields=("question", "entry_point", "example", "examples"), template=MBPP, verifier="code"
    ),
    "livecodebench": Format(
        read=read_livecodebench, fields=("question", "starter_code", "how"), template=CODE, verifier="code"
    ),
    "deepcoder": Format(
        read=read_deepcoder, fields=("question", "starter_code", "how"), template=CODE, verifier="code"
    ),
    "orz": Format(read=read_orz, fields=("question",), template=MATH, verifier="math", arrays=True),
    "skywork": Format(read=read_skywork, fields=("prompt",), template="{prompt}", verifier="math"),
    "verl": Format(read=read_verl, fields=("prompt",), template="{prompt}", verifier="math"),
    "trl": Format(read=read_trl, fields=("prompt",), template="{prompt}", verifier="math"),
    "open_instruct": Format(read=read_open_instruct, fields=("prompt",), template="{prompt}", verifier="math"),
}
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "verl": ("data_source", "reward_model"),
    "open_instruct": ("messages", "ground_truth"),
    "trl": ("prompt", "solution"),
    "gsm8k": ("question", "answer"),
    "math": ("problem", "solution"),
    "sql": ("question", "gold_sql"),
    "spider": ("db_id", "query"),
    "bird": ("db_id", "SQL"),
    "humaneval": ("prompt", "canonical_solution"),
    "mbpp": ("test_list",),
    "livecodebench": ("question_content",),
    "deepcoder": ("problem", "tests"),
    "orz": ("0", "1"),
}
"""Columns by which the rows of a format are recognised."""
QUERIES = ("sql", "spider", "bird")
"""Formats whose right answers are queries."""
NEED_DATABASES = {"spider": "https://yale-lily.github.io/spider", "bird": "https://bird-bench.github.io"}
"""Formats whose rows name a SQLite database, and where their databases are published."""


def likely_format(columns: Collection[str]) -> str:
    """Return the format of rows with these columns; empty if none is likely."""
    return next((name for name, needed in COLUMNS.items() if all(column in columns for column in needed)), "")


def check_template(template: str, format_name: str, option: str) -> None:
    """Raise ValueError, naming `option`, unless `str.format` accepts the template with the fields of the format."""
    known = FORMATS[format_name].fields
    listed = ", ".join(f"{{{name}}}" for name in known)
    rule = f"must show at least one of {listed}, and double all other braces"
    try:
        fields = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{option}: {rule} ({error}), got {template!r}") from None
    names = [name for _, name, _, _ in fields if name is not None]
    for name in names:
        if name not in known:
            raise ValueError(f"{option}: {rule}{nearest(name, known)}, got {{{name}}} in {template!r}")
    if not names or any(form or conversion for _, _, form, conversion in fields):
        raise ValueError(f"{option}: {rule}, got {template!r}")
