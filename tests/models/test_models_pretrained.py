import contextlib
import json
import struct

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdt import models
from jdt.checks import UserError

SHAPE = (8, 8, 1)
NETWORK = models.Network(models.SmallCNN(3, width=4))


@pytest.fixture(scope="module")
def variables():
    draw = np.random.default_rng(0)
    like = jax.eval_shape(lambda key: NETWORK.init(key, SHAPE), jax.random.key(1))
    return jax.tree.map(lambda leaf: draw.normal(size=leaf.shape).astype(np.float32), like)


def tree_of(variables):
    return {"params": variables.params, **variables.state}


def named(tree, separator):
    return {
        jax.tree_util.keystr(keys, simple=True, separator=separator): np.asarray(leaf)
        for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


CODES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "int32": "I32"}


def safetensors(arrays, metadata=None):
    """The published format, written by hand."""
    header, content = {} if metadata is None else {"__metadata__": metadata}, b""
    for name, array in arrays.items():
        end = len(content) + array.nbytes
        header[name] = {"dtype": CODES[array.dtype.name], "shape": array.shape, "data_offsets": [len(content), end]}
        content += array.tobytes()
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content


def write_orbax(path, tree):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, tree)
    return path


def write_manager(path, tree):
    with ocp.CheckpointManager(path) as manager:
        manager.save(7, args=ocp.args.StandardSave(tree))
        manager.wait_until_finished()
    return path / "7"


def write(path, content):
    path.write_bytes(content)
    return path


FORMATS = {
    "orbax": lambda path, tree: write_orbax(path, tree),
    "orbax of a training state": lambda path, tree: write_manager(
        path, {**tree, "step": 3, "opt_state": (tree["params"],)}
    ),
    "msgpack": lambda path, tree: write(path.with_suffix(".msgpack"), flax.serialization.to_bytes(tree)),
    "msgpack of a training state": lambda path, tree: write(
        path.with_suffix(".msgpack"), flax.serialization.to_bytes({**tree, "step": 3, "opt_state": {"0": {}}})
    ),
    "safetensors": lambda path, tree: write(
        path.with_suffix(".safetensors"), safetensors(named(tree, "."), {"by": "us"})
    ),
    "safetensors with slashes": lambda path, tree: write(
        path.with_suffix(".safetensors"), safetensors(named(tree, "/"))
    ),
    "safetensors without params": lambda path, tree: write(
        path.with_suffix(".safetensors"),
        safetensors({name.removeprefix("params."): array for name, array in named(tree, ".").items()}),
    ),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_what_was_saved_is_read_whole_or_with_a_fresh_head(variables, tmp_path, kind):
    path = FORMATS[kind](tmp_path / "saved", tree_of(variables))
    found = models.load_variables(path, NETWORK, SHAPE)
    jax.tree.map(np.testing.assert_array_equal, found, variables)
    assert jax.tree.structure(found) == jax.tree.structure(variables)
    wider = NETWORK.with_classes(5)
    with pytest.raises(UserError, match=r"2 of 22 arrays: params/head/bias is float32\[3\] in .* and float32\[5\] in"):
        models.load_variables(path, wider, SHAPE)
    fresh = models.load_variables(path, wider, SHAPE, head=False)
    assert fresh.params["head"]["kernel"].shape == (16, 5)
    assert np.ptp(fresh.params["head"]["kernel"]) > 0
    np.testing.assert_array_equal(fresh.params["conv2"]["kernel"], variables.params["conv2"]["kernel"])


def test_half_precision_is_converted_and_other_types_are_not(variables, tmp_path):
    half = {name: np.asarray(array, jnp.bfloat16) for name, array in named(tree_of(variables), ".").items()}
    path = write(tmp_path / "half.safetensors", safetensors(half))
    kernel = models.load_variables(path, NETWORK, SHAPE).params["conv0"]["kernel"]
    np.testing.assert_array_equal(kernel, half["params.conv0.kernel"].astype(np.float32))
    half["params.head.bias"] = np.zeros(3, np.int32)
    with pytest.raises(UserError, match=r"params/head/bias is int32\[3\] in the file and float32\[3\] in the model"):
        models.load_variables(write(path, safetensors(half)), NETWORK, SHAPE)


def test_every_leaf_that_does_not_fit_is_named(variables, tmp_path):
    arrays = named(tree_of(variables), "/")
    arrays["params/extra/kernel"] = arrays.pop("params/conv1/kernel")
    arrays["batch_stats/norm0/mean"] = np.zeros(9, np.float32)
    path = write(tmp_path / "odd.safetensors", safetensors(arrays))
    with pytest.raises(UserError) as caught:
        models.load_variables(path, NETWORK, SHAPE)
    for words in (
        "batch_stats/norm0/mean is float32[9] in the file and float32[4] in the model",
        "params/conv1/kernel is absent in the file and float32[3, 3, 4, 8] in the model",
        "params/extra/kernel is float32[3, 3, 4, 8] in the file and absent in the model",
    ):
        assert words in str(caught.value)


def header_of(entries):
    text = json.dumps(entries).encode() if not isinstance(entries, bytes) else entries
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "a header of 0 bytes"),
        (struct.pack("<Q", 1 << 62) + b"{}", "4,611,686,018,427,387,904 bytes is announced, and the file has 10"),
        (header_of({"a": {"dtype": "F32", "shape": [1 << 60], "data_offsets": [0, 4]}}), "a is float32[11529215"),
        (header_of({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}}), "impossible shape or place"),
        (header_of({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}) + bytes(8), "gaps between them"),
        (header_of({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}), "and the file has"),
        (header_of(b'{"a": 1, "a": 2}'), "a name is there twice"),
        (header_of(b"[" * 100_000), "cannot read pre-trained variables"),
        (header_of({"a": {"dtype": "PICKLE", "shape": [1], "data_offsets": [0, 4]}}), "'PICKLE'"),
    ],
)
def test_hostile_safetensors_are_refused(tmp_path, content, reason):
    with pytest.raises(UserError) as caught:
        models.load_variables(write(tmp_path / "bad.safetensors", content), NETWORK, SHAPE)
    assert reason in str(caught.value)


