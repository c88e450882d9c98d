"""One CPU thread for each test process and what it starts: results repeat, and tests side by side do not contend.

And one run store for all tests that only read what the smoke suite trains: it is trained once.
"""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def smoke_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run store that the test processes share; what it lacks is trained by whoever asks first."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "smoke_runs"
