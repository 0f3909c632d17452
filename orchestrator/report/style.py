"""Style of Breadth's pages: the frame of an HTML file, escaping, colours in light and dark, and the CSS of its parts.

A page is one file without scripts or external resources, and every text from outside is escaped by `escaped`. Colours
are CSS variables, which follow the reader's light or dark setting; figures use them too.
"""

import html
from collections.abc import Mapping, Sequence

SERIES = 6
"""Number of colours of curves, `--series-1` and so on; `--series-0` is that of the base."""

STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --soft: #5a5f64; --line: #dcdfe2; --tint: #f4f5f7; --paper: #fff;
  --good: #146c3a; --bad: #b3261e; --good-tint: #dcefe3; --bad-tint: #fbe3e1; --note: #fff4e0; --edge: #E69F00;
  --shade: #0005;
  --series-0: #4d4d4d; --series-1: #0072B2; --series-2: #D55E00; --series-3: #009E73; --series-4: #CC79A7;
  --series-5: #E69F00; --series-6: #56B4E9; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --soft: #a9afb5; --line: #383c41; --tint: #23272b;
  --paper: #16181b; --good: #7ddc9f; --bad: #ff9a91; --good-tint: #1d3d2a; --bad-tint: #4a2321; --note: #3a3019;
  --shade: #fff6;
  --series-0: #b9bec4; --series-1: #5cb3f0; --series-2: #ff8b4d; --series-3: #35c99b; --series-4: #e6a0c8;
  --series-5: #f2b84b; --series-6: #9bd6f7; } }
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: var(--ink);
  background: var(--paper); max-width: 72rem; margin: 0 auto; padding: 1.5rem clamp(.8rem, 3vw, 1.5rem) 4rem;
  overflow-wrap: anywhere; }
h1 { font-size: clamp(1.4rem, 4vw, 1.9rem); line-height: 1.2; margin: 0 0 1rem; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 2.5rem 0 .6rem; }
h3 { font-size: .95rem; line-height: 1.35; margin: 0 0 .2rem; }
p { margin: .5rem 0; }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
figure { margin: 0; } figcaption { margin-top: .5rem; max-width: 62rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); gap: 1.2rem 1.5rem; }
.plot { max-width: 36rem; } .plot svg { display: block; width: 100%; height: auto; overflow: visible; }
.plot svg text { fill: currentColor; } .plot svg *, .key svg * { stroke-linejoin: round; stroke-linecap: butt; }
.keys { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; list-style: none; margin: .2rem 0 .7rem; padding: 0;
  font-size: .9rem; }
.key { display: flex; align-items: center; gap: .45rem; } .key svg { flex: none; width: 30px; height: 14px; }
.scroll { overflow-x: auto; background: linear-gradient(to right, var(--paper) 40%, transparent) left / 2rem 100% local,
  linear-gradient(to left, var(--paper) 40%, transparent) right / 2rem 100% local,
  linear-gradient(to right, var(--shade), transparent) left / .8rem 100% scroll,
  linear-gradient(to left, var(--shade), transparent) right / .8rem 100% scroll; background-repeat: no-repeat; }
.scroll + h3 { margin-top: 1.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; overflow-wrap: normal; }
th, td { padding: .4rem .6rem .4rem 0; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; vertical-align: bottom; } th:first-child, td:first-child { text-align: left; }
td:first-child { min-width: 8.2rem; max-width: 16rem; overflow-wrap: anywhere; }
td small { display: block; color: var(--soft); font-size: .8rem; white-space: nowrap; }
td .fell { color: var(--bad); } td .rose { color: var(--good); }
.word { font-size: .82rem; padding: .05rem .35rem; border-radius: 3px; white-space: nowrap; }
.beyond { background: var(--good-tint); } .on { background: var(--tint); } .below { background: var(--bad-tint); }
.words th, .words td { text-align: left; white-space: pre-wrap; overflow-wrap: anywhere; min-width: 7rem; }
.numbers td:first-child, .numbers th:first-child { position: sticky; left: 0; background: var(--paper); }
.problem { border-top: 1px solid var(--line); padding: .4rem 0; }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: .2rem 1.2rem; }
.side { border-left: 3px solid var(--line); padding-left: .8rem; min-width: 0; } .side p { margin: .1rem 0; }
.side.right { border-color: var(--good); } .side.wrong { border-color: var(--bad); }
.side small { color: var(--soft); }
.answer { border-left: 4px solid var(--series-1); padding: .1rem .9rem; margin: .8rem 0; background: var(--tint); }
.answer h2 { margin: .4rem 0 0; font-size: 1.05rem; } .answer p { margin: .2rem 0 .5rem; }
.first { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 0 2rem; }
.first h2 { margin-top: .8rem; } .first > div:empty { display: none; }
.note { background: var(--note); border-left: 4px solid var(--edge); padding: .5rem .9rem; margin: .5rem 0; }
details { margin: .6rem 0; } summary { cursor: pointer; font-weight: 600; } details h3 { margin-top: .8rem; }
code, pre { font: .85rem/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; background: var(--tint);
  white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate; }
