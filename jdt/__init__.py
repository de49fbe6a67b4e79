"""jdt (JAX Data Transfer): which parts of the source data make each target prediction what it is?

run = jdt.open_run("runs/demo")
influences = jdt.load_influences("runs/demo", level="class")
influences.top("3")
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jdt import analyses as analyses
    from jdt import checks as checks
    from jdt import cli as cli
    from jdt import config as config
    from jdt import data as data
    from jdt import devices as devices
    from jdt import estimators as estimators
    from jdt import evaluate as evaluate
    from jdt import exchange as exchange
    from jdt import hosts as hosts
    from jdt import masks as masks
    from jdt import metrics as metrics
    from jdt import models as models
    from jdt import outputs as outputs
    from jdt import pipeline as pipeline
    from jdt import plant as plant
    from jdt import report as report
    from jdt import runs as runs
    from jdt import store as store
    from jdt import testing as testing
    from jdt import train as train
    from jdt import transfer as transfer
    from jdt.checks import UserError as UserError
    from jdt.estimators import DifferenceOfMeans as DifferenceOfMeans
    from jdt.estimators import HoldOut as HoldOut
    from jdt.estimators import Influences as Influences
    from jdt.estimators import KFold as KFold
    from jdt.estimators import Lasso as Lasso
    from jdt.estimators import Ridge as Ridge
    from jdt.estimators import lasso_path as lasso_path
    from jdt.estimators import load_influences as load_influences
    from jdt.runs import open_run as open_run
    from jdt.transfer import nmtune as nmtune

__version__ = "0.1.0"

__all__ = [
    "DifferenceOfMeans",
    "HoldOut",
    "Influences",
    "KFold",
    "Lasso",
    "Ridge",
    "UserError",
    "analyses",
    "checks",
    "cli",
    "config",
    "data",
    "devices",
    "estimators",
    "evaluate",
    "exchange",
    "hosts",
    "lasso_path",
    "load_influences",
    "masks",
    "metrics",
    "models",
    "nmtune",
    "open_run",
    "outputs",
    "pipeline",
    "plant",
    "report",
    "runs",
    "store",
    "testing",
    "train",
    "transfer",
]
_HOMES = {
    "UserError": "jdt.checks",
    "DifferenceOfMeans": "jdt.estimators",
    "Influences": "jdt.estimators",
    "HoldOut": "jdt.estimators",
    "KFold": "jdt.estimators",
    "Lasso": "jdt.estimators",
    "Ridge": "jdt.estimators",
    "lasso_path": "jdt.estimators",
    "load_influences": "jdt.estimators",
    "open_run": "jdt.runs",
    "nmtune": "jdt.transfer",
}


def __getattr__(name: str) -> Any:
    # Loaded on first use: reading a saved run needs neither JAX's compiler nor a plotting library.
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in __all__:
        return importlib.import_module(f"jdt.{name}")
    raise AttributeError(f"module 'jdt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
