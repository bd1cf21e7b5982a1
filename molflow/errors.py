"""The one exception for input that molflow cannot work with."""


class MolflowError(ValueError):
    """Bad input, explained in one line that names the file, the place in it and what would be accepted.

    The command line prints the message and exits with code 1; everything else that escapes is a bug.
    """
