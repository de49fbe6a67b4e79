"""Which source labels are wrong: by influence, by confident learning, by loss; and how well each ranking finds them.

Every ranking is a score an example, larger for what is more suspicious; NaN where nothing is known. Models are trained
on random subsets, so that each example has models that never saw it (`out_of_sample`) and models that did
(`in_sample`): no folds are needed.

* confident learning (Northcutt, Jiang, Chuang 2021, arXiv 1911.00068) looks at what models say that never saw the
  example: `confident_learning`.
* the loss looks at what models say that learned it: wrong labels are learned late (`loss_ranking`).
* influence looks at what the example does to *other*, clean images: `influence_scores`.
"""

import dataclasses

import numpy as np
from scipy import special

from jdt import checks
from jdt.estimators import DifferenceOfMeans
from jdt.types import Bool, Float, Int

_SMALLEST = 1e-12  # Probability below which a loss grows no more.


@dataclasses.dataclass(frozen=True, eq=False)
class Predicted:
    """Sums over models of what they say of each example, so that blocks of models are taken one after the other.

    Attributes:
      probability: float64 `[examples, classes]`: summed over `count` models.
      loss: float64 `[examples]`: cross-entropy of the given label, summed over them.
      count: int64 `[examples]`: how many models each example was asked of.
    """

    probability: Float[np.ndarray, "examples classes"]
    loss: Float[np.ndarray, " examples"]
    count: Int[np.ndarray, " examples"]

    @property
    def mean(self) -> Float[np.ndarray, "examples classes"]:
        """float64: mean probabilities; a row of NaN for an example that no model was asked about."""
        return _ratio(self.probability, self.count[:, None])

    @property
    def mean_loss(self) -> Float[np.ndarray, " examples"]:
        """float64: mean cross-entropy of the given label; NaN for an example that no model was asked about."""
        return _ratio(self.loss, self.count)

    @property
    def unknown(self) -> Int[np.ndarray, " unknown"]:
        """Examples that no model was asked about."""
        return np.flatnonzero(self.count == 0)


