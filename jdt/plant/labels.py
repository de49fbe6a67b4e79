"""Label noise: wrong labels whose places are known, nested in the rate, and pools that hold them beside the true ones.

A seed draws once which label every example would get and in what order examples get theirs; a rate says how far down
that order. So an example that is wrong at a smaller rate is wrong, with the same label, at every larger one.
(arXiv 2309.17002, section 3.1 of its specification.)
"""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from jdt.checks import UserError, nearest, require_known
from jdt.data import Dataset, read_name_map
from jdt.data.arrays import check_labels
from jdt.data.images import ImageArray
from jdt.plant.base import draws
from jdt.plant.versions import Versions, pooled, require_plain
from jdt.types import AnyArray, Bool, Float, Int, Int32

NoiseKind = Literal["flip_to_other", "uniform", "asymmetric", "instance"]
NOISE_KINDS: tuple[NoiseKind, ...] = get_args(NoiseKind)

_READ_AT_ONCE = 1024  # Images: keeps their float copies small.
_SPREAD = 1 / 3  # Of an example's tendency to be wrong, around 1: 0.1 of the rate 0.3.


@dataclasses.dataclass(frozen=True)
class LabelNoise:
    """One kind of label noise.

    Attributes:
      kind: `flip_to_other`: exactly `round(rate N)` of N labels change, to an even draw of the other classes.
        `uniform`: the first `round(rate N)` of a random permutation get a label drawn evenly from all classes, as the
        published helper does, so that a share of about `rate (1 - 1/C)` changes.
        `asymmetric`: of every class in the map, exactly `round(rate N_class)` labels change, to the class that it is
        mapped to; other classes keep theirs.
        `instance`: exactly `round(rate N)` labels change, to a class that the image is drawn towards: see `draw_noise`.
      class_map: For `asymmetric`: pairs of class names, from and to; `read_class_map` makes them.
    """

    kind: str = "flip_to_other"  # One of `NOISE_KINDS`, which is checked: it comes from command lines and files.
    class_map: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        require_known("kind of label noise", self.kind, NOISE_KINDS)
        if (self.kind == "asymmetric") != bool(self.class_map):
            raise UserError(
                "asymmetric label noise needs a map of classes: give one, from class names to class names."
                if self.kind == "asymmetric"
                else f"label noise of kind {self.kind} has no map of classes: leave it out, or take asymmetric."
            )


class Noisy(NamedTuple):
    """Labels with noise, and where it is.

    Attributes:
      labels: int32 `[examples]`.
      flipped: bool `[examples]`: whose label is another than it was.
      drawn: bool `[examples]`: whose label was drawn; of `uniform` noise a draw may be the label that was there, of
        other kinds this is `flipped`.
    """

    labels: Int32[np.ndarray, " examples"]
    flipped: Bool[np.ndarray, " examples"]
    drawn: Bool[np.ndarray, " examples"]


@dataclasses.dataclass(frozen=True, eq=False)
class NoiseDraw:
    """All that one seed draws; a rate then says how much of it is used.

    Attributes:
      clean: int32 `[examples]`: labels as they were.
      drawn_label: int32 `[examples]`: what each example gets once it is drawn.
      rank: `[examples]`: how many of its stratum are drawn before it.
      size: `[examples]`: of its stratum (all examples, or those of its class); 0 where an example is never drawn.
    """

    clean: Int32[np.ndarray, " examples"]
    drawn_label: Int32[np.ndarray, " examples"]
    rank: Int[np.ndarray, " examples"]
    size: Int[np.ndarray, " examples"]

    def at(self, rate: float) -> Noisy:
        """Labels at a rate: the first `round(rate size)` of every stratum are drawn, halves rounded to even.

        Raises:
          UserError: If the rate is not in [0, 1].
        """
        _require_rate(rate)
        drawn = self.rank < np.rint(rate * self.size)
        labels = np.where(drawn, self.drawn_label, self.clean)
        return Noisy(labels, labels != self.clean, drawn)


@dataclasses.dataclass(frozen=True, eq=False)
class NoiseVersions(Versions):
    """A pool of examples with their true labels and with every wrong one; an arm is a (rate, seed).

    Attributes:
      data: As in `Versions`; a version has the image of its example, and another label.
      flipped: An arm -> bool `[examples]`: whose label is wrong in it.
      drawn: An arm -> bool `[examples]`: whose label was drawn (see `Noisy`).
    """

    flipped: Mapping[tuple[float, int], Bool[np.ndarray, " examples"]]
    drawn: Mapping[tuple[float, int], Bool[np.ndarray, " examples"]]


