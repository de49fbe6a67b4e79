import importlib
from pathlib import Path

import numpy as np
import pytest

from jdt.models import Variables

pytest.importorskip("torch")
pytest.importorskip("torchvision")


@pytest.fixture
def parity(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("zoo_parity")


@pytest.mark.parametrize("name", ["resnet18 32, 3x3 stem", "resnet50 64", "vit 32"])
def test_a_twin_computes_the_same_function(parity, name):
    record = parity.compare(name, ways=("native",), batch=2)
    for field, largest in record["largest"].items():
        # Rounding alone, the reference's own against its float64, is up to a third of this in the deepest of them.
        assert record["largest_difference"]["jdt native"][field] < 1e-4 * largest


def test_arrays_without_a_twin_are_named(parity):
    state = {"fc.weight": np.zeros((2, 4)), "fc.bias": np.zeros(2)}
    like = Variables({"head": {"kernel": np.zeros((4, 3))}}, {})
    with pytest.raises(ValueError, match=r"2 arrays .* differ in name or shape, the first is params/head/bias"):
        parity.flax_variables(state, parity.RESIDUAL_NAMES, like)