@pytest.mark.parametrize("kind", ["msgpack", "safetensors"])
def test_damage_is_never_more_than_one_line(variables, tmp_path, kind):
    path = FORMATS[kind](tmp_path / "saved", tree_of(variables))
    content = path.read_bytes()

    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(st.integers(0, len(content)), st.integers(0, 400), st.binary(max_size=8))
    def damaged(stop, where, put):
        changed = content[:where] + put + content[where + len(put) :]
        for bad in (content[:stop], changed):
            path.write_bytes(bad)
            with contextlib.suppress(UserError):  # Of which none has more than a line.
                models.load_variables(path, NETWORK, SHAPE)

    damaged()


# Orbax's own threads notice that reading has failed when nobody listens any more.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_is_no_checkpoint_is_refused(variables, tmp_path):
    with pytest.raises(UserError, match="is no file and no folder"):
        models.load_variables(tmp_path / "missing.msgpack", NETWORK, SHAPE)
    with pytest.raises(UserError, match="holds no _METADATA"):
        models.load_variables(tmp_path, NETWORK, SHAPE)
    with pytest.raises(UserError, match="hold pickles are never read"):
        models.load_variables(write(tmp_path / "model.pt", b"PK"), NETWORK, SHAPE)
    saved = write_orbax(tmp_path / "orbax", tree_of(variables))
    for part in sorted((saved / "d").iterdir()):
        part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(UserError, match="cannot read pre-trained variables"):
        models.load_variables(saved, NETWORK, SHAPE)
    (saved / "_METADATA").write_text("{}")
    with pytest.raises(UserError):
        models.load_variables(saved, NETWORK, SHAPE)
