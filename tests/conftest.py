"""Fixtures that several test folders share."""

import pytest

from molflow.data import MoleculeSet, load_qm9


@pytest.fixture(scope="session")
def qm9() -> MoleculeSet:
    """All of QM9 from the user's default cache, so a machine parses it once."""
    return load_qm9("all")