class SwappedCaptions(NamedTuple):
    """Captions some of which stand at another row.

    Attributes:
      captions: `[rows]`.
      altered: bool `[rows]`: rows whose caption came from another row. What counts is the row: a swap of two equal
        texts alters both rows; a row that got its own caption back is not altered.
      origin: `[rows]`: the row that each caption came from.
    """

    captions: tuple[str, ...]
    altered: Bool[np.ndarray, " rows"]
    origin: Int[np.ndarray, " rows"]


def read_class_map(
    given: Mapping[str, Any] | str | os.PathLike[str], class_names: Sequence[str]
) -> tuple[tuple[str, str], ...]:
    """Read which class's labels turn into which, and check it.

    Args:
      given: Class names to class names, or a JSON file of one object. Several classes may turn into one.
      class_names: Of the dataset.

    Returns:
      Pairs for `LabelNoise`.

    Raises:
      UserError: Naming the entries, if a class is not there, is mapped to itself, to nothing, or twice.

    >>> read_class_map({"cat": "dog"}, ["cat", "dog"])
    (('cat', 'dog'),)
    """
    names = read_name_map(given, "class map")
    without = [name for name, value in names.items() if value is None]
    if without:
        raise UserError(f"the class map sends {', '.join(without)} nowhere: give each a class, or leave it out.")
    pairs = tuple((name, str(value)) for name, value in names.items())
    _mapped_numbers(pairs, class_names)
    return pairs


def draw_noise(
    noise: LabelNoise,
    labels: AnyArray | Sequence[int],
    class_names: Sequence[str],
    *,
    seed: int,
    ids: Sequence[int] = (),
    images: ImageArray | None = None,
) -> NoiseDraw:
    """Draw noise for all rates at once.

    `instance` follows Xia et al. 2020 (arXiv 2006.07836, algorithm 2). For example i of class y, with pixels x_i scaled
    to `(x / 255 - 0.5) / 0.25`: scores of classes are `x_i W_y`, with W_y standard normal `[pixels, classes]`, fixed by
    (seed, ids, y); the wrong label is drawn from the softmax of the scores of the other classes; and how much an
    example tends to be wrong, q_i, is a truncated normal, drawn independently of its image. Where it differs from the
    published algorithm: there q_i has mean `rate` and standard deviation 0.1, cut off at 0 and 1, and each example is
    wrong with probability q_i by itself; here `q_i = rate w_i`, where w_i has mean 1 and standard deviation 1/3 (so 0.1
    at a rate of 0.3) and is cut off at 0 and 2, and exactly `round(rate N)` examples are drawn one after another, each
    with a probability in proportion to w_i among those that are left. So counts are exact, and rates are nested.

    Args:
      noise: Its kind.
      labels: Integers `[examples]`.
      class_names: One name a class, at least two.
      seed: Root seed, or nonce, of the noise.
      ids: Stable numbers, for other draws.
      images: uint8 `[examples, height, width, channels]`, which `instance` needs; streamed ones are read once.

    Raises:
      UserError: If there are fewer than two classes, labels are no whole numbers or lie outside the names, a class map
        does not fit, or images are needed and not there.
    """
    clean = _checked_labels(labels, class_names)
    _require_seed("the seed of label noise", seed)
    count, num_classes = len(clean), len(class_names)
    rng = draws(seed, f"label noise {noise.kind}", *ids)
    order = rng.permutation(count)
    everyone = np.full(count, count)
    if noise.kind == "flip_to_other":
        other = rng.integers(num_classes - 1, size=count)
        return NoiseDraw(clean, _int32(other + (other >= clean)), _ranks(order), everyone)
    if noise.kind == "uniform":
        return NoiseDraw(clean, _int32(rng.integers(num_classes, size=count)), _ranks(order), everyone)
    if noise.kind == "asymmetric":
        return _asymmetric(clean, _mapped_numbers(noise.class_map, class_names), order)
    if images is None or len(images) != count:
        raise UserError(
            f"label noise of kind instance depends on the images, but there are {0 if images is None else len(images)} "
            f"for {count} labels: give the images of these labels."
        )
    # An exponential race: whoever has the least E_i / w_i is drawn first.
    order = np.argsort(rng.exponential(size=count) / _tendencies(rng, count), kind="stable")
    wrong = _instance_labels(clean, num_classes, images, seed, ids)
    return NoiseDraw(clean, wrong, _ranks(order), everyone)


