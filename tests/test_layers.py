"""Imports follow the layer table of docs/architecture.md, and what jdt must never import stays out."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LAYERS = {
    "base": {"types", "keys", "checks", "config", "devices", "hosts", "exchange", "metrics"},
    "maths": {"linalg", "sharding", "masks"},
    "making": {"data", "plant", "models", "train", "transfer", "outputs"},
    "learning": {"store", "estimators", "evaluate", "analyses"},
    "top": {"pipeline", "report", "testing", "cli", "interrupts", "runs", "__init__"},
}
MAY_IMPORT = {
    "base": {"base"},
    "maths": {"base", "maths"},
    "making": {"base", "maths", "making"},
    "learning": {"base", "maths", "learning"},
    "top": set(LAYERS),
}
LAYER_OF = {package: layer for layer, packages in LAYERS.items() for package in packages}
NEVER = {"tensorflow", "torch", "pickle"}
FIRST_PARTY = {"jdt", "experiments", "benchmarks", "tests"}

JDT = sorted((ROOT / "jdt").rglob("*.py"))
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.py"))


def module_name(path: Path) -> str:
    """`jdt/store/reader.py` is `jdt.store.reader`; a package's `__init__.py` keeps its last part."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imports(tree: ast.AST, module: str) -> Iterator[str]:
    """Dotted names that a module imports anywhere, also inside functions and by a constant name at run time."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=source, names=names, level=level):
                base = ".".join([*module.split(".")[:-level], *([source] if source else [])]) if level else source
                # `from jdt import store` imports jdt.store; `from jdt.store import Run` no more than jdt.store.
                yield from (f"{base}.{alias.name}" for alias in names)
            case ast.Call(
                func=ast.Name(id=name) | ast.Attribute(attr=name), args=[ast.Constant(value=str(target)), *_]
            ):
                if name in ("import_module", "__import__"):
                    yield target


def complaints(source: str, module: str) -> list[str]:
    """What is wrong with the imports of one module of jdt."""
    package = module.split(".")[1]
    found = []
    if package not in LAYER_OF:
        return [f"{module}: jdt.{package} is in no layer: add it to docs/architecture.md and to this test."]
    layer, tree = LAYER_OF[package], ast.parse(source)
    for name in imports(tree, module):
        root, _, rest = name.partition(".")
        other = rest.split(".")[0]
        if root in NEVER:
            found.append(f"{module} imports {root}, which jdt never does.")
        elif root != "jdt":
            if root in FIRST_PARTY:
                found.append(f"{module} imports {name}, but jdt stands alone.")
        elif package == "store" and other != "store" and LAYER_OF.get(other) != "base":
            found.append(f"{module} imports {name}, but jdt.store may import the base layer only.")
        elif LAYER_OF.get(other, "top") not in MAY_IMPORT[layer]:
            found.append(f"{module} ({layer}) imports {name} ({LAYER_OF.get(other, 'top')}).")
    return found + unpicklings(tree, module)


def unpicklings(tree: ast.AST, module: str) -> list[str]:
    """Calls that would unpickle what they read."""
    return [
        f"{module}:{node.value.lineno} passes allow_pickle=True."
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword)
        and node.arg == "allow_pickle"
        and not (isinstance(node.value, ast.Constant) and node.value.value is False)
    ]


def experiment_complaints(source: str, module: str) -> list[str]:
    """What is wrong with the imports of one experiment: of this project only `import jdt` and other experiments."""
    tree = ast.parse(source)
    found = [
        f"{module} imports {name}: of this project experiments use `import jdt` and each other only."
        for name in imports(tree, module)
        if (root := name.split(".")[0]) in FIRST_PARTY and root != "experiments" and name != "jdt"
    ]
    found += [f"{module} imports {name}." for name in imports(tree, module) if name.split(".")[0] in NEVER]
    return found + unpicklings(tree, module)


@pytest.mark.parametrize("path", JDT, ids=module_name)
def test_jdt_keeps_its_layers(path):
    assert complaints(path.read_text(encoding="utf-8"), module_name(path)) == []


@pytest.mark.parametrize("path", EXPERIMENTS, ids=module_name)
def test_experiments_use_the_public_interface(path):
    assert experiment_complaints(path.read_text(encoding="utf-8"), module_name(path)) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("jdt.keys", "from jdt.masks import sample"),
        ("jdt.masks.designs", "from jdt.models import Network"),
        ("jdt.train.engine", "from jdt import store"),
        ("jdt.train.engine", "def f():\n    from jdt.estimators import Ridge"),
        ("jdt.train.engine", "from ..store import reader"),
        ("jdt.estimators.ridge", "import jdt.train.engine"),
        ("jdt.estimators.ridge", "import jdt"),
        ("jdt.store.reader", "from jdt.linalg import matmul"),
        ("jdt.data.loading", "import tensorflow as tf"),
        ("jdt.report.page", "from torch import nn"),
        ("jdt.report.page", "import importlib\nimportlib.import_module('pickle')"),
        ("jdt.pipeline.task", "from experiments.class_influence import Config"),
        ("jdt.store.reader", "import numpy as np\nnp.load('x.npy', allow_pickle=True)"),
        ("jdt.newcomer.module", "import numpy"),
    ],
)
def test_a_bad_module_is_caught(module, source):
    assert len(complaints(source, module)) == 1


@pytest.mark.parametrize(
    "source", ["from jdt.masks import sample", "import jdt.store", "from tests import x", "import torch"]
)
def test_a_bad_experiment_is_caught(source):
    assert len(experiment_complaints(source, "experiments.new")) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("jdt.data.loading", "import tensorflow_datasets as tfds"),
        ("jdt.data.loading", "from jdt.checks import UserError"),
        ("jdt.store.create", "from jdt.store.files import explained\nfrom jdt.config import fingerprint"),
        ("jdt.estimators.saved", "from jdt.store import open_run"),
        ("jdt.pipeline.blocks", "from jdt import store\nfrom jdt.estimators import Ridge\nfrom jdt.train import train"),
    ],
)
def test_a_good_module_passes(module, source):
    assert complaints(source, module) == []
