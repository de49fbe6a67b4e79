"""Captions of images as tokens: byte by byte, from class names or texts, and kept when data are rearranged."""

import dataclasses

import numpy as np
import pytest
from data_examples import random_images

from jdt import data
from jdt.checks import UserError
from jdt.data import texts
from jdt.plant.versions import pooled

PETS = data.from_arrays("pets", random_images(40), np.arange(40) % 4, ["beagle", "pug", "tabby", "barge"])
TEMPLATES = ("a {}", "the {}", "{}!")


def read(tokens):
    """The texts of tokens, by the definition of the vocabulary."""
    rows = [row[(row >= texts.FIRST_BYTE)] - texts.FIRST_BYTE for row in np.asarray(tokens)]
    return [bytes(row.astype(np.uint8)).decode() for row in rows]


def test_tokens_are_bytes_between_a_start_and_an_end():
    captions = ["cat", "Zürich 猫", "\x00\x7f"]
    tokens = data.tokenize(captions, 20)
    assert read(tokens) == captions
    for row, caption in zip(tokens, captions, strict=True):
        size = len(caption.encode())
        assert row[0] == texts.START
        assert row[size + 1] == texts.END
        assert (row[size + 2 :] == texts.PADDING).all()
        assert ((row[1 : size + 1] >= texts.FIRST_BYTE) & (row[1 : size + 1] < data.VOCABULARY)).all()


@pytest.mark.parametrize(("length", "kept"), [(9, "Zürich"), (5, "Zü"), (4, "Z"), (3, "Z")])
def test_long_captions_are_cut_between_characters_and_keep_their_end(length, kept):
    tokens = data.tokenize(["Zürich"], length)
    assert read(tokens) == [kept]
    assert (tokens[0] == texts.END).sum() == 1
    assert data.num_cut(["Zürich", "a"], length) == (kept != "Zürich")


@pytest.mark.parametrize(
    ("captions", "length", "message"),
    [
        (["cat", " \n"], 8, "caption 1 is empty"),
        (["cat", b"dog"], 8, "caption 1 is bytes, not a text"),
        (["cat"], 2, "length of captions in tokens is 2"),
    ],
)
def test_what_is_no_caption_is_refused(captions, length, message):
    with pytest.raises(UserError, match=message):
        data.tokenize(captions, length)


def test_each_example_has_one_template_for_good(caplog):
    made = data.with_captions(PETS, templates=TEMPLATES, seed=3)
    fits = [[template.replace("{}", PETS.class_names[label]) for template in TEMPLATES] for label in PETS.labels]
    drawn = [options.index(text) for text, options in zip(read(made.tokens), fits, strict=True)]
    assert set(drawn) == {0, 1, 2}
    assert made.tokens.shape == (40, len("the beagle") + 2)  # As long as the longest of all.
    again = data.with_captions(PETS, templates=TEMPLATES, seed=3)
    assert again.fingerprint == made.fingerprint
    np.testing.assert_array_equal(again.tokens, made.tokens)
    others = [data.with_captions(PETS, templates=TEMPLATES, seed=4), data.with_captions(PETS), PETS]
    assert len({made.fingerprint, *(other.fingerprint for other in others)}) == 4
    assert not caplog.records
    cut = data.with_captions(PETS, templates=TEMPLATES, max_bytes=8, seed=3)
    assert cut.tokens.shape == (40, 10)
    assert "captions of pets have more than 8 bytes, the longest 10" in caplog.text


def test_captions_stay_with_their_examples():
    named = [f"picture {i}" for i in range(40)]
    captioned = data.with_captions(PETS, named)
    rows = np.array([7, 3, 30])
    assert read(captioned.part(rows).tokens) == [named[i] for i in rows]
    groups = {"cats": ["tabby"], "dogs": ["beagle", "pug"]}
    grouped = data.regrouped(captioned, groups, per_group=4, seed=1)
    assert [int(text.split()[1]) % 4 == 2 for text in read(grouped.tokens)] == [True] * 4 + [False] * 4
    assert grouped.fingerprint != data.regrouped(PETS, groups, per_group=4, seed=1).fingerprint
    pool = pooled(captioned, np.array([0, 0, 1, 2, 2]), np.array([0, 3, 1, 2, 1], np.int32))
    assert read(pool.tokens) == [named[i] for i in (0, 0, 1, 2, 2)]
    # Versions of an example share a template, under the labels that they have now.
    assert len(set(zip(read(data.with_captions(pool, templates=TEMPLATES, seed=0).tokens), range(5), strict=True))) == 5
    relabelled = read(data.with_captions(pool, templates=TEMPLATES, seed=0).tokens)
    assert relabelled[0].replace("beagle", "barge") == relabelled[1]
    assert relabelled[3].replace("tabby", "pug") == relabelled[4]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"captions": ["cat"]}, "pets has 40 examples and 1 captions"),
        ({"captions": ["cat"] * 39 + [""]}, "pets: caption 39 is empty"),
        ({"templates": []}, "no template"),
        ({"templates": ["a photo"]}, "'a photo' has 0 places"),
        ({"max_bytes": 0}, "length of captions in tokens is 2"),
    ],
)
def test_bad_captions_of_a_dataset_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        data.with_captions(PETS, **arguments)
    nameless = dataclasses.replace(PETS, class_names=("", "pug", "tabby", "barge"))
    with pytest.raises(UserError, match="pets: caption 0 is empty"):
        data.with_captions(nameless, templates=["{}"])
