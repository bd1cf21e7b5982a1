"""Pages as a parser and as a browser see them."""

import shutil
import subprocess
from html.parser import HTMLParser

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader", "--disable-quic", "--no-first-run",
    "--dump-dom", "--disable-component-update", "--disable-sync", "--enable-logging=stderr", "--window-size=500,900",
    "--virtual-time-budget=5000", "--disable-background-networking",
]  # fmt: skip
# What the browser itself says about speed; it is no fault of the page.
REMARKS = "GL Driver Message", "willReadFrequently"

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.open = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def open_in_browser(path, profile):
    """The page's DOM after its scripts have run, and what they wrote to the console."""
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    said = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return done.stdout, [line for line in said if not any(remark in line for remark in REMARKS)]
