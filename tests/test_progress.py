"""Progress: a bar on a terminal, lines elsewhere, nothing when it is hidden."""

import os
import pty
import subprocess
import sys
import termios

import pytest

from molflow import progress
from molflow.progress import hide_progress, progress_bar


@pytest.fixture
def work(capfd):
    """Do three steps with their progress on a file; gives what is written."""

    def run(**options):
        for _ in progress_bar(range(3), desc="working", **options):
            pass
        return capfd.readouterr().err

    return run


def test_lines_where_there_is_no_terminal(work, monkeypatch):
    assert work() == ""  # less than a minute
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    first, *_, last = work().splitlines()
    assert first.startswith("working: 0 of 3, ")
    assert last.startswith("working: 3 of 3, ")
    assert work(disable=True) == ""


def test_hidden(work, monkeypatch):
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    hide_progress(True)
    try:
        assert work() == ""
    finally:
        hide_progress(False)
    assert work()


def on_terminal(*command, **environment):
    """What a command writes to a terminal."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 200))
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=os.environ | environment)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the terminal is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait() == 0
    return shown.decode()


def test_a_bar_on_a_terminal():
    script = "from molflow.progress import progress_bar\nfor _ in progress_bar(range(3), desc='working'): pass"
    shown = on_terminal(sys.executable, "-c", script)
    assert "working: 100%|" in shown
    assert "\r" in shown


def test_no_colour_when_it_is_not_wanted():
    command = [sys.executable, "-m", "molflow", "models"]
    shown = on_terminal(*command, NO_COLOR="1", TERM="xterm-256color")
    assert "molecule stability" in shown
    assert "\x1b[3" not in shown.replace("\x1b[3m", "")  # italics are not a colour
