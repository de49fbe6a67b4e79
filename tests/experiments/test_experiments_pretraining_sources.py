"""Sources of a pre-training data study: nested, of equal size, with exactly the noise and the share that were asked."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jdt
from experiments.pretraining_sources import Cut, Sources, make_sources, parse_sources

NAMES = ("cat, tame", "cat, wild", "dog", "wolf", "car")


def made(data: jdt.data.Dataset, *texts: str, seeds=(0, 1), nonce: int = 3, **asked) -> Sources:
    return make_sources(parse_sources(texts), data, seeds=seeds, nonce=nonce, **asked)


def pets(counts=(9, 8, 7, 9, 12), channels: int = 3, name: str = "pets") -> jdt.data.Dataset:
    """Images that are all different, and say which they are: their first pixel is their place."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    images = np.random.default_rng(1).integers(0, 256, (len(labels), 4, 4, channels), np.uint8)
    images[:, 0, 0, 0] = np.arange(len(labels))
    return jdt.data.from_arrays(name, images, labels, NAMES[: len(counts)])


def held(sources: Sources, name: str, seed: int = 0) -> np.ndarray:
    """The pool's rows that a source has."""
    return np.flatnonzero(sources.rows[sources.names.index(name), seed])


def examples(sources: Sources, name: str, seed: int = 0) -> set[int]:
    """Images that a source has, whatever they look like and are called."""
    return set(sources.pool.version_of[held(sources, name, seed)].tolist())


def class_counts(sources: Sources, name: str) -> np.ndarray:
    counts = np.bincount(np.asarray(sources.pool.labels)[held(sources, name)])
    return counts[counts > 0]


@settings(max_examples=10, deadline=None)
@given(
    counts=st.lists(st.integers(5, 20), min_size=3, max_size=5),
    share=st.sampled_from(["0.25", "0.5", "0.3"]),
    rate=st.sampled_from(["0.1", "0.4", "1"]),
    size=st.integers(6, 20),
    nonce=st.integers(0, 2**31),
)
def test_laws_of_sources(counts, share, rate, size, nonce):
    data = pets(counts, 1)
    if 2 * size > len(data):
        size = len(data) // 2
    sources = made(
        data, "a=all", f"part=a|size:{share}", "twice=a|times:2", f"noisy=a|noise:{rate}", "noisier=a|noise:1",
        "more=noisy|times:2", f"mix=twice|useful:{share}|size:0.5", "drawn=textures:3", source_size=size,
        nonce=nonce,
    )  # fmt: skip
    # Equal size, exactly; every row of the pool is somebody's, and no source has an image twice.
    part = int(float(share) * size + 0.5)
    assert sources.images == (size, max(part, 0), 2 * size, size, size, 2 * size, size, size)
    assert sources.rows.any(axis=(0, 1)).all()
    for name, count in zip(sources.names, sources.images, strict=True):
        assert len(held(sources, name)) == count == len(examples(sources, name))
    # Nested in the size, and as balanced as classes allow.
    assert examples(sources, "part") < examples(sources, "a") < examples(sources, "twice")
    for name in ("a", "twice", "drawn"):
        own = class_counts(sources, name)
        assert all(count >= own.max() - 1 or count == min(counts[k], count) for k, count in enumerate(own))
    # Noise: exact counts at both sizes, the same images, nested in rate and size, other draws for other seeds.
    wrong = {}
    for name in ("noisy", "noisier", "more"):
        for seed in (0, 1):
            rows = held(sources, name, seed)
            clean = held(sources, "twice")
            label = dict(zip(sources.pool.version_of[clean], sources.pool.labels[clean], strict=True))
            wrong[name, seed] = {
                (int(v), int(y)) for v, y in zip(sources.pool.version_of[rows], sources.pool.labels[rows], strict=True)
                if label[v] != y
            }  # fmt: skip
            assert len(wrong[name, seed]) == sources.flipped[sources.names.index(name), seed]
    once = int(float(rate) * size + 0.5)
    assert len(wrong["noisy", 0]) == once
    assert len(wrong["more", 0]) == 2 * once
    assert wrong["noisy", 0] <= wrong["noisier", 0]
    assert wrong["noisy", 0] <= wrong["more", 0]
    assert examples(sources, "noisy") == examples(sources, "a") == examples(sources, "noisy", 1)
    # A planted share: those images are the first of the source that it is made of, the others are of nobody else.
    assert sources.useful[sources.names.index("mix")] == part
    assert examples(sources, "mix") & examples(sources, "twice") == examples(sources, "part")


