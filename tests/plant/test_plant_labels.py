"""Label noise: exact counts, nested rates, and pools in which a rate is a mask."""

import dataclasses
import functools
import itertools
import json
import math

import numpy as np
import pytest

from jdt.checks import UserError
from jdt.data import StreamedImages, from_arrays, load
from jdt.plant import (
    NOISE_KINDS,
    LabelNoise,
    draw_noise,
    draw_within,
    noise_versions,
    noisy_labels,
    read_class_map,
    swap_captions,
)

NAMES = tuple("abcdefgh")
CLASSES = len(NAMES)
RNG = np.random.default_rng(0)
COUNT = 2003
LABELS = RNG.integers(0, CLASSES, COUNT)
IMAGES = RNG.integers(0, 256, (COUNT, 4, 4, 1), np.uint8)
MAP = (("a", "b"), ("b", "a"), ("e", "a"))
KINDS = {kind: LabelNoise(kind, MAP if kind == "asymmetric" else ()) for kind in NOISE_KINDS}
RATES = (0.0, 0.01, 0.05, 0.3, 0.31, 1.0)


@functools.cache
def draw_of(kind, seed=0):
    return draw_noise(KINDS[kind], LABELS, NAMES, seed=seed, images=IMAGES)


@pytest.mark.parametrize("kind", NOISE_KINDS)
def test_counts_are_exact_and_the_mask_is_right(kind):
    for rate in RATES:
        made = draw_of(kind).at(rate)
        assert made.labels.dtype == np.int32
        np.testing.assert_array_equal(made.flipped, made.labels != LABELS)
        if kind == "asymmetric":
            for number, name in enumerate(NAMES):
                of_class, goes_to = number == LABELS, dict(MAP).get(name)
                assert made.drawn[of_class].sum() == (round(rate * of_class.sum()) if goes_to else 0)
                assert set(made.labels[of_class & made.flipped].tolist()) <= {NAMES.index(goes_to or name)}
        else:
            assert made.drawn.sum() == round(rate * COUNT)
        if kind == "uniform":
            assert not (made.flipped & ~made.drawn).any()
        else:
            np.testing.assert_array_equal(made.flipped, made.drawn)


@pytest.mark.parametrize("kind", NOISE_KINDS)
def test_who_is_wrong_at_a_rate_is_wrong_alike_at_every_larger_one(kind):
    for small, large in itertools.pairwise(draw_of(kind).at(rate) for rate in RATES):
        assert not (small.drawn & ~large.drawn).any()
        assert not (small.flipped & ~large.flipped).any()
        np.testing.assert_array_equal(small.labels[small.drawn], large.labels[small.drawn])


def test_seeds_draw_anew_and_ids_too_and_the_same_ones_the_same():
    first = draw_of("flip_to_other").at(0.3)
    again = noisy_labels(KINDS["flip_to_other"], LABELS.tolist(), NAMES, 0.3, seed=0)
    np.testing.assert_array_equal(first.labels, again.labels)
    for seed, ids in ((1, ()), (0, (1,))):
        other = noisy_labels(KINDS["flip_to_other"], LABELS, NAMES, 0.3, seed=seed, ids=ids)
        both = (first.flipped & other.flipped).mean()
        assert abs(both - 0.09) < 5 * math.sqrt(0.09 * 0.91 / COUNT)


def test_uniform_noise_changes_a_share_of_rate_times_one_less_a_class():
    rate, labels = 0.4, np.arange(40_000) % CLASSES
    made = noisy_labels(KINDS["uniform"], labels, NAMES, rate, seed=3)
    changed, drawn = int(made.flipped.sum()), int(made.drawn.sum())
    assert abs(changed / drawn - (1 - 1 / CLASSES)) < 3 * math.sqrt(1 / CLASSES * (1 - 1 / CLASSES) / drawn)
    counts = np.bincount(made.labels[made.drawn], minlength=CLASSES)
    assert ((counts - drawn / CLASSES) ** 2 / (drawn / CLASSES)).sum() < 30  # Chi-squared, 7 degrees: p = 1e-4.


def test_flips_are_an_even_draw_of_the_other_classes():
    made = noisy_labels(KINDS["flip_to_other"], np.zeros(30_000, int) + np.arange(30_000) % 2, NAMES, 0.5, seed=3)
    step = (made.labels[made.flipped] - (np.arange(30_000) % 2)[made.flipped]) % CLASSES
    counts = np.bincount(step, minlength=CLASSES)
    assert counts[0] == 0
    assert ((counts[1:] - 15_000 / 7) ** 2 / (15_000 / 7)).sum() < 28  # Chi-squared, 6 degrees: p = 1e-4.


