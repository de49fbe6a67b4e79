import importlib
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdt import models

torch = pytest.importorskip("torch")

# PyTorch's name of a layer, as a regular expression, and Flax's.
LAYERS = {
    "small_cnn": {r"convs\.(\d)": r"conv\1", r"norms\.(\d)": r"norm\1"},
    "resnet9": {
        r"(pair\d)\.0\.(\d)": r"\1a.\2", r"(pair\d)\.1\.(\d)": r"\1b.\2",
        r"(\w+)\.0": r"\1.conv", r"(\w+)\.1": r"\1.norm",
    },
    "resnet18": {
        r"stem\.0": "stem", r"stem\.1": "norm",
        r"stages\.(\d)\.0\.(.+)": r"stage\1a.\2", r"stages\.(\d)\.1\.(.+)": r"stage\1b.\2",
        r"(.+)\.shortcut\.0": r"\1.shortcut", r"(.+)\.shortcut\.1": r"\1.norm_shortcut",
    },
}  # fmt: skip


@pytest.fixture
def peers(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("torch_peers")


def flax_path(network, layer):
    for pattern, replacement in LAYERS[network].items():
        layer = re.sub(f"^{pattern}$", replacement, layer)
    # PyTorch counts stages from 0.
    return re.sub(r"^stage(\d)", lambda match: f"stage{int(match[1]) + 1}", layer).split(".")


def as_torch(network, name, params):
    """The Flax array that belongs to a PyTorch parameter, in PyTorch's order of dimensions."""
    layer, _, kind = name.rpartition(".")
    for part in flax_path(network, layer):
        params = params[part]
    value = np.array(params["bias" if kind == "bias" else "scale" if "scale" in params else "kernel"])
    return torch.from_numpy(value.transpose({4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[value.ndim]).copy())


@pytest.mark.parametrize("name", LAYERS)
def test_a_peer_computes_the_same_function(peers, name):
    network = models.make(name, 7)
    images = np.random.default_rng(0).standard_normal((4, 16, 16, 3)).astype(np.float32)

    @jax.jit
    def of_flax(key):
        variables = network.init(key, (16, 16, 3))
        leaves, structure = jax.tree.flatten(variables.params)
        noise = jax.random.split(key, len(leaves))
        noisy = [leaf + 0.02 * jax.random.normal(k, leaf.shape) for leaf, k in zip(leaves, noise, strict=True)]
        variables = variables._replace(params=jax.tree.unflatten(structure, noisy))
        return variables.params, network.train_apply(variables, jnp.asarray(images), key)[0].logits

    params, expected = of_flax(jax.random.key(0))
    peer = peers.NETWORKS[name](7)
    assert sum(p.numel() for p in peer.parameters()) == sum(leaf.size for leaf in jax.tree.leaves(params))
    peer.load_state_dict({key: as_torch(name, key, params) for key, _ in peer.named_parameters()}, strict=False)
    with torch.no_grad():
        logits = peer.train()(torch.from_numpy(images).permute(0, 3, 1, 2))
    np.testing.assert_allclose(logits.numpy(), expected, rtol=1e-3, atol=1e-3 * float(np.abs(expected).max()))


def test_every_variant_does_the_whole_work(peers):
    workload = peers.Workload("small_cnn", 2, 8, 8, 5, 3, "float32", "cpu")
    for name in ("torch eager", "torch vmap"):
        run, together = peers.prepare(name, workload, None)
        done, seconds = run()
        assert done == 6
        assert seconds > 0
        assert together == (2 if name == "torch vmap" else 1)
