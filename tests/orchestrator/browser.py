"""Headless Chromium, to open pages as a reader does. No driver library: it loads a file and prints its DOM."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
REQUIRED = "BREADTH_REQUIRE_CHROMIUM"
"""Environment variable that `.ci/run` sets: there a missing browser is an error, and nothing is skipped."""
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
TIMEOUT_S = 120
FRAMES = """<!DOCTYPE html><html><body><script>
const page = PAGE, widths = WIDTHS;
function measured(frame) {
  const view = frame.contentWindow, shown = frame.contentDocument;
  MEASURE
}
Promise.all(widths.map(width => new Promise(done => {
  const frame = document.createElement("iframe");
  frame.style.cssText = `width:${width}px;height:4000px;border:0`;
  frame.onload = () => done([width, measured(frame)]);
  frame.srcdoc = page;
  document.body.append(frame);
}))).then(found => {
  const text = JSON.stringify(Object.fromEntries(found));
  document.body.replaceChildren();
  document.body.dataset.found = encodeURIComponent(text);
});
</script></body></html>"""


def opened(address: str, folder: Path, *options: str) -> str:
    """Return the HTML of a page after its scripts have run for 20 s of the browser's own clock, which waits for answers
    of servers and for nothing else. Skips the test if there is no Chromium."""
    if CHROMIUM is None:
        if os.environ.get(REQUIRED):
            pytest.fail(f"{REQUIRED} is set, and there is no chromium: apt-get install chromium")
        pytest.skip("chromium is not installed: the tests that open pages in a browser were not run")
    command = [CHROMIUM, *FLAGS, *options, f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=20000"]
    done = subprocess.run(
        [*command, "--dump-dom", address], capture_output=True, text=True, timeout=TIMEOUT_S, check=True
    )
    assert done.stdout, done.stderr[-2_000:]
    return done.stdout


def measure(page: Path, widths: tuple[int, ...], script: str, folder: Path, *, dark: bool = False) -> dict[str, Any]:
    """Return by width what `script` returns about a page. Skips the test if there is no Chromium.

    Args:
        widths: of the page, in CSS pixels. A window of headless Chromium has at least 500, so the pages are frames.
        script: body of a JavaScript function with the window of the page as `view`, and its document as `shown`.
        folder: a temporary one.
        dark: whether the reader prefers dark pages.
    """
    source = json.dumps(page.read_text(encoding="utf-8")).replace("<", "\\u003c")
    frames = folder / "frames.html"
    content = FRAMES.replace("MEASURE", script).replace("WIDTHS", json.dumps(widths)).replace("PAGE", source)
    frames.write_text(content, encoding="utf-8")
    preference = ["--blink-settings=preferredColorScheme=0"] if dark else []
    dom = opened(frames.as_uri(), folder, *preference)
    _, mark, rest = dom.partition('data-found="')
    assert mark, dom[:2_000]
    found: dict[str, Any] = json.loads(unquote(rest.partition('"')[0]))
    return found
