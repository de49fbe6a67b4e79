"""Schemas and blocks with known content, for the tests of the store and the child processes they start.

As a program it writes the blocks of a run, or a share of them, one by one:
`python store_examples.py PATH NUM_MODELS BLOCK_SIZE EXAMPLES [SHARD]`.
"""

import sys

import numpy as np

from jdt.hosts import next_block, parse_shard
from jdt.store import Schema, Target, create_or_open

CONFIG = {"seed": 0, "recipe": {"epochs": 4}, "fraction": 0.5}


def schema(num_models=10, block_size=4, units=6, examples=7, targets=("cifar10",), modes=("fixed",)):
    classes = tuple(f"class é {i}" for i in range(5))
    made = {t: Target((np.arange(examples) % 5).astype(np.int32), classes) for t in targets}
    return Schema(num_models, block_size, tuple(f"unit {u}, ü" for u in range(units)), made, tuple(modes))


def block_arrays(schema, block):
    rows, values = schema.layout.models_of(block), {}
    for i, column in enumerate(schema.columns().values()):
        rng, shape = np.random.default_rng([block, i]), (len(rows), *column.shape[1:])
        if column.dtype == "bool":
            values[column.name] = rng.random(shape) < 0.5
        elif column.dtype == "int32":
            values[column.name] = rng.integers(0, 5, shape, dtype=np.int32)
        else:
            values[column.name] = rng.normal(size=shape).astype(np.float32)
    return values


def whole(schema, column):
    return np.concatenate([block_arrays(schema, b)[column] for b in range(schema.layout.num_blocks)])


def writer(path, schema, **options):
    return create_or_open(path, config=CONFIG, provenance={"device": "cpu"}, schema=schema, **options)


def write_missing(path, schema):
    run = writer(path, schema)
    for block in run.missing_blocks():
        run.write_block(block, block_arrays(schema, block), {"seconds": 1.0})
        print(f"done {block}", flush=True)
    return run


def write_share(path, schema, hosts):
    run = writer(path, schema)
    while (block := next_block(run.unrecorded_blocks(), hosts)) is not None:
        run.write_block(block, block_arrays(schema, block), {"seconds": 1.0})
        print(f"done {block}", flush=True)


def store_bytes(path):
    root = path / "store.zarr"
    return {str(f.relative_to(root)): f.read_bytes() for f in sorted(root.rglob("*")) if f.is_file()}


if __name__ == "__main__":
    path, (models, size, examples) = sys.argv[1], map(int, sys.argv[2:5])
    made = schema(models, size, examples=examples)
    if len(sys.argv) > 5:
        write_share(path, made, parse_shard(sys.argv[5]))
    else:
        write_missing(path, made)
