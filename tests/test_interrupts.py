"""SIGTERM and SIGHUP act as Ctrl-C in the command line, once; they can be held back and ignored like Ctrl-C."""

import subprocess
import sys

import pytest

START = """
import os, signal, subprocess, sys
from molflow.interrupts import *
signal.signal(signal.SIGINT, signal.default_int_handler)
interrupt_on_termination()
"""
SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"]


def kill(*names):
    return "; ".join(f"os.kill(os.getpid(), signal.{name})" for name in names)


def run(program, start=START):
    """The exit code, the output, and the last line of errors."""
    done = subprocess.run([sys.executable, "-c", start + program], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, (done.stderr.splitlines() or [""])[-1]


@pytest.mark.parametrize("name", SIGNALS)
def test_each_raises_keyboard_interrupt(name):
    assert run(f"try: {kill(name)}\nexcept KeyboardInterrupt: print('caught')") == (0, "caught\n", "")


def test_further_terminations_do_not_disturb_what_the_first_one_began():
    """timeout and clusters send several."""
    again = kill("SIGTERM", "SIGHUP", "SIGTERM")
    code, out, error = run(f"try: {kill('SIGTERM')}\nfinally: {again}; print('saved')")
    assert (out, error) == ("saved\n", "KeyboardInterrupt")
    assert code != 0


@pytest.mark.parametrize("name", SIGNALS)
def test_each_is_held_back(name):
    program = f"with held_interrupts() as interrupted: print(interrupted()); {kill(name)}; print(interrupted())"
    assert run(f"{program}\nprint('end')") == (0, "False\nTrue\nend\n", "")


def test_a_second_ctrl_c_interrupts_but_a_second_termination_does_not():
    program = "with held_interrupts(): {}; {}\nprint('end')"
    assert run(program.format(*[kill("SIGTERM")] * 2))[1] == "end\n"
    assert run(program.format(*[kill("SIGINT")] * 2))[1:] == ("", "KeyboardInterrupt")


def test_they_act_again_after_a_block_in_which_none_arrived():
    assert run(f"with held_interrupts(), ignored_interrupts(): pass\n{kill('SIGTERM')}")[2] == "KeyboardInterrupt"


@pytest.mark.parametrize("name", SIGNALS)
def test_a_process_that_is_started_where_they_are_ignored_ignores_them(name):
    child = f"import os, signal; {kill(name)}; print('alive')"
    program = f"with ignored_interrupts(): subprocess.run([sys.executable, '-c', {child!r}])"
    assert run(program) == (0, "alive\n", "")


def test_an_ignored_signal_stays_ignored():
    """nohup ignores SIGHUP."""
    ignored = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    assert run(f"{kill('SIGHUP')}; print('alive')", ignored + START) == (0, "alive\n", "")
