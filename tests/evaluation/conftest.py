"""Sets of a few molecules are scored in this process; tests of worker processes ask for them."""

import pytest

from molflow.evaluation import parallel


@pytest.fixture(autouse=True)
def _no_workers(monkeypatch):
    monkeypatch.setattr(parallel, "default_workers", lambda: 0)
