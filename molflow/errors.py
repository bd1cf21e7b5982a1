"""The exception for input that molflow cannot work with, and text from files that can be shown."""

import re

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

_LONG_WORD = re.compile(r"(\S{500})\S+")  # a value of a damaged file; names of files are shorter


class MolflowError(ValueError):
    """Bad input. The message is one line that names the file, the place in it and what would be accepted.

    The command line prints the message and exits with code 1. Any other exception that reaches the user is a bug.
    """

    def __init__(self, message: str = "") -> None:
        line = " ".join(printable(message).splitlines())  # what a file holds may have ends of lines
        super().__init__(_LONG_WORD.sub(r"\1...", line))


class NumericalError(MolflowError):
    """A result that cannot be computed in floating-point numbers. In training, its step or figure is given up."""


def printable(text: str) -> str:
    """Text without what a terminal, page or table would obey: control characters, but for tabs and ends of lines.

    Example:
        >>> printable("\\x1b[31mred")
        '[31mred'
    """
    return _CONTROLS.sub("", text)