def test_noise_is_drawn_anew_for_every_seed_and_nothing_else_is():
    data = pets((40, 40, 40))
    sources = made(data, "a=all|size:0.5", "noisy=all|noise:0.5", seeds=(0, 1, 5))
    assert len({tuple(held(sources, "noisy", seed)) for seed in range(3)}) == 3
    assert len({tuple(held(sources, "a", seed)) for seed in range(3)}) == 1
    again = made(data, "a=all|size:0.5", "noisy=all|noise:0.5", seeds=(5,))
    names = again.pool.images[held(again, "noisy")], again.pool.labels[held(again, "noisy")]
    rows = held(sources, "noisy", 2)
    np.testing.assert_array_equal(names[0], sources.pool.images[rows])
    np.testing.assert_array_equal(names[1], sources.pool.labels[rows])
    redrawn = made(data, "a=all|size:0.5", "noisy=all|noise:0.5", redraw=True)
    assert examples(redrawn, "a", 0) != examples(redrawn, "a", 1)


def test_renderings_and_versions():
    data = pets()
    sources = made(data, "a=all", "grey=a|grey", "dim=grey|blur:1.5", "noisy=dim|noise:0.4", seeds=(0,))
    pool = sources.pool
    shown = {name: pool.images[held(sources, name)] for name in sources.names}
    np.testing.assert_array_equal(np.sort(shown["a"][:, 0, 0, 0]), np.arange(len(data)))
    np.testing.assert_array_equal(shown["grey"], jdt.data.greyed(data).images)
    blurred = jdt.data.shifted(jdt.data.greyed(data), jdt.data.Shift("blur", 1.5))
    np.testing.assert_array_equal(shown["dim"], blurred.images)
    np.testing.assert_array_equal(shown["noisy"], blurred.images)
    for name in sources.names:  # All are the same images, one by one in the same order.
        np.testing.assert_array_equal(pool.version_of[held(sources, name)], held(sources, "a"))
    # The study trains on them: rows are subsets of a pool, as masks over few units.
    units, masks = jdt.masks.atoms(sources.rows[:, 0], sources.names)
    np.testing.assert_array_equal(units.members(masks), sources.rows[:, 0])


def test_useful_share_of_another_source_has_no_image_twice():
    sources = made(
        pets(), "near=classes:cat*", "mix=near|useful:0.5:other", "lost=near|useful:0.5", "other=all", source_size=12
    )
    pets_of_mix = examples(sources, "mix")
    assert len(pets_of_mix & examples(sources, "near")) == 6
    labels = np.asarray(sources.pool.labels)[held(sources, "mix")]
    assert sources.classes == (2, 5, 2, 5)
    assert len(labels) == 12
    np.testing.assert_array_equal(class_counts(sources, "lost"), [6, 6])  # Random pixels carry labels of cats.


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_copies_add_nothing_to_the_useful_images(share):
    sources = made(
        pets(), "near=all", f"part=near|size:{share}", f"mix=near|useful:{share}:copies", "half=mix|size:0.5",
        source_size=24,
    )  # fmt: skip
    for name, size in (("mix", 24), ("half", 12)):
        rows = held(sources, name)
        assert len(rows) == len(set(sources.pool.version_of[rows].tolist())) == size  # In places of their own.
        pixels, labels = np.asarray(sources.pool.images)[rows, 0, 0, 0], np.asarray(sources.pool.labels)[rows]
        distinct, counts = np.unique(pixels, return_counts=True)
        np.testing.assert_array_equal(counts, round(1 / share))
        assert set(distinct.tolist()) <= set(np.asarray(sources.pool.images)[held(sources, "part"), 0, 0, 0].tolist())
        assert all(len(set(labels[pixels == image].tolist())) == 1 for image in distinct)
    assert sources.useful[2:] == (24 * share, 12 * share)