def test_instance_noise_sends_equal_images_of_a_class_to_the_same_labels():
    one, labels = RNG.integers(0, 256, (2, 6, 6, 3), np.uint8), np.repeat([0, 1], 300)
    made = noisy_labels(KINDS["instance"], labels, NAMES, 0.5, seed=0, images=one[labels])
    for number in (
        0,
        1,
    ):  # Scores of 108 pixels lie far apart: the softmax prefers a label; evenly it is 1/7.
        counts = np.bincount(made.labels[(labels == number) & made.flipped], minlength=CLASSES)
        assert counts.max() > 0.5 * counts.sum()


@pytest.fixture(scope="module")
def data():
    return from_arrays("toy[train]", IMAGES[:200], LABELS[:200], NAMES)


@pytest.mark.parametrize("kind", NOISE_KINDS)
def test_every_arm_of_a_pool_has_each_example_once_with_its_label(data, kind):
    rates, seeds = (0.0, 0.1, 0.3), (4, 9)
    pool = noise_versions(data, KINDS[kind], rates, seeds, nonce=5)
    assert set(pool.rows) == set(pool.flipped) == set(pool.drawn) == set(itertools.product(rates, seeds))
    first = np.flatnonzero(pool.original)
    np.testing.assert_array_equal(pool.data.version_of, first[pool.example])  # The true label stands first.
    np.testing.assert_array_equal(pool.data.labels[first], data.labels)
    np.testing.assert_array_equal(np.asarray(pool.data.images), np.asarray(data.images)[pool.example])
    pairs = list(zip(pool.example.tolist(), pool.data.labels.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    for (rate, seed), row in pool.rows.items():
        np.testing.assert_array_equal(pool.example[row], np.arange(len(data)))
        alone = noisy_labels(KINDS[kind], data.labels, NAMES, rate, seed=5, ids=(seed,), images=data.images)
        np.testing.assert_array_equal(pool.data.labels[row], alone.labels)
        np.testing.assert_array_equal(pool.flipped[rate, seed], alone.flipped)
        np.testing.assert_array_equal(pool.drawn[rate, seed], alone.drawn)
    assert np.any(list(pool.rows.values()), axis=0).all()  # Nothing that no arm needs.
    others = {
        data.fingerprint,
        noise_versions(data, KINDS[kind], rates, seeds, nonce=6).data.fingerprint,
        noise_versions(data, KINDS[kind], rates, (4, 8), nonce=5).data.fingerprint,
    }
    assert pool.data.fingerprint not in others
    assert pool.data.fingerprint == noise_versions(data, KINDS[kind], rates, seeds, nonce=5).data.fingerprint


@pytest.mark.parametrize("kind", NOISE_KINDS)
def test_noise_of_a_part_has_its_rate_there_and_its_classes(data, kind):
    """Who is in no unit is never mislabelled, and nobody is given a class that no unit holds."""
    inside = ~np.isin(data.labels, [0, 3]) & (np.arange(len(data)) % 5 > 0)
    rates = (0.0, 0.3, 1.0)
    pool = noise_versions(data, KINDS[kind], rates, [4], nonce=5, within=inside)
    assert len(pool.example[pool.rows[0.0, 4]]) == len(data)
    for rate in rates:
        drawn, flipped = pool.drawn[rate, 4], pool.flipped[rate, 4]
        given = pool.data.labels[pool.rows[rate, 4]]
        np.testing.assert_array_equal(given != data.labels, flipped)
        assert not drawn[~inside].any()
        if kind != "asymmetric":
            assert drawn.sum() == round(rate * inside.sum())
            assert np.isin(given[inside], data.labels[inside]).all()
    within = inside & np.isin(data.labels, [1, 2])
    draw = draw_within(KINDS[kind], data, within, inside, seed=5)
    assert not (draw.size > 0)[~within].any()
    if kind != "asymmetric":
        assert (draw.size == within.sum()).sum() == within.sum()
        assert np.isin(draw.drawn_label[within], data.labels[inside]).all()


@pytest.mark.parametrize("kind", ["flip_to_other", "instance"])
def test_streamed_images_stay_streamed(tmp_path, kind):
    decoded, streamed = (
        load("jdt_digits", "test[:40]", cache_dir=tmp_path, streamed=streamed) for streamed in (False, True)
    )
    pools = [noise_versions(one, KINDS[kind], [0.0, 0.5], [1], nonce=2) for one in (decoded, streamed)]
    assert isinstance(pools[1].data.images, StreamedImages)
    np.testing.assert_array_equal(*(np.asarray(pool.data.images) for pool in pools))
    np.testing.assert_array_equal(*(pool.data.labels for pool in pools))
    assert pools[0].data.fingerprint != pools[1].data.fingerprint


def test_swapped_captions_are_a_share_of_one_less_e_to_minus_twice_the_ratio():
    count = 20_000
    captions = [f"caption {i}" for i in range(count)]
    for ratio in (0.025, 0.05, 0.5):
        made = swap_captions(captions, ratio, seed=1)
        assert sorted(made.captions) == sorted(captions)
        assert [captions[i] for i in made.origin] == list(made.captions)
        np.testing.assert_array_equal(made.altered, [a != b for a, b in zip(captions, made.captions, strict=True)])
        share = 1 - math.exp(-2 * ratio)
        assert abs(made.altered.mean() - share) < 3 * math.sqrt(share * (1 - share) / count)
    assert not swap_captions(captions, 0.0, seed=1).altered.any()
    assert swap_captions(["same", "same"], 0.5, seed=1).altered.all()  # By row, whatever the texts are.


@pytest.mark.parametrize("rate", [-0.1, 1.5, math.nan, math.inf])
def test_a_rate_outside_its_range_is_refused(data, rate):
    with pytest.raises(UserError, match=rf"rate of label noise is {rate}, but must be 0 to 1"):
        noisy_labels(LabelNoise(), LABELS, NAMES, rate, seed=0)
    with pytest.raises(UserError, match="rate of label noise"):
        noise_versions(data, LabelNoise(), [rate], [0], nonce=0)
    with pytest.raises(UserError, match="ratio of swapped captions"):
        swap_captions(["a", "b"], rate, seed=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LabelNoise("even"), "unknown kind of label noise 'even'; known: flip_to_other"),
        (lambda: LabelNoise("asymmetric"), "needs a map of classes"),
        (lambda: LabelNoise("uniform", MAP), "uniform has no map of classes"),
        (lambda: draw_noise(LabelNoise(), [0, 0], ["a"], seed=0), "1 classes, but a wrong label needs at least two"),
        (lambda: draw_noise(LabelNoise(), [0, 0], ["a", "b"], seed=0), "only one class, 'a'"),
        (lambda: draw_noise(LabelNoise(), [0, 2], ["a", "b"], seed=0), r"lie outside 0\.\.1"),
        (lambda: draw_noise(LabelNoise(), np.array([0.0, math.nan]), ["a", "b"], seed=0), "must be whole numbers"),
        (lambda: draw_noise(LabelNoise(), [0, 1], ["a", "b"], seed=-1), "seed of label noise is -1"),
        (lambda: draw_noise(LabelNoise(), [0, 1], ["a", "b"], seed=1 << 32), "seed of label noise is 4294967296"),
        (lambda: draw_noise(KINDS["instance"], [0, 1], ["a", "b"], seed=0), "there are 0 for 2 labels"),
        (lambda: draw_noise(KINDS["asymmetric"], [0, 1], ["x", "y"], seed=0), "names 'a', which is no class"),
        (lambda: draw_noise(KINDS["asymmetric"], [2, 3], NAMES, seed=0), "no example is of a class"),
        (lambda: swap_captions(["a"], 0.5, seed=0), "1 captions, but a swap needs two"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": "b", "b": "cat"}', "entry 'b': 'cat' names 'cat', which is no class"),
        ('{"dog": "a"}', "entry 'dog': 'a' names 'dog', which is no class"),
        ('{"a": "b", "b": "b"}', "sends b to itself"),
        ('{"a": null, "b": "a"}', "sends a nowhere"),
        ('{"a": "", "b": 3}', "has no name at 'a', 'b'"),
        ('{"a": "b", "a": "c"}', "has a twice"),
        ('["a", "b"]', "is no JSON object"),
        ('{"a"', "cannot be read"),
    ],
)
def test_a_class_map_that_is_none_is_refused(tmp_path, text, message):
    path = tmp_path / "map.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_class_map(path, NAMES)


def test_a_class_map_is_read_from_a_file_or_a_mapping(tmp_path):
    path = tmp_path / "map.json"
    path.write_text(json.dumps(dict(MAP)))
    assert read_class_map(path, NAMES) == read_class_map(dict(MAP), NAMES) == MAP
    with pytest.raises(UserError, match="several classes are called so"):
        read_class_map({"a": "b"}, ["a", "b", "a"])


def test_pools_of_what_is_no_pool_are_refused(data):
    pool = noise_versions(data, LabelNoise(), [0.2], [0], nonce=0)
    with pytest.raises(UserError, match="versions of examples already"):
        noise_versions(pool.data, LabelNoise(), [0.2], [0], nonce=0)
    for rates, seeds, message in (([], [0], "absent"), ([0.1, 0.1], [0], "each once"), ([0.1], [2, 2], "each once")):
        with pytest.raises(UserError, match=message):
            noise_versions(data, LabelNoise(), rates, seeds, nonce=0)
    with pytest.raises(UserError, match="a seed of label noise is -1"):
        noise_versions(dataclasses.replace(data), LabelNoise(), [0.1], [-1], nonce=0)
