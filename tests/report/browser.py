"""A headless Chromium that opens a page and says what it sees."""

import dataclasses
import html
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

_FLAGS = (
    "--headless",
    "--no-sandbox",  # which does not work as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # the network is never reached
    "--allow-file-access-from-files",  # for the frame below
    "--enable-logging=stderr",
    "--dump-dom",
)
_PREFERS_DARK = "--blink-settings=preferredColorScheme=0"
# Windows cannot be as narrow as telephones are; frames can.
_HARNESS = """<!doctype html><iframe src="{url}" style="width:{width}px;height:800px"></iframe>
<pre></pre><script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument;
  document.querySelector("pre").textContent = JSON.stringify({{
    overflow: page.documentElement.scrollWidth - page.documentElement.clientWidth,
    images: [...page.images].map(image => image.naturalWidth),
    sources: [...page.images].map(image => image.currentSrc),
    sections: [...page.querySelectorAll("section")].map(section => section.id),
    scrolled: [...page.querySelectorAll(".scroll")].filter(
      area => area.scrollWidth > area.clientWidth
    ).map(area => area.closest("section").id),
    broken_links: [...page.querySelectorAll("a")].map(a => a.getAttribute("href"))
      .filter(href => !page.querySelector(href)),
    paper: getComputedStyle(page.body).backgroundColor,
  }});
}};
</script>"""


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a browser says of a page.

    Attributes:
      overflow: by how many pixels the page is wider than its window.
      images: the natural width of each; 0 where it cannot be shown.
      sources: the address of what is shown of each.
      sections: their ids.
      scrolled: the ids of the sections of those areas that are wider inside than outside.
      broken_links: those that lead nowhere within the page.
      paper: colour of the background.
      console: lines that the page, or loading it, wrote there.
    """

    overflow: int
    images: list[int]
    sources: list[str]
    sections: list[str]
    scrolled: list[str]
    broken_links: list[str]
    paper: str
    console: list[str]


def look(page: Path, width: int, dark: bool = False) -> Seen:
    """Opens a page in a window of some width in pixels; skips the test without a browser."""
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("chromium is not installed")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        harness = Path(folder) / "harness.html"
        harness.write_text(_HARNESS.format(url=page.absolute().as_uri(), width=width))
        scheme = [_PREFERS_DARK] if dark else []
        done = subprocess.run(
            [browser, *_FLAGS, *scheme, f"--user-data-dir={folder}/profile", harness.as_uri()],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    facts = json.loads(html.unescape(re.search("<pre>(.+?)</pre>", done.stdout, re.DOTALL)[1]))
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return Seen(**facts, console=console)
