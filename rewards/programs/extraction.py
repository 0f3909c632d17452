"""Extract candidate program texts from a response, in linear time and without parsing them as code.

Several texts are returned, best first. The box decides which of them is the program, because only there may they be
compiled.
"""

import io
import re
import tokenize
from collections.abc import Collection
from dataclasses import dataclass

SOURCE_LIMIT = 256 * 1024
"""Maximum characters of a program."""
TEXTS_LIMIT = 8
"""Maximum number of texts returned."""
FENCE = re.compile(r"[ \t>]*(`{3,}|~{3,})[ \t]*([^`\n]*)$")
PYTHON = {"python", "py", "python3", "py3", "python2", "sage", "cpython"}
MARK = re.compile(
    r"^[ \t]*(?:\[/?(?:BEGIN|DONE|PYTHON|CODE|END)\]|</?(?:code|answer|solution|python)>)[ \t]*$", re.MULTILINE
)
"""Lines that some models write around programs instead of fences."""
STARTS_CODE = re.compile(
    r"(?:def|class|import|from|async)[ \t]+\w|@\w|[A-Za-z_]\w*(?:,[ \t]*\w+)*[ \t]*=|[ \t]+\S|(?:for|while|if)\b.*:"
)
CODE = re.compile(
    r"[=(\[{]|:[ \t]*$|^[ \t]*(?:return|pass|raise|yield|import|from)\b|^[ \t]*(?:while|for|if|def|class)\b[^\n]*:",
    re.MULTILINE,
)
"""Text in which this pattern never occurs is not code."""
PROSE = re.compile(r"[A-Z][\w']*,?(?: [\w'`(*]+,?){2}|\*\*|#{2,} |[-*] |\d+\. ")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block."""

    text: str
    tag: str
    start: int
    """Index of the character at which its fence begins."""
    closed: bool


def extract_programs(response: str, names: Collection[str]) -> list[str]:
    """Return the texts that may be the program, best first; [] if there is none.

    Without names, the first text is the last Python block. With names, it is the last block that defines one of them;
    the second text adds the blocks before it, in case the program needs them.

    Args:
        names: names of which the program defines at least one. Empty for a program that reads standard input.
    """
    text = response.rpartition("</think>")[2].partition("<think>")[0].replace("\r\n", "\n").replace("\r", "\n")
    text = text.replace("\ufeff", "")
    if not text.strip():
        return []
    blocks = [block for block in _blocks(text) if block.text.strip()]
    if not blocks:
        text = MARK.sub("```", text)
        blocks = [block for block in _blocks(text) if block.text.strip()]
    tagged = [block for block in blocks if block.tag in PYTHON]
    usable = tagged or [block for block in blocks if not block.tag]
    found: list[str] = []
    if names:
        defines = _definition(names)
        defining = [i for i, block in enumerate(usable) if defines.search(block.text)]
        if not defining and tagged:
            untagged = [block for block in blocks if not block.tag and defines.search(block.text)]
            usable = [*untagged[-1:], *usable] if untagged else usable
            defining = [0] if untagged else []
        if defining:
            last = defining[-1]
            found += [usable[last].text, "\n".join(block.text for block in usable[: last + 1])]
        else:
            found += _texts_without_definition(text, blocks, usable)
    elif usable:
        found.append(usable[-1].text)
    if not blocks:
        found += _unfenced_texts(text)
    return list(dict.fromkeys(program for program in found if program.strip()))[:TEXTS_LIMIT]


def _texts_without_definition(text: str, blocks: list[Block], usable: list[Block]) -> list[str]:
    """Return the texts of a response in which no block defines a name.

    A text may be a body that continues the prompt, in a block or before a fence that only ends it. Or it is all blocks
    together.
    """
    found = []
    if blocks and text[: blocks[0].start].strip() and not blocks[0].tag and not blocks[0].closed:
        found.append(text[: blocks[0].start])
    if usable:
        found.append(usable[-1].text)
        found.append("\n".join(block.text for block in usable))
    if blocks:
        found += _unfenced_texts(text[: blocks[0].start])
    return found


def _unfenced_texts(text: str) -> list[str]:
    """Return the texts of a response without blocks.

    They are the whole text; the text from its first line of code; and that up to the next line of prose or fence. If
    the first line of code is indented, also the body of the function that it continues.
    """
    if not CODE.search(text):
        return []
    lines = text.strip("\n").split("\n")
    first = next((i for i, line in enumerate(lines) if STARTS_CODE.match(line)), 0)
    rest = range(first + 1, len(lines))
    last = next((i for i in rest if PROSE.match(lines[i]) or FENCE.match(lines[i])), len(lines))
    found = ["\n".join(lines), "\n".join(lines[first:]), "\n".join(lines[first:last])]
    if lines[first][:1].isspace():
        end = next((i for i in rest if lines[i].strip() and not lines[i][0].isspace()), len(lines))
        found.append("\n".join(lines[first:end]))
    return found


def _blocks(text: str) -> list[Block]:
    """Return the fenced blocks in order, including an unclosed last one, without the indentation of the fence."""
    blocks: list[Block] = []
    opened: tuple[str, str, int, int] | None = None
    inner: list[str] = []
    offset = 0
    for line in text.split("\n"):
        match = FENCE.match(line)
        if opened is None:
            if match:
                indent = len(line) - len(line.lstrip(" \t"))
                opened = (match[1], _tag(match[2]), offset, indent)
                inner = []
        elif match and match[1][0] == opened[0][0] and len(match[1]) >= len(opened[0]) and not match[2].strip():
            blocks.append(Block("\n".join(inner), opened[1], opened[2], True))
            opened = None
        else:
            inner.append(line[opened[3] :] if not line[: opened[3]].strip() else line)
        offset += len(line) + 1
    if opened is not None:
        blocks.append(Block("\n".join(inner), opened[1], opened[2], False))
    return blocks


def _tag(information: str) -> str:
    """Return the language that follows a fence, in lower case."""
    words = information.replace("{", " ").replace("}", " ").split()
    return words[0].lower().lstrip(".").partition(":")[0] if words else ""


def _definition(names: Collection[str]) -> re.Pattern[str]:
    """Return a pattern for a line that defines one of the names, at any indentation, so also as a method."""
    either = "|".join(map(re.escape, sorted(names)))
    definition = rf"[ \t]*(?:(?:async[ \t]+)?def|class)[ \t]+(?:{either})\b"
    return re.compile(rf"^(?:{definition}|(?:{either})[ \t]*[:=])", re.MULTILINE)


def canonical(program: str) -> str:
    """Return the tokens of a program without comments, blank lines and the width of spaces and indents.

    Nothing is parsed. A text that is no program may have no tokens; the result is then empty.
    """
    try:
        found = list(tokenize.generate_tokens(io.StringIO(program).readline))
    except (tokenize.TokenError, SyntaxError):
        return ""
    kept = [token for token in found if token.type not in (tokenize.COMMENT, tokenize.NL)]
    return " ".join(token.string if token.string.strip() else tokenize.tok_name[token.type] for token in kept)