code { padding: .05rem .3rem; border-radius: 3px; } pre { padding: .7rem .9rem; margin: .4rem 0; }
"""


def printable(value: str) -> str:
    """Return `value` with unprintable characters replaced, such as bidirectional marks and lone surrogates."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in value)


def escaped(value: str) -> str:
    """Return `value` as HTML text or as the value of a quoted attribute: printable, with its markup escaped."""
    return html.escape(printable(value))


def shortened(value: str, limit: int) -> str:
    """Return `value` escaped, of which at most `limit` characters are shown."""
    return escaped(value if len(value) <= limit else value[:limit] + " ...")


def page(title: str, notes: Sequence[str], sections: Sequence[str]) -> str:
    """Return the HTML file. Its Content-Security-Policy forbids scripts and external resources.

    Args:
        notes: texts of warnings, which are shown first.
        sections: HTML.
    """
    warnings = "".join(f'<p class="note">{escaped(note)}</p>\n' for note in notes)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escaped(title)}</title>\n<style>{STYLE}</style></head>\n<body>\n<h1>{escaped(title)}</h1>\n"
        f"{warnings}{''.join(sections)}</body></html>\n"
    )


def facts(words: Sequence[str], places: Mapping[str, str] | None = None) -> str:
    """Return a line of facts; nothing if there are none.

    Args:
        places: for words that stand for a directory, its path, which is shown where the pointer is.
    """
    shown = (
        f'<span title="{escaped(places[each])}">{escaped(each)}</span>' if places and each in places else escaped(each)
        for each in words
    )
    return f'<p class="soft">{" · ".join(shown)}</p>\n' if words else ""


def first_screen(
    measured: Sequence[str],
    answers: Mapping[str, str],
    figure: str = "",
    places: Mapping[str, str] | None = None,
) -> str:
    """Return the section that a reader sees first: what was measured, and the questions with their answers.

    Args:
        figure: HTML of the figure that shows the answers, beside them where the page is wide enough.
        places: as for `facts`.
    """
    cards = "".join(
        f'<div class="answer"><h2>{escaped(question)}</h2><p>{escaped(answer)}</p></div>\n'
        for question, answer in answers.items()
    )
    return f'{facts(measured, places)}<div class="first"><div>{cards}</div>\n<div>{figure}</div></div>\n'


def table(
    heading: str, columns: Sequence[str], rows: Sequence[Sequence[str]], note: str = "", *, words: bool = False
) -> str:
    """Return a section with a table. A column whose cells are all empty is left out; without rows, nothing.

    Args:
        heading: of the section; empty: none.
        columns: texts; the first column names the rows.
        rows: texts of the cells. Further lines of a number are shown small below it.
        note: text below the table.
        words: whether the cells are words, whose lines break, and not numbers.
    """
    if not rows:
        return ""
    kept = [i for i in range(len(columns)) if i == 0 or any(row[i] for row in rows)]
    head = "".join(f"<th>{escaped(columns[i])}</th>" for i in kept)
    cell = _word_cell if words else _number_cell
    body = "".join(f"<tr>{''.join(cell(row[i], first=i == 0) for i in kept)}</tr>\n" for row in rows)
    above = f"<h2>{escaped(heading)}</h2>\n" if heading else ""
    below = f'<p class="soft">{escaped(note)}</p>\n' if note else ""
    kind = "words" if words else "numbers"
    return (
        f'{above}<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>\n{below}"
    )


def _number_cell(text: str, *, first: bool) -> str:
    value, *details = text.split("\n")
    small = f"<small>{'<br>'.join(map(escaped, details))}</small>" if details else ""
    return f"<td>{f'<b>{escaped(value)}</b>' if first else escaped(value)}{small}</td>"


def _word_cell(text: str, *, first: bool) -> str:
    shown = escaped(text).replace("_", "_<wbr>")  # a long name of a setting or a value breaks between its words
    return f"<td><b>{shown.replace('.', '.<wbr>')}</b></td>" if first else f"<td>{shown}</td>"
