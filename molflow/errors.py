"""The exception for input that molflow cannot work with."""


class MolflowError(ValueError):
    """Bad input. The message is one line that names the file, the place in it and what would be accepted.

    The command line prints the message and exits with code 1. Any other exception that reaches the user is a bug.
    """
