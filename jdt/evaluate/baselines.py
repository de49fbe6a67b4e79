"""A datamodel's score beside trivial baselines: a score says little until something trivial has been beaten."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from jdt import checks
from jdt.estimators import Estimator, Influences
from jdt.evaluate.lds import LDS, interval, lds, model_draws, with_intervals
from jdt.masks import OUTSIDE
from jdt.types import AnyArray, Bool, Float, Int, Masks, Outputs, Shaped

_CHUNK = 4096  # Examples averaged at once: a memory map is never read as a whole.


@dataclasses.dataclass(frozen=True, eq=False)
class DatamodelScore:
    """Held-out LDS of an estimator, of baselines, and how far it is ahead of them.

    Attributes:
      datamodel: Of the estimator.
      baselines: By name.
      lead: By name of the baseline: interval, over the same resamples of models, of the estimator's mean LDS minus the
        baseline's. Two intervals that overlap say less: both scores move with the same models.
    """

    datamodel: LDS
    baselines: Mapping[str, LDS]
    lead: Mapping[str, tuple[float, float]]


def mean_scores(
    estimator: Estimator, masks: Masks, outputs: Outputs, *, paired: bool = False
) -> Float[np.ndarray, "units one"]:
    """Baseline "mean prediction": every target is predicted by the mean output of all targets.

    The same estimator is fitted to each model's mean output over targets, and what it predicts of a held-out mask
    stands for every target. What a datamodel scores above this it knows of single targets; below this it has learned
    no more than which models are good at all. With a single target it is the datamodel itself. (One constant for all
    models would score 0 by definition, and so would the number of kept units where subsets have one size.)

    Args:
      estimator: The estimator that is judged.
      masks: bool `[models, units]`: those it was fitted to.
      outputs: float `[models, targets]`.
      paired: Whether rows 2i and 2i+1 are an antithetic pair.
    """
    outputs = np.asarray(outputs)
    mean = outputs.mean(axis=1, keepdims=True, dtype=np.float64)
    return estimator.fit(np.asarray(masks), mean, paired=paired).influence


def similarity_scores(
    source_images: Shaped[AnyArray, "examples ..."],
    unit_of_example: Int[np.ndarray, " groups"],
    target_images: Shaped[AnyArray, "targets ..."],
    class_of_target: Int[np.ndarray, " classes"] | None = None,
) -> Float[np.ndarray, "units columns"]:
    """Baseline "visual similarity": a unit helps the targets that look like its mean image.

    Influence of unit u on target j = cosine of (mean of u's images - c) and (image j - c), where c is the mean of the
    units' mean images. Pixels, or features of any shape. 0 where one of the two equals c.

    Args:
      source_images: Numbers `[examples, ...]`, e.g. uint8 images; a memory map is read in chunks.
      unit_of_example: int `[examples]`: the unit of each, or `OUTSIDE`. Units are numbered from 0 without gaps.
      target_images: Numbers `[targets, ...]`, of the shape of the source's.
      class_of_target: int `[targets]`: average target images by class first; None for a column an image.

    Returns:
      float64 `[units, targets]`, or `[units, classes]`; in [-1, 1].

    Raises:
      UserError: If images and groups do not fit each other, source and target images differ in shape, or a unit or
        class has no image.

    >>> similarity_scores(np.array([[2.0, 0.0], [0.0, 2.0]]), np.array([0, 1]), np.array([[3.0, 0.0]])).round(3)
    array([[ 0.949],
           [-0.949]])
    """
    if source_images.shape[1:] != target_images.shape[1:]:
        raise checks.UserError(
            f"source images have shape {source_images.shape[1:]} and target images {target_images.shape[1:]}, but only "
            "images of one shape can be compared: resize them (--image-size)."
        )
    classes = np.arange(len(target_images)) if class_of_target is None else class_of_target
    units, targets = mean_vectors(source_images, unit_of_example), mean_vectors(target_images, classes)
    centre = units.mean(axis=0)
    return _directions(units - centre) @ _directions(targets - centre).T


def mean_vectors(
    values: Shaped[AnyArray, "examples ..."], group_of_example: Int[np.ndarray, " members"]
) -> Float[np.ndarray, "groups features"]:
    """Mean of the flattened values of each group, summed in float64; examples of group `OUTSIDE` count nowhere.

    Raises:
      UserError: If there is no group for each example, no example in any group, or none in one of the groups.
    """
    if len(values) != len(group_of_example):
        raise checks.UserError(f"there are {len(values)} images, but {len(group_of_example)} groups of images.")
    inside = np.flatnonzero(group_of_example != OUTSIDE)
    sizes = np.bincount(group_of_example[inside])
    if not len(sizes) or not sizes.all():
        which = f"group {np.argmin(sizes)} has no image" if len(sizes) else "no image is in any group"
        raise checks.UserError(f"{which}, but every unit and class needs one to have a mean image.")
    sums = np.zeros((len(sizes), int(np.prod(values.shape[1:]))))
    for start in range(0, len(values), _CHUNK):
        chunk = np.arange(start, min(start + _CHUNK, len(values)))
        chunk = chunk[group_of_example[chunk] != OUTSIDE]
        chunk = chunk[np.argsort(group_of_example[chunk], kind="stable")]
        groups, first = np.unique(group_of_example[chunk], return_index=True)
        if len(groups):
            flat = np.asarray(values[chunk], np.float64).reshape(len(chunk), -1)
            sums[groups] += np.add.reduceat(flat, first, axis=0)
    return sums / sizes[:, None]


def score_datamodel(
    influences: Influences,
    masks: Bool[np.ndarray, "models units"],
    outputs: Float[np.ndarray, "models targets"],
    baselines: Mapping[str, Float[np.ndarray, "_ _"]],
    *,
    paired: bool = False,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> DatamodelScore:
    """Held-out LDS of a datamodel and of baselines, on the same models and the same resamples of them.

    Args:
      influences: Fitted to other models.
      masks: bool `[models, units]` of the held-out models.
      outputs: float `[models, targets]` of the held-out models.
      baselines: Name -> influence that a baseline gives each unit on each target, or on all alike (one column), e.g.
        `{"mean": mean_scores(...), "similarity": similarity_scores(...)}`; predictions are sums over the kept units.
      paired: Whether rows 2i and 2i+1 are an antithetic pair.
      resamples: Bootstrap resamples.
      level: Of the intervals.
      seed: Of the resamples.

    Raises:
      UserError: If a baseline does not fit masks and outputs; or as `lds_intervals`.
    """
    masks, outputs = np.asarray(masks, bool), np.asarray(outputs)
    estimated = influences.predict(masks)
    predicted = {name: _predicted(name, scores, masks, outputs) for name, scores in baselines.items()}

    def draws(values: Float[np.ndarray, "models targets"]) -> Float[np.ndarray, " resamples"]:
        return model_draws(values, outputs, paired=paired, resamples=resamples, seed=seed)

    def scored(values: Float[np.ndarray, "models targets"], drawn: Float[np.ndarray, " resamples"]) -> LDS:
        return with_intervals(lds(values, outputs), drawn, level=level, seed=seed)

    drawn = draws(estimated)
    own, others, lead = scored(estimated, drawn), {}, {}
    for name, values in predicted.items():
        other_drawn = draws(values)
        others[name] = scored(values, other_drawn)
        lead[name] = interval(drawn - other_drawn, own.value - others[name].value, level)
    return DatamodelScore(own, others, lead)


def _predicted(
    name: str,
    scores: Float[np.ndarray, "_ _"],
    masks: Bool[np.ndarray, "models units"],
    outputs: Float[np.ndarray, "models targets"],
) -> Float[np.ndarray, "models targets"]:
    if scores.shape not in {(masks.shape[1], 1), (masks.shape[1], outputs.shape[1])}:
        raise checks.UserError(
            f"baseline {name!r} has shape {scores.shape}, expected [{masks.shape[1]} units, {outputs.shape[1]} "
            "targets] or one column for all targets."
        )
    return np.broadcast_to(masks.astype(scores.dtype) @ scores, outputs.shape)


def _directions(vectors: Float[np.ndarray, "rows features"]) -> Float[np.ndarray, "rows features"]:
    norm = np.sqrt((vectors**2).sum(axis=1, keepdims=True))
    return np.divide(vectors, norm, out=np.zeros_like(vectors), where=norm > 0)