def noisy_labels(
    noise: LabelNoise,
    labels: AnyArray | Sequence[int],
    class_names: Sequence[str],
    rate: float,
    *,
    seed: int,
    ids: Sequence[int] = (),
    images: ImageArray | None = None,
) -> Noisy:
    """Labels with noise at one rate: `draw_noise(...).at(rate)`.

    Raises:
      UserError: As `draw_noise`, and if the rate is not in [0, 1].

    >>> made = noisy_labels(LabelNoise("flip_to_other"), [0, 1, 0, 1], ["a", "b"], 0.5, seed=0)
    >>> int(made.flipped.sum()), (made.labels != [0, 1, 0, 1]).tolist() == made.flipped.tolist()
    (2, True)
    """
    _require_rate(rate)  # Before images are read.
    return draw_noise(noise, labels, class_names, seed=seed, ids=ids, images=images).at(rate)


def draw_within(
    noise: LabelNoise,
    data: Dataset,
    within: Bool[np.ndarray, " examples"],
    inside: Bool[np.ndarray, " examples"] | None = None,
    *,
    seed: int,
    ids: Sequence[int] = (),
) -> NoiseDraw:
    """Draw noise for a part of a dataset: of its examples alone the rate takes its share.

    Where everyone is within, these are the draws of `draw_noise`.

    Args:
      noise: Its kind.
      data: Decoded or streamed.
      within: Who may be mislabelled.
      inside: Who is trained on at all; by default who is within. Where that is not everyone, wrong labels are of the
        classes that occur there: nobody learns the others. (The map of `asymmetric` says itself which they are.)
      seed: Root seed, or nonce, of the noise.
      ids: Stable numbers, for other draws.

    Returns:
      Of all examples; those that are not within are never drawn.

    Raises:
      UserError: As `draw_noise`.
    """
    inside = within if inside is None else inside
    clean, rows, names = np.asarray(data.labels), np.flatnonzero(within), data.class_names
    labels, known = clean[rows], np.arange(len(names))
    if not inside.all() and noise.kind != "asymmetric":
        known, labels = np.unique(clean[inside | within]), _checked_labels(labels, names)
        labels, names = np.searchsorted(known, labels), [names[number] for number in known]
    images = data.images
    if noise.kind == "instance" and not within.all():
        images = data.part(rows).images
    made = draw_noise(noise, labels, names, seed=seed, ids=ids, images=images)
    found = NoiseDraw(_int32(clean), _int32(clean), np.zeros(len(clean), int), np.zeros(len(clean), int))
    found.drawn_label[rows] = known[made.drawn_label]
    found.rank[rows], found.size[rows] = made.rank, made.size
    return found


def noise_versions(
    data: Dataset,
    noise: LabelNoise,
    rates: Sequence[float],
    seeds: Sequence[int],
    *,
    nonce: int,
    within: Bool[np.ndarray, " examples"] | None = None,
) -> NoiseVersions:
    """Put wrong labels beside true ones, so that a rate of noise is a mask.

    The pool has every example with its label, then with each wrong label that any arm gives it. The noise of a seed is
    nested in the rate, and drawn anew for every seed.

    Args:
      data: Decoded or streamed, as it was loaded. Images of decoded data are there once for each version.
      noise: Its kind.
      rates: Each in [0, 1].
      seeds: Of the arms.
      nonce: Root seed of all noise, fixed before anything is trained.
      within: Who may be mislabelled, and into whose classes (see `draw_within`); by default everyone.

    Returns:
      The pool, and rows, flips and draws of every (rate, seed).

    Raises:
      UserError: If the data has stamps or versions already, rates or seeds are absent, twice or cannot be, or as
        `draw_noise`.

    >>> from jdt.data import from_arrays
    >>> data = from_arrays("toy", np.zeros((4, 2, 2, 1), np.uint8), [0, 1, 0, 1], ["a", "b"])
    >>> pool = noise_versions(data, LabelNoise("flip_to_other"), [0, 0.5], [7], nonce=1)
    >>> len(pool.data), {arm: int(row.sum()) for arm, row in pool.rows.items()}
    (6, {(0.0, 7): 4, (0.5, 7): 4})
    """
    require_plain(data)
    rates = [float(rate) for rate in rates]
    for rate in rates:
        _require_rate(rate)
    for what, values in (("rates of label noise", rates), ("seeds of label noise", seeds)):
        if not values or len(set(values)) < len(values):
            raise UserError(f"{what} are {', '.join(map(str, values)) or 'absent'}: give each once, at least one.")
    for seed in seeds:
        _require_seed("a seed of label noise", seed)
    within = np.ones(len(data), bool) if within is None else within
    of_seed = {seed: draw_within(noise, data, within, seed=nonce, ids=(seed,)) for seed in seeds}
    noisy = {(rate, seed): draw.at(rate) for rate in rates for seed, draw in of_seed.items()}
    clean, count, num_classes = np.asarray(data.labels, np.int64), len(data), len(data.class_names)

    def version_keys(labels: np.ndarray) -> np.ndarray:  # In rising order: by example, the true label first.
        return np.arange(count) * num_classes + (labels - clean) % num_classes

    keys = version_keys(clean)
    for made in noisy.values():  # One after another, so that memory stays with the pool.
        keys = np.union1d(keys, version_keys(made.labels))
    example, step = keys // num_classes, keys % num_classes
    rows = {}
    for arm, made in noisy.items():
        rows[arm] = np.zeros(len(keys), bool)
        rows[arm][np.searchsorted(keys, version_keys(made.labels))] = True
    pool = pooled(data, example, _int32((clean[example] + step) % num_classes))
    return NoiseVersions(
        data=dataclasses.replace(pool, name=f"{data.name}+{noise.kind}"),
        original=step == 0,
        rows=rows,
        flipped={arm: made.flipped for arm, made in noisy.items()},
        drawn={arm: made.drawn for arm, made in noisy.items()},
    )


