"""Sets of a few molecules are scored in this process; tests of worker processes ask for them."""

import pytest

from molflow.evaluation import molecules


@pytest.fixture(autouse=True)
def _no_workers(monkeypatch):
    monkeypatch.setattr(molecules, "default_workers", lambda: 0)
