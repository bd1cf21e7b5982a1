"""The extras of the package: what they install, and the error where one is missing."""

from importlib import import_module
from typing import Any

from molflow.errors import MolflowError

PACKAGES = {
    "ase": "ase",
    "cluster": "ray",
    "frame": "pandas",
    "parquet": "pyarrow",
    "plot": "matplotlib",
    "posebusters": "posebusters",
    "qm9": "qm9pack",
    "report": "plotly",
    "sbi": "scikit-learn",
    "xtb": "tblite",
    "zoo": "zuko",
}
"""Extra -> the package that it installs."""


def import_extra(module: str, extra: str, what: str) -> Any:
    """Import a module of an extra; a command calls this before it begins to work.

    Args:
        module: its name.
        extra: the extra that installs it.
        what: what needs it, for the error.

    Raises:
        MolflowError: it is not installed; the message says how to install it.

    Example:
        >>> import_extra("plotly.offline", "report", "a report with plots").__name__
        'plotly.offline'
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MolflowError(f"{what} needs {PACKAGES[extra]}: pip install 'molflow[{extra}]'") from error