def evenly_shuffled(
    labels: AnyArray | Sequence[int], *, seed: int, ids: Sequence[int] = ()
) -> Int32[np.ndarray, " examples"]:
    """Shuffle labels so that every class gets each of them as often as the others do: a control with nothing to learn.

    After a plain permutation each class has some label more often than others, by chance. Whoever learns the classes
    learns these luckiest labels, and is then right for whole classes or wrong for whole classes.

    Args:
      labels: Integers `[examples]`.
      seed: Root seed.
      ids: Stable numbers, for other draws.

    Returns:
      The same labels in another order. Of n_c examples of a class, a share n_l / N within one example has label l.

    >>> shuffled = evenly_shuffled([0, 0, 0, 0, 1, 1, 1, 1], seed=0)
    >>> np.bincount(shuffled[:4]).tolist(), np.bincount(shuffled[4:]).tolist()
    ([2, 2], [2, 2])
    """
    values = np.asarray(labels)
    rng = draws(seed, "evenly shuffled", *ids)
    examples = np.lexsort((rng.random(len(values)), values))  # Class by class, within one at random.
    present, count = np.unique(values, return_counts=True)
    first = np.cumsum(count) - count
    nth = np.arange(len(values)) - np.repeat(first, count)
    # The nth of n equal labels stands at (nth + u) / n of the way, and so n s of them in every stretch of share s.
    places = (nth + np.repeat(rng.random(len(present)), count)) / np.repeat(count, count)
    shuffled = np.empty(len(values), np.int32)
    shuffled[examples] = np.repeat(present, count)[np.argsort(places, kind="stable")]
    return shuffled


def swap_captions(captions: Sequence[str], ratio: float, *, seed: int) -> SwappedCaptions:
    """Swap captions as published: `int(ratio N)` times, those of two rows drawn at random, one after the other.

    A share of about `1 - exp(-2 ratio)` of the rows is altered. The swaps of a smaller ratio are the first of a larger.
    (arXiv 2309.17002, section 3.1 of its specification.)

    Args:
      captions: One text a row.
      ratio: Swaps a row, in [0, 1].
      seed: Root seed, or nonce, of the noise.

    Raises:
      UserError: If the ratio is not in [0, 1], or there are fewer than two rows.

    >>> made = swap_captions(["a cat", "a dog"], 0.5, seed=0)
    >>> made.captions, made.altered.tolist()
    (('a dog', 'a cat'), [True, True])
    """
    _require_rate(ratio, "the ratio of swapped captions")
    _require_seed("the seed of swapped captions", seed)
    count = len(captions)
    if count < 2:
        raise UserError(f"there are {count} captions, but a swap needs two: give more rows.")
    pairs = draws(seed, "swapped captions").integers([count, count - 1], size=(int(ratio * count), 2))
    pairs[:, 1] += pairs[:, 1] >= pairs[:, 0]  # Two distinct rows, every pair as likely.
    origin = list(range(count))
    for one, other in pairs.tolist():
        origin[one], origin[other] = origin[other], origin[one]
    came_from = np.array(origin)
    return SwappedCaptions(tuple(captions[i] for i in origin), came_from != np.arange(count), came_from)