def _ratio(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    count = np.broadcast_to(count, total.shape)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def out_of_sample(
    probabilities: Float[np.ndarray, "models examples classes"],
    members: Bool[np.ndarray, "_ _"],
    labels: Int[np.ndarray, " labels"],
    so_far: Predicted | None = None,
) -> Predicted:
    """Add what a block of models says of the examples that each did not train on.

    Args:
      probabilities: Of all classes; a model with a value that is not finite counts for nothing.
      members: Which examples each model trained on. Where a unit is more than an example, all of a unit that is kept.
      labels: As given, right or wrong.
      so_far: Sums over earlier blocks.

    Raises:
      UserError: If shapes do not fit each other, or a label is no class.

    >>> said = np.array([[[0.9, 0.1], [0.3, 0.7]], [[0.5, 0.5], [0.1, 0.9]]])
    >>> found = out_of_sample(said, np.array([[True, False], [True, False]]), np.array([0, 1]))
    >>> found.count.tolist(), found.mean[1].round(3).tolist(), found.unknown.tolist()
    ([0, 2], [0.2, 0.8], [0])
    """
    return _added(probabilities, ~np.asarray(members, bool), labels, so_far)


def in_sample(
    probabilities: Float[np.ndarray, "models examples classes"],
    members: Bool[np.ndarray, "_ _"],
    labels: Int[np.ndarray, " labels"],
    so_far: Predicted | None = None,
) -> Predicted:
    """Add what a block of models says of the examples that each trained on; otherwise as `out_of_sample`."""
    return _added(probabilities, np.asarray(members, bool), labels, so_far)


def _added(probabilities: np.ndarray, asked: np.ndarray, labels: np.ndarray, so_far: Predicted | None) -> Predicted:
    models, examples, classes = probabilities.shape
    if asked.shape != (models, examples):
        raise checks.UserError(
            f"probabilities are of {models} models and {examples} examples, and members of {asked.shape}: pass "
            "[models, examples]."
        )
    _require_labels(labels, examples, classes)
    if so_far is not None and so_far.probability.shape != (examples, classes):
        raise checks.UserError(
            f"sums so far are of shape {so_far.probability.shape}, but this block is of {(examples, classes)}."
        )
    sound: np.ndarray = np.all(np.isfinite(probabilities), axis=(1, 2))
    asked = asked & sound[:, None]
    said = np.where(asked[..., None], probabilities, 0.0)
    given = np.take_along_axis(probabilities, np.asarray(labels)[None, :, None], axis=2)[..., 0]
    with np.errstate(invalid="ignore"):
        loss = -np.log(np.maximum(np.asarray(given, np.float64), _SMALLEST))
    probability = said.sum(axis=0, dtype=np.float64)
    total, count = np.where(asked, loss, 0.0).sum(axis=0), asked.sum(axis=0, dtype=np.int64)
    if so_far is None:
        return Predicted(probability, total, count)
    return Predicted(so_far.probability + probability, so_far.loss + total, so_far.count + count)


def loss_ranking(
    probabilities: Float[np.ndarray, "models examples classes"],
    labels: Int[np.ndarray, " examples"],
    members: Bool[np.ndarray, "models examples"],
) -> Float[np.ndarray, " examples"]:
    """Mean cross-entropy of the given label over the models that trained on the example.

    Of blocks of models it is `in_sample(...).mean_loss`.

    Returns:
      float64; NaN for examples that no model trained on.
    """
    return in_sample(probabilities, members, labels).mean_loss


@dataclasses.dataclass(frozen=True, eq=False)
class ConfidentLearning:
    """What confident learning says (arXiv 1911.00068; equations of its section 3).

    Two scores rank examples, larger is worse. `self_doubt` is the one to compare others with: it was the better one in
    trials on easy and on hard images, and a comparison with the weaker baseline would flatter whatever it is compared
    with. `margin` looks at the best rival as well; what confident learning removes (prune by noise rate) is chosen by
    such margins.

    Attributes:
      thresholds: `[classes]`: mean probability of a class on the examples that are given it; infinite for a class
        without any, so that nobody is counted to it.
      confident_joint: int64 `[given, likely]`: examples that are given one class and counted to another.
      joint: float64 `[given, likely]`: estimated joint distribution of given and true label; sums to 1.
      noise_rate: What of it lies off the diagonal.
      likely: int32 `[examples]`: the most probable class; -1 where nothing is known.
      margin: `[examples]` in [0, 1]: half of 1 + the largest probability of another class - that of the given one.
      self_doubt: `[examples]` in [0, 1]: 1 - probability of the given class (1 - self-confidence).
      picked: bool `[examples]`: what is to be removed: of every pair of a given and another class, as many examples as
        the joint says, of largest margin towards that class (prune by noise rate).
    """

    thresholds: Float[np.ndarray, " classes"]
    confident_joint: Int[np.ndarray, "classes classes"]
    joint: Float[np.ndarray, "classes classes"]
    noise_rate: float
    likely: Int[np.ndarray, " examples"]
    margin: Float[np.ndarray, " examples"]
    self_doubt: Float[np.ndarray, " examples"]
    picked: Bool[np.ndarray, " examples"]


def confident_learning(
    probabilities: Float[np.ndarray, "examples classes"], labels: Int[np.ndarray, " labels"]
) -> ConfidentLearning:
    """Estimate the joint distribution of given and true labels, and who is mislabelled (arXiv 1911.00068).

    Args:
      probabilities: Out of sample; a row of NaN for an example that nothing is known of: it is left out.
      labels: As given.

    Returns:
      Thresholds, joint, scores and the picked set. A class none of whose examples is counted to any class stays as it
      is given. A threshold is met up to 1e-9, as equal numbers may be summed in another order.

    Raises:
      UserError: If there is one class, labels do not fit, rows are no probabilities, or nothing is known at all.

    >>> found = confident_learning(np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8]]), np.array([0, 0, 1, 0]))
    >>> found.confident_joint.tolist(), found.likely.tolist(), found.margin.argmax().item()
    ([[2, 0], [0, 1]], [0, 0, 1, 1], 3)
    """
    probabilities, labels = np.asarray(probabilities, np.float64), np.asarray(labels)
    examples, classes = probabilities.shape
    if classes < 2:
        raise checks.UserError("probabilities are of one class, but a wrong label needs another: pass two or more.")
    _require_labels(labels, examples, classes)
    known = np.isfinite(probabilities).all(axis=1)
    if not known.any():
        raise checks.UserError("no example has finite probabilities: some models must be trained without each of them.")
    off = known & ((probabilities < 0).any(axis=1) | (np.abs(probabilities.sum(axis=1) - 1) > 1e-3))
    if off.any():
        raise checks.UserError(
            f"row {int(np.flatnonzero(off)[0])} of the probabilities is no distribution ({int(off.sum())} such): pass "
            "probabilities that sum to 1, not logits."
        )
    said, given = probabilities[known], labels[known]
    sizes = np.bincount(given, minlength=classes)
    own = said[np.arange(len(given)), given]
    thresholds = np.where(sizes > 0, np.bincount(given, own, classes) / np.maximum(sizes, 1), np.inf)
    above = said >= thresholds - 1e-9
    counted, to = above.any(axis=1), np.where(above, said, -1.0).argmax(axis=1)
    confident = np.zeros((classes, classes), np.int64)
    np.add.at(confident, (given[counted], to[counted]), 1)
    whole = confident + np.diag(confident.sum(axis=1) == 0).astype(np.int64)
    joint = whole / whole.sum(axis=1, keepdims=True) * sizes[:, None] / sizes.sum()
    rivals = said.copy()
    rivals[np.arange(len(given)), given] = -np.inf

    def spread(values: np.ndarray, blank: float) -> np.ndarray:
        out = np.full(examples, blank, values.dtype)
        out[known] = values
        return out

    return ConfidentLearning(
        thresholds=thresholds,
        confident_joint=confident,
        joint=joint,
        noise_rate=float(1.0 - np.trace(joint)),
        likely=spread(said.argmax(axis=1).astype(np.int32), -1),
        margin=spread((1.0 + rivals.max(axis=1) - own) / 2, np.nan),
        self_doubt=spread(1.0 - own, np.nan),
        picked=spread(_pruned(said, given, joint), False),
    )


def _pruned(said: np.ndarray, given: np.ndarray, joint: np.ndarray) -> np.ndarray:
    """Prune by noise rate: of each given class, towards each other class, as many as the joint says."""
    picked, counts = np.zeros(len(given), bool), np.round(joint * len(given)).astype(int)
    for label in np.flatnonzero((counts - np.diag(np.diag(counts))).any(axis=1)):
        mine = np.flatnonzero(given == label)
        for other in np.flatnonzero(counts[label]):
            if other != label:
                margin = said[mine, other] - said[mine, label]
                picked[mine[np.argsort(-margin, kind="stable")[: counts[label, other]]]] = True
    return picked


@dataclasses.dataclass(frozen=True)
class Detection:
    """How well a score tells wrong labels from right ones.

    Attributes:
      value: Area under the ROC curve: how often a wrong label has the larger score than a right one, ties half.
      low: Lower end of its interval.
      high: Upper end.
      positives: Wrong labels with a score.
      negatives: Right ones.
      left_out: Examples without a score.
    """

    value: float
    low: float
    high: float
    positives: int
    negatives: int
    left_out: int


def detection_auc(
    scores: Float[np.ndarray, " examples"], is_noisy: Bool[np.ndarray, " labels"], level: float = 0.95
) -> Detection:
    """Area under the ROC curve with its interval (DeLong, DeLong, Clarke-Pearson 1988).

    The interval covers other examples of the same kind, not other models. Where every wrong label stands above every
    right one (or below), DeLong's variance is 0; the interval is then that of a share of 1 (0) of as many cases as the
    fewer of both.

    Args:
      scores: Larger for what is more suspicious; examples with NaN are left out.
      is_noisy: Which labels are wrong.
      level: Coverage.

    Returns:
      NaN throughout where no wrong label, or no right one, has a score.

    Raises:
      UserError: If there is not one score for each example, or `level` is not between 0 and 1.

    >>> found = detection_auc(np.array([0.9, 0.4, 0.4, 0.1]), np.array([True, True, False, False]))
    >>> found.value, found.positives
    (0.875, 2)
    """
    from scipy import stats

    checks.require_fraction("level", level)
    scores, noisy, left_out = _scored(scores, is_noisy)
    m, n = int(noisy.sum()), int((~noisy).sum())
    if not m * n:
        return Detection(np.nan, np.nan, np.nan, m, n, left_out)
    ranks = stats.rankdata(scores)
    # Placements: what share of the other kind each example beats.
    above = (ranks[noisy] - stats.rankdata(scores[noisy])) / n
    below = 1.0 - (ranks[~noisy] - stats.rankdata(scores[~noisy])) / m
    value = float(above.mean())
    if value in (0.0, 1.0) or min(m, n) < 2:
        bound = ((1 - level) / 2) ** (1 / min(m, n))
        ends = (bound, 1.0) if value == 1.0 else (0.0, 1.0 - bound) if value == 0.0 else (np.nan, np.nan)
        return Detection(value, float(ends[0]), float(ends[1]), m, n, left_out)
    error = np.sqrt(above.var(ddof=1) / m + below.var(ddof=1) / n)
    reach = float(special.ndtri(0.5 + level / 2) * error)
    return Detection(value, max(0.0, value - reach), min(1.0, value + reach), m, n, left_out)


def detection_curve(
    scores: Float[np.ndarray, " examples"], is_noisy: Bool[np.ndarray, " labels"], points: int | None = None
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """The ROC curve: share of right labels and share of wrong labels above each threshold, from (0, 0) to (1, 1).

    Examples with equal scores come in one step. The trapezoid under the whole curve is the area `detection_auc` gives.

    Args:
      scores: As there.
      is_noisy: As there.
      points: At most so many, evenly chosen; all of them when None.

    Returns:
      Shares of right labels and of wrong labels; empty where no wrong label, or no right one, has a score.

    >>> detection_curve(np.array([0.9, 0.4, 0.4, 0.1]), np.array([True, True, False, False]))[1].tolist()
    [0.0, 0.5, 1.0, 1.0]
    """
    scores, noisy, _ = _scored(scores, is_noisy)
    if noisy.all() or not noisy.any():
        return np.empty(0), np.empty(0)
    order = np.argsort(-scores, kind="stable")
    last = np.r_[np.flatnonzero(np.diff(scores[order])), len(scores) - 1]
    hits, seen = np.cumsum(noisy[order])[last], last + 1
    right, wrong = np.r_[0, seen - hits] / (~noisy).sum(), np.r_[0, hits] / noisy.sum()
    if points is not None and len(right) > points:
        chosen = np.unique(np.linspace(0, len(right) - 1, points).round().astype(int))
        right, wrong = right[chosen], wrong[chosen]
    return right, wrong


def precision_at(scores: Float[np.ndarray, " examples"], is_noisy: Bool[np.ndarray, " labels"], count: int) -> float:
    """Share of wrong labels among the `count` examples of largest score; of equal ones the expected share.

    Raises:
      UserError: If fewer examples have a score, or `count` is below 1.

    >>> precision_at(np.array([0.9, 0.4, 0.4, 0.1]), np.array([True, True, False, False]), 2)
    0.75
    """
    scores, noisy, _ = _scored(scores, is_noisy)
    if not 1 <= count <= len(scores):
        raise checks.UserError(f"count is {count}, but {len(scores)} examples have a score: pass 1 to that.")
    cut = np.sort(scores)[-count]
    above, at = scores > cut, scores == cut
    return float((noisy[above].sum() + (count - above.sum()) * noisy[at].mean()) / count)


def _scored(scores: np.ndarray, is_noisy: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Scores and truth of the examples that have a score, and how many have none."""
    scores, is_noisy = np.asarray(scores, np.float64), np.asarray(is_noisy, bool)
    if scores.shape != is_noisy.shape:
        raise checks.UserError(f"there are {len(scores)} scores, but {len(is_noisy)} labels: pass one score for each.")
    has = ~np.isnan(scores)
    return scores[has], is_noisy[has], int((~has).sum())


def _require_labels(labels: np.ndarray, examples: int, classes: int) -> None:
    if labels.shape != (examples,):
        raise checks.UserError(f"there are {examples} examples, but labels of shape {labels.shape}: pass one for each.")
    bad = (labels < 0) | (labels >= classes)
    if bad.any():
        raise checks.UserError(
            f"label {int(labels[bad][0])} is no class of 0 to {classes - 1} ({int(bad.sum())} such labels)."
        )


def neighbour_weights(
    similarity: Float[np.ndarray, "examples images"], count: int = 5
) -> Float[np.ndarray, "examples images"]:
    """Equal weights of the clean images that an example looks most like, 0 for the others.

    Args:
      similarity: Larger for images that are more alike; an example with NaN looks like all of them.
      count: How many; all of them where there are no more.

    Returns:
      float64; rows sum to 1.

    >>> neighbour_weights(np.array([[0.1, 0.9, 0.5]]), count=2).tolist()
    [[0.0, 0.5, 0.5]]
    """
    checks.require_at_least("count", count, 1)
    examples, images = similarity.shape
    count = min(count, images)
    weights = np.zeros((examples, images))
    nearest = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
    np.put_along_axis(weights, nearest, 1.0 / count, axis=1)
    weights[np.isnan(similarity).any(axis=1)] = 1.0 / images
    return weights


def influence_scores(
    masks: Bool[np.ndarray, "rows examples"],
    log_probabilities: Float[np.ndarray, "models images classes"],
    labels: Int[np.ndarray, " labels"],
    image_labels: Int[np.ndarray, " image_labels"],
    weights: Float[np.ndarray, "examples images"] | None = None,
    *,
    paired: bool = False,
) -> Float[np.ndarray, " examples"]:
    """Harm that including an example does to clean images, as a score of how wrong its label is.

    An example that is given class y moves the probability of y, on images that look like it. A right label raises it on
    images of class y, where that is right; a wrong one raises it on images of another class, where that is wrong. So
    the score is the influence on log p(y), counted as harm on images of other classes and as help on those of class y,
    and averaged. Other outputs hold more noise: the true class's margin or log-probability moves by whatever else the
    subsets changed, and an example of class y hardly moves the images of most classes.

    The average is over all images, or over those that look like the example (`neighbour_weights`): one example moves
    few others, and a mean over all of them needs many more models. The influence is a difference of means, paired in
    antithetic designs: with fewer models than examples ridge would only shrink it.

    Args:
      masks: Which examples each model trained on.
      log_probabilities: Of clean images that no model trained on.
      labels: Of the examples, as given.
      image_labels: Of the clean images: true ones.
      weights: Of clean images for each example; equal when None.
      paired: Whether models 2i and 2i+1 are an antithetic pair.

    Returns:
      float64: how much including the example lowers the fit of clean images to their labels, in logarithms of
      probability; NaN for an example that every model trained on, or none.

    Raises:
      UserError: If arrays do not fit each other.
    """
    models, examples = masks.shape
    if log_probabilities.shape[0] != models:
        raise checks.UserError(f"masks are of {models} models, and outputs of {log_probabilities.shape[0]}.")
    _, images, classes = log_probabilities.shape
    _require_labels(np.asarray(labels), examples, classes)
    _require_labels(np.asarray(image_labels), images, classes)
    kept = masks.sum(axis=0)
    varied = (kept > 0) & (kept < models)
    estimator, scores = DifferenceOfMeans(), np.full(examples, np.nan)
    width = max(2, int(np.bincount(labels[varied], minlength=1).max()))
    for label in np.unique(labels[varied]):
        mine = np.flatnonzero((labels == label) & varied)
        columns = mine[np.arange(width) % len(mine)]  # As many of every class, so that one program serves all.
        outputs = np.asarray(log_probabilities[:, :, label], np.float32)
        found = estimator.fit(masks[:, columns], outputs, paired=paired).influence[: len(mine)]
        harm = found * np.where(image_labels == label, -1.0, 1.0)
        scores[mine] = harm.mean(axis=1) if weights is None else (harm * weights[mine]).sum(axis=1)
    return scores


def neighbour_disagreement(
    weights: Float[np.ndarray, "examples images"],
    labels: Int[np.ndarray, " examples"],
    image_labels: Int[np.ndarray, " images"],
) -> Float[np.ndarray, " examples"]:
    """Weight of the clean images that are of another class than the example is given: what similarity says alone.

    Influence that is averaged over neighbours has this to beat, as it knows the same clean labels.

    >>> neighbour_disagreement(np.array([[0.5, 0.5, 0.0]]), np.array([1]), np.array([1, 0, 0])).tolist()
    [0.5]
    """
    return (weights * (np.asarray(image_labels)[None] != np.asarray(labels)[:, None])).sum(axis=1)
