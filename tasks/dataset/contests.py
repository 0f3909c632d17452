"""Rows of LiveCodeBench: contest problems with public and private tests of a program or a method.

The public release packs private tests as a pickled string. Unpickling can run code that the file contains, so this
module only lists the opcodes of the pickle, and accepts it only if it consists of one string.
"""

import base64
import binascii
import json
import pickletools
import zlib
from typing import Any

from tasks.dataset.programs import fenced, how
from tasks.dataset.rows import Malformed, Row, RowOptions, text_of

UNPACKED_LIMIT = 256 * 2**20
"""Largest size in bytes of the unpacked private tests of one problem."""
STRING_OPCODES = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
FRAMING_OPCODES = {"PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "STOP"}
IMPORTS = (
    "import bisect, collections, functools, heapq, itertools, math, re, string\n"
    "from bisect import *\nfrom collections import *\nfrom functools import *\nfrom heapq import *\n"
    "from itertools import *\nfrom math import *\nfrom typing import *\n"
)
"""Imports that starter code needs."""
CHECK = (
    "from math import inf, isclose, nan\n\n\n"
    "def same(found, wanted):\n"
    "    if isinstance(found, (list, tuple)) and isinstance(wanted, list):\n"
    "        return len(found) == len(wanted) and all(map(same, found, wanted))\n"
    "    if isinstance(wanted, float) and isinstance(found, (int, float)) and not isinstance(found, bool):\n"
    "        return isclose(found, wanted, rel_tol=1e-6, abs_tol=1e-6)\n"
    "    return found == wanted\n\n\n"
    "def check(candidate):\n"
)
"""Start of the tests of a method. Tuples are compared as lists, because JSON has none, and decimal numbers to 1e-6."""


def read_livecodebench(row: dict[str, Any], options: RowOptions) -> Row:
    """Read a contest problem. Its tests all have the type `stdin`, or all have the type `functional`."""
    question = text_of(row, "question_content")
    starter = row.get("starter_code") or ""
    if not isinstance(starter, str):
        raise Malformed(f"field 'starter_code' must be a string, got {starter!r:.100}")
    cases = [
        *_cases(row.get("public_test_cases"), "public_test_cases"),
        *_cases(row.get("private_test_cases"), "private_test_cases"),
    ]
    kinds = {case["testtype"] for case in cases}
    if kinds == {"stdin"}:
        tests = [{"stdin": case["input"], "stdout": case["output"]} for case in cases]
        problem: dict[str, Any] = {"kind": "stdio", "tests": tests, "compare": "tokens"}
    elif kinds == {"functional"}:
        name = _function(row.get("metadata"))
        entry = f"Solution().{name}" if "class Solution" in starter else name
        lines = [_assertion(case, number) for number, case in enumerate(cases, start=1)]
        problem = {"kind": "assert", "prompt": IMPORTS, "entry_point": entry, "tests": CHECK + "".join(lines)}
    else:
        got = ", ".join(sorted(kinds)) or "no tests"
        raise Malformed(f"the tests must be all of type 'stdin' or all of type 'functional', got {got}")
    form = how(problem["kind"], str(problem.get("entry_point", "")))
    start = f"Start from this code:\n\n{fenced(starter)}\n\n" if starter.strip() else ""
    return Row(
        key=question,
        shown={"question": question, "starter_code": starter, "how": start + form},
        problem=problem,
        solution=None,
    )


def read_deepcoder(row: dict[str, Any], options: RowOptions) -> Row:
    """Read a row of DeepCoder: `problem`, `starter_code`, and JSON `tests` in one of three forms.

    They are those of LiveCodeBench, of PrimeIntellect (`input` and `output`, with `fn_name` for a function), or of TACO
    (lists `inputs` and `outputs`, with `fn_name` for a function).
    """
    given = row.get("tests")
    try:
        tests = json.loads(given) if isinstance(given, str) else given
    except (ValueError, RecursionError) as error:
        raise Malformed(f"field 'tests' must be JSON ({error})") from None
    name = ""
    if isinstance(tests, dict):
        inputs, outputs, name = tests.get("inputs"), tests.get("outputs"), tests.get("fn_name") or ""
        if not (isinstance(inputs, list) and isinstance(outputs, list) and len(inputs) == len(outputs)):
            raise Malformed(f"field 'tests' must have as many inputs as outputs, got {tests!r:.100}")
        tests = [{"input": one, "output": other} for one, other in zip(inputs, outputs, strict=True)]
    if not isinstance(tests, list) or not tests or not all(isinstance(test, dict) for test in tests):
        raise Malformed(f"field 'tests' must be a list of tests, or hold inputs and outputs, got {tests!r:.100}")
    name = name or next((test["fn_name"] for test in tests if test.get("fn_name")), "")
    contest = {
        "question_content": text_of(row, "problem"),
        "starter_code": row.get("starter_code") or "",
        "public_test_cases": [_contest_case(test, called=bool(name)) for test in tests],
        "metadata": {"func_name": name} if name else row.get("metadata") or "{}",
    }
    return read_livecodebench(contest, options)


def _contest_case(test: dict[str, Any], *, called: bool) -> dict[str, str]:
    """Return a test of DeepCoder in the form of LiveCodeBench.

    Args:
        called: whether a function is called. Its arguments are a list, and its result may be in a list of its own.
    """
    given, wanted = test.get("input"), test.get("output")
    if called and isinstance(given, list):
        wanted = wanted[0] if isinstance(wanted, list) and len(wanted) == 1 else wanted
        texts = ["\n".join(map(json.dumps, given)), json.dumps(wanted)]
    else:
        texts = ["\n".join(map(str, side)) if isinstance(side, list) else str(side) for side in (given, wanted)]
    functional = called or test.get("testtype") == "functional"
    return {"input": texts[0], "output": texts[1], "testtype": "functional" if functional else "stdin"}


def _cases(value: Any, field: str) -> list[dict[str, str]]:
    """Return the tests in a column: their list, its JSON, or its JSON packed as in the public release."""
    if isinstance(value, str) and value.strip():
        text = value if value.lstrip().startswith("[") else _unpacked(value, field)
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise Malformed(f"field {field!r} must be JSON ({error})") from None
    value = [] if value in (None, "") else value
    if not isinstance(value, list):
        raise Malformed(f"field {field!r} must be a list of tests, got {value!r:.100}")
    for case in value:
        valid = isinstance(case, dict) and all(isinstance(case.get(f), str) for f in ("input", "output", "testtype"))
        if not valid:
            raise Malformed(f"field {field!r} must hold objects with input, output and testtype, got {case!r:.100}")
    return value


def _unpacked(value: str, field: str) -> str:
    """Return the only string of a pickle that is compressed by zlib and encoded in base64."""
    try:
        packed = base64.b64decode(value, validate=True)
        decompressor = zlib.decompressobj()
        pickled = decompressor.decompress(packed, UNPACKED_LIMIT)
        if decompressor.unconsumed_tail:
            raise Malformed(f"field {field!r} must be at most {UNPACKED_LIMIT} bytes when unpacked")
        opcodes = [(opcode.name, argument) for opcode, argument, _ in pickletools.genops(pickled)]
    except (binascii.Error, zlib.error, ValueError) as error:
        raise Malformed(f"field {field!r} must be JSON, or JSON pickled, compressed and in base64 ({error})") from None
    strings = [str(argument) for name, argument in opcodes if name in STRING_OPCODES]
    foreign = sorted({name for name, _ in opcodes} - STRING_OPCODES - FRAMING_OPCODES)
    if len(strings) != 1 or foreign:
        raise Malformed(
            f"field {field!r} is a pickle of more than one string ({', '.join(foreign) or len(strings)}), which is "
            "refused, because unpickling can run code from the file. Unpickle it in a safe place and store its JSON"
        )
    return strings[0]


def _function(metadata: Any) -> str:
    """Return the name of the function or method that functional tests call."""
    try:
        given = json.loads(metadata) if isinstance(metadata, str) else metadata
    except (ValueError, RecursionError) as error:
        raise Malformed(f"field 'metadata' must be JSON ({error})") from None
    name = given.get("func_name") if isinstance(given, dict) else None
    if not isinstance(name, str) or not name.isidentifier():
        raise Malformed(f"field 'metadata' must give the func_name of functional tests, got {metadata!r:.100}")
    return name


def _assertion(case: dict[str, str], number: int) -> str:
    """Return one line of `check`. Each line of a test's input is the JSON of one argument; the output is JSON too."""
    try:
        arguments = [json.loads(line) for line in case["input"].split("\n") if line.strip()]
        expected = json.loads(case["output"])
        return f"    assert same(candidate({', '.join(map(repr, arguments))}), {expected!r})\n"
    except (ValueError, RecursionError) as error:
        raise Malformed(f"functional test {number} must hold JSON ({error})") from None
