"""How good models are on a target: one number a model, of predictions or scores and labels.

>>> float(per_class_accuracy(np.array([[0, 0, 1]]), np.array([0, 0, 1]), num_classes=2)[0])
1.0
"""

import numpy as np

from jdt.types import Float, Int


def per_class_accuracy(
    predictions: Int[np.ndarray, "models examples"], labels: Int[np.ndarray, " examples"], num_classes: int
) -> Float[np.ndarray, " models"]:
    """Mean over classes of the share of right predictions (arXiv 2207.05739, its evaluation code), in [0, 1].

    Args:
      predictions: `[models, examples]`; a row with -1 is that of a model that diverged.
      labels: `[examples]`.
      num_classes: All classes; one without examples counts 0, as in the published code.

    Returns:
      float32 `[models]`, NaN for models that diverged.
    """
    sizes = np.bincount(labels, minlength=num_classes)
    weights = 1.0 / np.maximum(sizes, 1)[labels] / num_classes
    return _of_sound((predictions == labels) @ weights, predictions)


def binary_auroc(
    scores: Float[np.ndarray, "models examples"], labels: Int[np.ndarray, " examples"]
) -> Float[np.ndarray, " models"]:
    """Area under the ROC curve of every model, in [0, 1]: the chance that class 1 scores above class 0, ties half.

    Args:
      scores: `[models, examples]`, anything that rises with the probability of class 1.
      labels: 0 or 1, `[examples]`.

    Returns:
      float32 `[models]`; NaN where a score is not finite, or only one class is there.
    """
    positive = np.asarray(labels) == 1
    pairs = int(positive.sum()) * int((~positive).sum())
    if not pairs:
        return np.full(len(scores), np.nan, np.float32)
    # Of each positive: negatives below it, and those not above it; half of both is the number of its wins.
    wins = np.empty(len(scores))
    for model, row in enumerate(scores):
        negatives = np.sort(row[~positive])
        below = np.searchsorted(negatives, row[positive], "left") + np.searchsorted(negatives, row[positive], "right")
        wins[model] = below.sum() / 2 / pairs
    return np.where(np.isfinite(scores).all(axis=1), wins, np.nan).astype(np.float32)


def log_odds_of(
    confidence: Float[np.ndarray, "models examples"], margin: Float[np.ndarray, "models examples"], num_classes: int
) -> Float[np.ndarray, "models examples"]:
    """Log-odds of the true class, log p / (1 - p), from what a run stores of every example.

    With C classes they lie between `margin - log(C - 1)` and `margin`. In between, the confidence tells them as long as
    it is not rounded: to 1e-3 where they are below 9, since float32 keeps 1 - p to 6e-8. With two classes they are
    the margin.

    Args:
      confidence: Probability of the true class, float32 `[models, examples]`.
      margin: Its logit minus the best wrong one.
      num_classes: C.

    Returns:
      float32 `[models, examples]`, finite wherever the margin is.
    """
    p = np.asarray(confidence, np.float64)
    with np.errstate(divide="ignore"):
        told = np.log(p) - np.log1p(-p)
    return np.clip(told, margin - np.log(max(num_classes - 1, 1)), margin).astype(np.float32)


def _of_sound(
    values: Float[np.ndarray, " models"], predictions: Int[np.ndarray, "models examples"]
) -> Float[np.ndarray, " models"]:
    return np.where((predictions < 0).any(axis=1), np.nan, values).astype(np.float32)
