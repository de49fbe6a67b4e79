"""How good models are on a target: one number a model, of predictions or scores and labels.

>>> float(per_class_accuracy(np.array([[0, 0, 1]]), np.array([0, 0, 1]), num_classes=2)[0])
1.0
"""

import numpy as np

from jdt.types import Bool, Float, Int


def per_class_accuracy(
    predictions: Int[np.ndarray, "models examples"], labels: Int[np.ndarray, " examples"], num_classes: int
) -> Float[np.ndarray, " models"]:
    """Mean over classes of the share of right predictions (arXiv 2207.05739, its evaluation code), in [0, 1].

    Args:
      predictions: `[models, examples]`; a row with -1 is that of a model that diverged.
      labels: `[examples]`.
      num_classes: All classes; one without examples counts 0, as in the published code.

    Returns:
      float64 `[models]`, NaN for models that diverged.
    """
    weights = 1.0 / np.bincount(labels, minlength=num_classes)[labels] / num_classes
    return np.where((predictions < 0).any(axis=1), np.nan, (predictions == labels) @ weights)


def binary_auroc(
    scores: Float[np.ndarray, "models examples"],
    labels: Int[np.ndarray, " examples"] | Bool[np.ndarray, " examples"],
) -> Float[np.ndarray, " models"]:
    """Area under the ROC curve of every model, in [0, 1]: the chance that class 1 scores above class 0, ties half.

    Args:
      scores: `[models, examples]`, anything that rises with the probability of class 1.
      labels: 0 or 1, `[examples]`.

    Returns:
      float64 `[models]`; NaN where a score is, or where only one class is there.

    >>> binary_auroc(np.array([[0.1, 0.4, 0.4, 0.9]]), np.array([0, 0, 1, 1])).tolist()
    [0.875]
    """
    from scipy import stats  # Takes half a second, which every start of a program would wait for.

    positive = np.asarray(labels) == 1
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives * negatives:
        return np.full(len(scores), np.nan)
    wins = stats.rankdata(scores, axis=1)[:, positive].sum(axis=1) - positives * (positives + 1) / 2
    return wins / (positives * negatives)


def log_odds_of(
    confidence: Float[np.ndarray, "models examples"], margin: Float[np.ndarray, "models examples"], num_classes: int
) -> Float[np.ndarray, "models examples"]:
    """Log-odds of the true class, log p / (1 - p), from what a run stores of every example.

    With C classes they lie between `margin - log(C - 1)` and `margin`. In between, the confidence tells them as long as
    it is not rounded. So no run stores them: on the digits and on cifar10_32, fixed and full, the median error was
    7e-6, and the largest 4e-3, at log-odds near 9, a thousandth of how far they differ between models. With two
    classes they are the margin.

    Args:
      confidence: Probability of the true class, float32 `[models, examples]`.
      margin: Its logit minus the best wrong one.
      num_classes: C.

    Returns:
      float32 `[models, examples]`, finite wherever the margin is.
    """
    p = np.clip(np.asarray(confidence, np.float64), 0.0, 1.0)  # Rounding may take a probability above 1.
    with np.errstate(divide="ignore"):
        told = np.log(p) - np.log1p(-p)
    told = np.where(p > 0, told, margin)  # So improbable that one wrong class alone is what it lost against.
    return np.clip(told, margin - np.log(max(num_classes - 1, 1)), margin).astype(np.float32)
