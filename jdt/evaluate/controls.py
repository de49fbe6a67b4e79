"""Negative controls: what comes out where there is nothing to find."""

from collections.abc import Callable

import numpy as np

from jdt.estimators import Estimator
from jdt.metrics import binary_auroc
from jdt.types import Bool, Float, Outputs


def permuted_masks(masks: Bool[np.ndarray, "models units"], rng: np.random.Generator, *, paired: bool) -> np.ndarray:
    """Shuffle mask rows over models, the negative control: influences estimated from them are pure noise.

    Pairs stay pairs, and each is turned round with probability one half.
    """
    if not paired:
        return masks[rng.permutation(len(masks))]
    pairs = masks.reshape(-1, 2, masks.shape[1])[rng.permutation(len(masks) // 2)]
    turned = np.where(rng.random(len(pairs))[:, None, None] < 0.5, pairs[:, ::-1], pairs)
    return turned.reshape(masks.shape)


def permutation_control(
    estimator: Estimator,
    masks: Bool[np.ndarray, "models units"],
    outputs: Outputs,
    statistic: Callable[[Float[np.ndarray, "units targets"]], float],
    *,
    paired: bool,
    repeats: int = 100,
    seed: int = 0,
) -> Float[np.ndarray, " repeats"]:
    """The statistic of influences whose mask rows were shuffled, for each of `repeats` shuffles.

    A single shuffle scatters as widely as the statistic of pure noise does; the mean over many tells whether the
    pipeline itself favours anything.
    """
    rng = np.random.default_rng(seed)
    return np.array(
        [
            statistic(estimator.fit(permuted_masks(masks, rng, paired=paired), outputs, paired=paired).influence)
            for _ in range(repeats)
        ]
    )


def auroc(scores: Float[np.ndarray, " units"], is_positive: Bool[np.ndarray, " units"]) -> float:
    """Area under the ROC curve: the chance that a positive unit scores above a negative one (ties count half).

    >>> auroc(np.array([3.0, 2.0, 1.0]), np.array([True, False, False]))
    1.0
    """
    return float(binary_auroc(scores[None], is_positive)[0])