def _require_rate(rate: float, what: str = "the rate of label noise") -> None:
    if not (math.isfinite(rate) and 0 <= rate <= 1):
        raise UserError(f"{what} is {rate}, but must be 0 to 1: pass for example 0.1.")


def _require_seed(what: str, seed: int) -> None:
    if not 0 <= seed < 1 << 32:  # A key has no room for more: what is above would be dropped in silence.
        raise UserError(f"{what} is {seed}, but must be 0 to {(1 << 32) - 1}, such as 8 hex digits of a commit.")


def _checked_labels(labels: AnyArray | Sequence[int], class_names: Sequence[str]) -> Int32[np.ndarray, " examples"]:
    values = np.asarray(labels)
    if len(class_names) < 2:
        raise UserError(f"there are {len(class_names)} classes, but a wrong label needs at least two.")
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise UserError(
            f"labels are {values.dtype} with {values.ndim} axes, but must be whole numbers, one an example."
        )
    check_labels("the data with label noise", values, class_names)
    return _int32(values)


def _int32(values: np.ndarray) -> Int32[np.ndarray, "..."]:
    return values.astype(np.int32)


def _ranks(order: Int[np.ndarray, " examples"]) -> Int[np.ndarray, " examples"]:
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    return ranks


def _mapped_numbers(pairs: Sequence[tuple[str, str]], class_names: Sequence[str]) -> dict[int, int]:
    """Numbers of the classes of a map, after all its entries were checked."""
    for what, wrong in (
        ("twice", sorted({name for name, _ in pairs if [one for one, _ in pairs].count(name) > 1})),
        ("to itself", [name for name, value in pairs if name == value]),
    ):
        if wrong:
            raise UserError(f"the class map sends {', '.join(wrong)} {what}: send each class once, to another.")
    for pair in pairs:
        for name in pair:
            if name not in class_names:
                raise UserError(
                    f"the class map's entry {pair[0]!r}: {pair[1]!r} names {name!r}, which is no class; nearest: "
                    f"{nearest(name, class_names)}."
                )
            if list(class_names).count(name) > 1:
                raise UserError(f"the class map names {name!r}, but several classes are called so: rename them.")
    names = list(class_names)
    return {names.index(name): names.index(value) for name, value in pairs}


def _asymmetric(
    clean: Int32[np.ndarray, " examples"], goes_to: Mapping[int, int], order: Int[np.ndarray, " examples"]
) -> NoiseDraw:
    if not np.isin(clean, list(goes_to)).any():
        raise UserError("no example is of a class that the class map names: name classes that have examples.")
    drawn_label, rank, size = clean.copy(), np.zeros(len(clean), np.int64), np.zeros(len(clean), np.int64)
    for number, other in goes_to.items():
        members = order[clean[order] == number]
        drawn_label[members], rank[members], size[members] = other, np.arange(len(members)), len(members)
    return NoiseDraw(clean, drawn_label, rank, size)


def _tendencies(rng: np.random.Generator, count: int) -> Float[np.ndarray, " examples"]:
    """Normal around 1, those outside 0 to 2 drawn again: symmetric, so the mean stays 1."""
    weights = rng.normal(1, _SPREAD, count)
    while (outside := np.flatnonzero((weights <= 0) | (weights >= 2))).size:
        weights[outside] = rng.normal(1, _SPREAD, len(outside))
    return weights


def _instance_labels(
    clean: Int32[np.ndarray, " examples"], num_classes: int, images: ImageArray, seed: int, ids: Sequence[int]
) -> Int32[np.ndarray, " examples"]:
    """Wrong labels from projections of the pixels; one class's projection is there at a time."""
    wrong = clean.copy()
    pixels = math.prod(images.shape[1:])
    for number in np.unique(clean).tolist():
        rng = draws(seed, "label noise projection", number, *ids)
        projection = rng.standard_normal((pixels, num_classes), np.float32)
        members = np.flatnonzero(clean == number)
        for some in np.array_split(members, max(1, math.ceil(len(members) / _READ_AT_ONCE))):
            features = (np.asarray(images[some]).reshape(len(some), pixels).astype(np.float32) / 255 - 0.5) / 0.25
            # The largest score plus Gumbel noise is a draw from the softmax.
            scores = features @ projection + rng.gumbel(size=(len(some), num_classes))
            scores[:, number] = -np.inf
            wrong[some] = scores.argmax(axis=1)
    return wrong