def test_several_datasets_share_one_list_of_classes(tmp_path):
    file = tmp_path / "groups.json"
    file.write_text(json.dumps({"cats, all": ["cat, tame", "cat, wild"], "dogs": ["dog", "wolf"], "cars": ["car"]}))
    asked = []

    def load(name: str) -> jdt.data.Dataset:
        asked.append(name)
        return jdt.data.from_arrays(name, pets((6, 6)).images, np.arange(12) % 2, ["wolf", "shark"])

    sources = made(
        pets(), "near=groups:cats, all,cars", "far=dataset:sea", "more=dataset:sea", "f=textures:2", "p=pixels:3",
        groups=file, load=load,
    )  # fmt: skip
    assert asked == ["sea"]
    assert sources.equal_size == 12
    assert sources.classes == (3, 2, 2, 2, 3)
    names = {name: {sources.pool.class_names[k] for k in sources.pool.labels[held(sources, name)]} for name in "fp"}
    assert names == {"f": set(jdt.plant.TEXTURES[:2]), "p": {"pixels 0", "pixels 1", "pixels 2"}}
    assert sources.pool.class_names[:5] == ("cat, tame", "cat, wild", "wolf", "car", "shark")
    assert sources.pool.name == "pets+sea+textures:2+pixels"


def test_what_equal_sizes_cut_is_said():
    asked = ("small=classes:cat*", "large=all", "half=small|size:0.5")
    sources = made(pets(), *asked)
    assert sources.equal_size == 17
    assert sources.cuts == (Cut("large", 45, 17),)
    assert sources.notes == ("large was cut from 45 images to 17, for equal sizes.",)
    free = made(pets(), *asked, "mix=all|useful:0.5", equal=False)
    assert free.images == (17, 45, 9, 45)
    assert free.equal_size is None
    assert any("9 to 45 images" in note for note in free.notes)
    uneven = made(pets((2, 20, 20)), "a=all")
    assert uneven.notes == ("a has classes of 2 to 20 images: some have no more.",)


def test_identity_is_plain_and_tells_studies_apart():
    one = made(pets(), "a=all", "b=a|noise:0.2")
    plain = one.identity()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["sources"] == {"a": "all", "b": "a|noise:0.2"}
    assert made(pets(), "a=all", "b=a|noise:0.2").identity() == plain
    others = [
        made(pets(), "a=all", "b=a|noise:0.2", nonce=4),
        made(pets(), "a=all", "b=a|noise:0.3"),
        made(pets(), "a=all", "b=a|noise:0.2", source_size=20),
        made(pets(), "a=all", "b=a|blur"),
    ]
    assert len({other.pool.fingerprint for other in others} | {plain["pool"]}) == 5


@pytest.mark.parametrize(
    ("texts", "asked", "says"),
    [
        ((), {}, "no source is named"),
        (("near",), {}, "write NAME=BASE"),
        (("scratch=all",), {}, "name it otherwise"),
        (("copies=all",), {}, "name it otherwise"),
        (("a b=all",), {}, "letters, digits"),
        (("a=all", "a=all"), {}, "two sources are called 'a'"),
        (("a=b", "b=a|grey"), {}, "a -> b -> a"),
        (("near=all", "a=neer|grey"), {}, r"'neer'.*nearest: near"),
        (("a=class:cat",), {}, "nearest: classes"),
        (("a=classes:dgo,wolf",), {}, "no class 'dgo'; nearest: dog"),
        (("a=classes:dog,do*",), {}, "'dog' is meant twice"),
        (("a=classes:dog",), {}, "the class 'dog' alone"),
        (("a=groups:dogs",), {}, "there is no file of groups"),
        (("a=groups:dgos",), {"groups": {"dogs": ["dog", "wolf"]}}, "no group 'dgos'; nearest: dogs"),
        (("a=groups:dogs",), {"groups": {"dogs": ["dgo", "wolf"]}}, "nearest: dog"),
        (("a=all|gray",), {}, "nearest: grey"),
        (("a=all|noise:1.5",), {}, "must be 0 to 1"),
        (("a=all|noise",), {}, "write noise:RATE"),
        (("a=all|size:0",), {}, "above 0, and at most 1"),
        (("a=all|useful:0.5:b",), {}, "is no other source"),
        (("a=all|times:0",), {}, "must be more than 0"),
        (("a=all|noise:0.1", "b=a|noise:0.2"), {}, "write the whole rate once"),
        (("a=textures:50",), {}, "2 to 12"),
        (("a=textures",), {}, "pass --source-size N"),
        (("a=all", "b=a|times:2"), {"equal": False}, "sizes are left as they are"),
        (("a=all|size:0.01",), {}, "two are the least"),
        (("a=all", "b=classes:dog,wolf|times:2"), {"source_size": 20}, r"'b' has 16 images, but 40 .*--source-size 8"),
        (("a=dataset:sea",), {"load": lambda name: pets(channels=1, name=name)}, r"sea has images of shape"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(texts, asked, says):
    with pytest.raises(jdt.UserError, match=says):
        made(pets(), *texts, **asked)
