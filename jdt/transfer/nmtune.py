"""NMTune on a user's own arrays: frozen features in, tuned heads out."""

import dataclasses
import json
import os
import pathlib
import zipfile
from typing import Any

import jax
import numpy as np

from jdt import config
from jdt.checks import UserError
from jdt.sharding import in_waves
from jdt.transfer.nmtune_losses import Form
from jdt.transfer.tuning import Method, Tuning
from jdt.transfer.tuning_heads import HeadParams, Residual, Running, TunedHead
from jdt.transfer.tuning_loop import History, Sharing, apply_heads, tune_heads
from jdt.types import AnyArray, Bool, Float, Int

_NAMED = 5  # Rows that a message names.


@dataclasses.dataclass(frozen=True)
class Tuned:
    """Heads that were tuned on frozen features, of one model or of a stack of them.

    Attributes:
      head: Parameters as NumPy arrays, always on a leading models axis.
      history: Loss and its parts by pass, float32 `[models, passes]`.
      finite: bool `[models]`: False marks a head that diverged.
      train_accuracy: float32 `[models]`, on the training features.
      settings: How they were tuned.
      is_stacked: Whether features came, and are expected, as `[models, examples, features]`.
    """

    head: TunedHead = dataclasses.field(repr=False)  # Thousands of numbers.
    history: History = dataclasses.field(repr=False)
    finite: Bool[np.ndarray, " models"]
    train_accuracy: Float[np.ndarray, " models"]
    settings: Tuning
    is_stacked: bool

    def logits(self, features: AnyArray) -> Float[np.ndarray, "*models examples classes"]:
        """Outputs on frozen features, shaped as those of training.

        Raises:
          UserError: If the features have another shape than in training, or are not finite.
        """
        return self._apply(features)[0]

    def predict(self, features: AnyArray) -> Int[np.ndarray, "*models examples"]:
        """The class with the largest output for every example; -1 where outputs are NaN, as those of lost heads are."""
        logits = self.logits(features)
        return np.where(np.isnan(logits).any(axis=-1), -1, logits.argmax(axis=-1))

    def features(self, features: AnyArray) -> Float[np.ndarray, "*models examples features"]:
        """What the head reads: the residual network's output, or the frozen features under a linear probe."""
        return self._apply(features)[1]

    def _apply(self, features: AnyArray) -> tuple[np.ndarray, np.ndarray]:
        checked = checked_features("the features", features)
        models, width = np.shape(self.head.params.weights)[:2]
        if np.ndim(features) != 2 + self.is_stacked or checked.shape[::2] != (models, width):
            expected = f"[{models}, examples, {width}]" if self.is_stacked else f"[examples, {width}]"
            raise UserError(f"the features have shape {np.shape(features)}, but these heads expect {expected}.")
        found = jax.device_get(apply_heads(self.head, checked, _sharing(models)))
        logits, read = (np.asarray(array) if self.is_stacked else np.asarray(array)[0] for array in found)
        return logits, read

    def to_npz(self, path: str | os.PathLike[str]) -> None:
        """Save everything in one `.npz` file, which is replaced as a whole if it is there; nothing is pickled."""
        path = pathlib.Path(path)
        text = json.dumps({"settings": config.to_plain(self.settings), "is_stacked": self.is_stacked})
        arrays: dict[str, Any] = {"about": np.asarray(text), "finite": self.finite, "accuracy": self.train_accuracy}
        arrays |= {f"history.{name}": value for name, value in self.history._asdict().items()}
        arrays |= {"head.weights": self.head.params.weights, "head.bias": self.head.params.bias}
        for group, part in (("network", self.head.params.network), ("running", self.head.running)):
            arrays |= {} if part is None else {f"{group}.{name}": value for name, value in part._asdict().items()}
        partial = path.with_name(f".{path.name}.partial")
        with partial.open("wb") as file:
            np.savez(file, **arrays)
        partial.replace(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Tuned":
        """Read what `to_npz` saved.

        Raises:
          UserError: If the file cannot be read, or is none of them.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            about = json.loads(str(arrays["about"]))
            settings = config.from_plain(Tuning(), about["settings"])
            network, running = None, None
            if settings.has_network:
                network = Residual(*(arrays[f"network.{name}"] for name in Residual._fields))
                running = Running(*(arrays[f"running.{name}"] for name in Running._fields))
            head: Any = TunedHead(HeadParams(arrays["head.weights"], arrays["head.bias"], network), running)
            history = History(*(arrays[f"history.{name}"] for name in History._fields))
            return cls(head, history, arrays["finite"], arrays["accuracy"], settings, bool(about["is_stacked"]))
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"cannot read {path} as tuned heads ({error}): pass a file that to_npz made.") from error


def nmtune(
    features: AnyArray,
    labels: AnyArray,
    views: AnyArray | None = None,
    form: Form | None = None,
    *,
    method: Method | None = None,
    num_classes: int | None = None,
    seed: int = 0,
    settings: Tuning | None = None,
) -> Tuned:
    """Tune a head on frozen features (arXiv 2309.17002, section 4; what its two forms are: `nmtune_losses`).

    Args:
      features: `[examples, features]`, or `[models, examples, features]` for a head on each of several sets of features
        of the same examples. Computed as float32.
      labels: Integers `[examples]`.
      views: Features of augmented views of the same examples, `[views, examples, features]` or `[models, views,
        examples, features]`. Each step shows every example of its batch in two of them, drawn anew; without any, both
        views are the features themselves.
      form: `paper` (when None) or `code`.
      method: `nmtune` (when None), or for comparison `mlp` (the same without its terms) or `linear` (a linear probe).
      num_classes: Outputs; one more than the largest label when None.
      seed: Root seed. Model m of a stack draws from (seed, m).
      settings: Everything, in place of `form` and `method`: see `Tuning`.

    Returns:
      The heads, with `logits`, `predict`, `features`, `to_npz` and the history of the loss.

    Raises:
      UserError: If shapes or counts do not fit, features are not finite (rows named), labels lie outside, there is one
        class, or fewer than two examples; if a form or a method comes beside settings, or the seed fits no key.

    >>> draw = np.random.default_rng(0)
    >>> labels = draw.integers(0, 2, 100)
    >>> features = draw.normal(size=(100, 4)) + 3 * labels[:, None]
    >>> tuned = nmtune(features, labels, settings=Tuning("nmtune", "paper", epochs=50, learning_rate=0.03))
    >>> tuned.logits(features).shape, bool((tuned.predict(features) == labels).mean() > 0.9)
    ((100, 2), True)
    """
    if settings is not None and (form or method):
        raise UserError(f"{form or method} is asked for beside settings, which have both: pass it there.")
    settings = Tuning(method or "nmtune", form or "paper") if settings is None else settings
    checked = checked_features("the features", features)
    models, examples, _ = checked.shape
    wanted, num_classes = checked_labels(labels, examples, num_classes)
    bank = None if views is None else checked_views(views, checked.shape, np.ndim(features) == 3)
    found = tune_heads(
        checked, wanted, bank, settings,
        num_classes=num_classes, seed=seed, target=0, randomness_ids=np.arange(models), sharing=_sharing(models),
    )  # fmt: skip
    found: Any = jax.device_get(found)
    arrays = jax.tree.map(np.asarray, found)
    return Tuned(
        arrays.head, arrays.history, arrays.finite, arrays.train_accuracy, settings, is_stacked=np.ndim(features) == 3
    )


def checked_features(name: str, features: AnyArray) -> Float[np.ndarray, "models examples features"]:
    """Features as float32, on a models axis.

    Raises:
      UserError: If they are no numbers, have other axes, no feature, fewer than two examples, or values that are NaN
        or infinite.
    """
    array = np.asarray(features)
    if array.ndim not in (2, 3) or not (
        np.issubdtype(array.dtype, np.floating) or np.issubdtype(array.dtype, np.integer)
    ):
        raise UserError(
            f"{name} are {array.dtype} of shape {array.shape}, but must be numbers [examples, features] or "
            "[models, examples, features]."
        )
    array = np.asarray(array if array.ndim == 3 else array[None], np.float32)
    if array.shape[0] < 1 or array.shape[1] < 1 or array.shape[2] < 1:
        raise UserError(f"{name} have shape {np.shape(features)}: there is nothing in them.")
    _require_finite(name, array)
    return array


def checked_labels(
    labels: AnyArray, examples: int, num_classes: int | None, *, name: str = "the features", trains: bool = True
) -> tuple[Int[np.ndarray, " examples"], int]:
    """Labels as int32, and how many classes there are.

    Args:
      labels: One an example.
      examples: How many there are.
      num_classes: One more than the largest label when None.
      name: What messages call the features they belong to.
      trains: Whether one class, or one example, is too few.

    Raises:
      UserError: If they are no integers, not one an example, lie outside, or name one class only.
    """
    array = np.asarray(labels)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise UserError(
            f"the labels of {name} are {array.dtype} of shape {array.shape}, but must be integers [examples]."
        )
    if len(array) != examples:
        raise UserError(f"{name} are of {examples} examples, but there are {len(array)} labels: give one label each.")
    if trains and examples < 2:
        raise UserError(f"there is {examples} example, but at least two are needed.")
    count = int(array.max()) + 1 if num_classes is None else num_classes
    outside = np.flatnonzero((array < 0) | (array >= count))
    if len(outside):
        raise UserError(
            f"{len(outside)} of {examples} labels of {name} lie outside 0..{count - 1} (first: "
            f"{array[outside[0]]}, row {outside[0]}): number the classes from 0."
        )
    if trains and len(np.unique(array)) < 2:
        raise UserError(f"all labels are {array[0]}, but at least two classes are needed.")
    return array.astype(np.int32), count


def checked_views(
    views: AnyArray, shape: tuple[int, ...], is_stacked: bool
) -> Float[np.ndarray, "models views examples features"]:
    """Features of views as float32, on a models axis, fitting features of `shape`.

    Raises:
      UserError: If they do not fit, or are not finite.
    """
    array = np.asarray(views)
    expected = f"[{shape[0]}, views, {shape[1]}, {shape[2]}]" if is_stacked else f"[views, {shape[1]}, {shape[2]}]"
    if array.ndim != 3 + is_stacked or not np.issubdtype(array.dtype, np.number):
        raise UserError(f"the views are {array.dtype} of shape {array.shape}, but must be numbers {expected}.")
    array = np.asarray(array if is_stacked else array[None], np.float32)
    if (array.shape[0], *array.shape[2:]) != shape or not array.shape[1]:
        raise UserError(f"the views have shape {np.shape(views)}, but must fit the features: {expected}.")
    _require_finite("the views", array)
    return array


def _require_finite(name: str, array: Float[np.ndarray, "models *views examples features"]) -> None:
    own = array[:1] if array.strides[0] == 0 else array  # A stack of one and the same is looked at once.
    sound = np.isfinite(own).all(axis=-1)
    if sound.all():
        return
    rows = np.unique(np.nonzero(~sound)[-1])
    shown = ", ".join(map(str, rows[:_NAMED].tolist())) + (", ..." if len(rows) > _NAMED else "")
    raise UserError(
        f"{name} of {len(rows)} of {array.shape[-2]} examples are NaN or infinite, in rows {shown}: leave these "
        "examples out, or compute their features again."
    )


def _sharing(models: int) -> Sharing:
    """A model a device at a time on CPUs, whose caches hold one; up to 32 share each step elsewhere."""
    devices = min(models, jax.local_device_count())
    is_cpu = jax.default_backend() == "cpu"
    return Sharing(devices, in_waves(models, devices, 1 if is_cpu else 32), not is_cpu)
