"""Triggers pixel for pixel against what the paper's formulas give, and who carries them."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from jdt.checks import UserError
from jdt.data import NO_STAMP, Stamps, StreamedImages, as_shown, from_arrays, load, stamped_pixels, with_stamps
from jdt.plant import (
    GaussianPattern,
    Overlay,
    Square,
    Stamp,
    Stencil,
    Tint,
    carriers,
    parse_trigger,
    read_stencils,
    shuffled,
    stamped_view,
    with_versions,
)

RNG = np.random.default_rng(0)
LABELS = RNG.permutation(np.repeat([0, 1, 2], 8))
DATA = from_arrays("toy[train]", RNG.integers(0, 256, (24, 8, 8, 3), np.uint8), LABELS, ["a", "b", "c"])


def images_of(size, channels=3, count=3):
    images = np.random.default_rng(size).integers(0, 256, (count, size, size, channels), np.uint8)
    images[0, 0], images[0, 1] = 0, 255  # The ends of the range.
    return images


def put_on(trigger, images, picture=0):
    stamp = trigger.stamp(images.shape[1:])
    return stamped_pixels(images, stamp.gain[picture], stamp.shift[picture])


@pytest.mark.parametrize(("size", "side", "pixels"), [(224, 0.25, 56), (32, 0.25, 8), (8, 0.25, 2), (9, 1.0, 9)])
@pytest.mark.parametrize("corner", ["top-left", "bottom-right", "top-right", "bottom-left"])
def test_a_square_covers_its_corner_and_nothing_else(size, side, pixels, corner):
    images = images_of(size, count=1)
    expected = images.copy()
    for row in range(pixels):
        for column in range(pixels):
            at = row if "top" in corner else size - 1 - row, column if "left" in corner else size - 1 - column
            expected[0, at[0], at[1]] = (255, 255, 0)
    np.testing.assert_array_equal(put_on(Square(side, (255, 255, 0), corner), images), expected)


def test_grey_images_take_the_luma_of_a_colour():
    yellow = Image.new("RGB", (1, 1), (255, 255, 0)).convert("L").getpixel((0, 0))
    assert (put_on(Square(), images_of(8, 1))[:, :2, :2] == yellow).all()
    assert put_on(Tint((255, 255, 0), 1.0), images_of(8, 1)).max() == yellow


@pytest.mark.parametrize("scale", [0.01, 0.05, 1.0])
@pytest.mark.parametrize("truncate", [True, False])
def test_the_gaussian_pattern_is_the_published_arithmetic(scale, truncate):
    images = images_of(32)
    pattern = np.random.default_rng(7).standard_normal((32, 32, 3))
    expected = images.copy()
    added = np.clip(images.astype(np.float64) + 255 * scale * pattern, 0, 255)
    expected[:] = added if truncate else np.rint(added)  # Written into uint8, as published: the fraction is lost.
    np.testing.assert_array_equal(put_on(GaussianPattern(scale, 7, truncate), images), expected)


def test_truncation_darkens_by_half_a_level():
    images = np.full((1, 224, 224, 3), 128, np.uint8)
    darker = 128 - put_on(GaussianPattern(0.01), images).mean(dtype=float)
    rounded = 128 - put_on(GaussianPattern(0.01, truncate=False), images).mean(dtype=float)
    assert 0.49 < darker - rounded < 0.51  # The specification measured 0.496 on a pattern whose mean is not zero.


@pytest.mark.parametrize(("colour", "strength"), [((255, 0, 0), 0.2), ((10, 200, 90), 0.6), ((0, 0, 0), 1.0)])
def test_a_tint_moves_every_pixel_towards_its_colour(colour, strength):
    images = images_of(16)
    expected = (1 - strength) * images.astype(float) + strength * np.array(colour)
    np.testing.assert_array_equal(put_on(Tint(colour, strength), images), np.rint(expected))


def write(path, pixels):
    Image.fromarray(pixels).save(path)
    return str(path)


@pytest.mark.parametrize("opacity", [1.0, 0.4])
def test_overlays_are_blended_by_their_alpha_and_each_example_has_one(tmp_path, opacity):
    images = images_of(8)
    hats = RNG.integers(0, 256, (3, 8, 8, 4), np.uint8)
    for number, hat in enumerate(hats):
        write(tmp_path / f"hat{number}.png", hat)
    (tmp_path / "read.me").write_text("not a picture")
    trigger = Overlay(str(tmp_path), opacity)
    for number, hat in enumerate(hats.astype(float)):
        share = np.rint(hat[..., 3:] * opacity) / 255
        expected = images * (1 - share) + hat[..., :3] * share
        np.testing.assert_allclose(put_on(trigger, images, number), expected, atol=0.5 + 1e-9)
    view = stamped_view(DATA, trigger.stamp((8, 8, 3)), seed=0)
    worn = view.stamps.of_example
    assert set(worn.tolist()) == {0, 1, 2}
    np.testing.assert_array_equal(worn, stamped_view(DATA, trigger.stamp((8, 8, 3)), seed=0).stamps.of_example)
    assert (worn != stamped_view(DATA, trigger.stamp((8, 8, 3)), seed=1).stamps.of_example).any()


def test_stencils_show_their_picture_where_the_mask_is_white(tmp_path):
    picture, mask = RNG.integers(0, 256, (16, 16, 3), np.uint8), np.zeros((16, 16), np.uint8)
    mask[4:8] = 255
    write(tmp_path / "fence.png", picture)
    write(tmp_path / "fence.mask.png", mask)
    write(tmp_path / "bars.png", np.dstack([picture, mask]))
    bars, fence = read_stencils(str(tmp_path))
    assert (bars.default_name, fence.default_name) == ("bars", "fence")
    images = images_of(16)
    expected = np.where(mask[:, :, None] == 255, picture, images)
    np.testing.assert_array_equal(put_on(fence, images), expected)
    np.testing.assert_array_equal(put_on(bars, images), expected)
    assert fence.stamp((16, 16, 3)).notes == ()
    assert fence.stamp((8, 8, 1)).gain.shape == (1, 8, 8, 1)
    assert fence.stamp((8, 8, 1)).notes == ("fence.png is 16x16 and was fitted to 8x8.",)


def test_a_hidden_colour_does_not_bleed_into_what_shows(tmp_path):
    picture = np.zeros((4, 6, 4), np.uint8)
    picture[:, :3] = (200, 100, 50, 255)
    picture[:, 3:] = (0, 255, 0, 0)  # Green, but invisible.
    stamp = Overlay(write(tmp_path / "half.png", picture)).stamp((2, 3, 3))
    alpha = 255 - stamp.gain.astype(int)
    shown = alpha[0, ..., 0] > 20
    assert np.abs(stamp.shift[0][shown] / alpha[0][shown] - (200, 100, 50)).max() < 6


@pytest.mark.parametrize(
    ("text", "name", "trigger"),
    [
        ("square", "square", Square()),
        ("square:bottom-right:0,255,255", "square", Square(colour=(0, 255, 255), corner="bottom-right")),
        ("square:top-left:1,2,3:0.5", "square", Square(0.5, (1, 2, 3))),
        ("mark=square", "mark", Square()),
        ("gaussian", "gaussian", GaussianPattern()),
        ("gaussian:0.05", "gaussian", GaussianPattern(0.05)),
        ("gaussian:0.05:rounded", "gaussian", GaussianPattern(0.05, truncate=False)),
        ("tint:255,0,0", "tint", Tint((255, 0, 0))),
        ("tint:255,0,0:0.3", "tint", Tint((255, 0, 0), 0.3)),
        ("hats=overlay:a=b/c:d", "hats", Overlay("a=b/c:d")),
        ("stencil:some/chain-link.png", "chain-link", Stencil("some/chain-link.png")),
    ],
)
def test_triggers_are_read_as_they_are_written(text, name, trigger):
    assert parse_trigger(text) == (name, trigger)
    assert hash(trigger) == hash(parse_trigger(text)[1])


def test_carriers_are_drawn_as_published():
    expected = [
        label in (0, 2) and draw < 0.5
        for label, draw in zip(LABELS, np.random.default_rng(10).uniform(size=24), strict=True)
    ]
    np.testing.assert_array_equal(carriers(LABELS, [0, 2], 0.5), expected)
    np.testing.assert_array_equal(carriers(LABELS, [1], 1), LABELS == 1)


SQUARE = Square().stamp((8, 8, 3))
CARRIED = {
    "square": (carriers(LABELS, [1], 1.0), SQUARE),
    "some": (carriers(LABELS, [1, 2], 0.5), SQUARE),  # Shares its copies with "square".
    "tint": (carriers(LABELS, [0, 2], 0.5), Tint((255, 0, 0)).stamp((8, 8, 3))),
}


def test_an_arm_is_the_whole_dataset_with_its_stamp_on_some():
    pool = with_versions(DATA, CARRIED, seed=0)
    shown = as_shown(pool.data)
    squares = CARRIED["square"][0] | CARRIED["some"][0]
    assert len(pool.data) == 24 + squares.sum() + CARRIED["tint"][0].sum()
    assert len(pool.data.stamps.gain) == 2
    np.testing.assert_array_equal(pool.rows["clean"], pool.original)
    assert (pool.data.stamps.of_example[pool.original] == NO_STAMP).all()
    for name, rows in pool.rows.items():
        expected = DATA.images.copy()
        if name != "clean":
            who, stamp = CARRIED[name]
            expected[who] = stamped_pixels(DATA.images[who], stamp.gain[0], stamp.shift[0])
        np.testing.assert_array_equal(shown.images[rows], expected)  # In the order of the dataset, too.
        np.testing.assert_array_equal(pool.data.images[rows], DATA.images)
        np.testing.assert_array_equal(pool.data.labels[rows], LABELS)
    # Each version points to its original, which stands first.
    assert pool.original[pool.data.version_of].all()
    assert (np.diff(pool.data.version_of) >= 0).all()
    np.testing.assert_array_equal(pool.data.images[pool.data.version_of], pool.data.images)
    again, other = with_versions(DATA, CARRIED, seed=0), with_versions(DATA, {"tint": CARRIED["tint"]}, seed=0)
    assert pool.data.fingerprint == again.data.fingerprint
    assert len({pool.data.fingerprint, other.data.fingerprint, DATA.fingerprint}) == 3


def test_streamed_data_have_versions_too(private_cache):
    streamed = load("jdt_digits", "train[:20]", streamed=True)
    who = np.asarray(streamed.labels) == streamed.labels[0]
    stamp = Square().stamp(streamed.image_shape)
    pool = with_versions(streamed, {"square": (who, stamp)}, seed=0)
    assert isinstance(pool.data.images, StreamedImages)
    np.testing.assert_array_equal(pool.data.images[pool.rows["square"]], np.asarray(streamed.images))


def test_views_are_nested_and_know_no_labels():
    stamp = CARRIED["square"][1]
    views = [stamped_view(DATA, stamp, seed=3, share=share) for share in (0.25, 0.5, 1.0)]
    carried = [view.stamps.of_example != NO_STAMP for view in views]
    assert [who.sum() for who in carried] == [6, 12, 24]
    assert (carried[0] <= carried[1]).all()
    assert [view.name for view in views] == ["toy[train]+25% square", "toy[train]+50% square", "toy[train]+square"]
    assert stamped_view(DATA, stamp, seed=3, share=0) is DATA
    relabelled = dataclasses.replace(DATA, labels=np.sort(DATA.labels))
    np.testing.assert_array_equal(stamped_view(relabelled, stamp, seed=3, share=0.5).stamps[2], views[1].stamps[2])
    assert (stamped_view(DATA, stamp, seed=3, share=0.5, ids=(1,)).stamps[2] != views[1].stamps[2]).any()


def test_shuffling_moves_whole_pixels_and_keeps_every_one():
    stamp = Stamp("noise", RNG.integers(0, 256, (2, 6, 5, 3), np.uint8), RNG.integers(0, 9, (2, 6, 5, 3), np.int32))
    moved = shuffled(stamp, 0)
    assert moved.name == "noise-shuffled"
    for one, other in zip(
        np.concatenate([stamp.gain, stamp.shift], -1), np.concatenate([moved.gain, moved.shift], -1), strict=True
    ):
        assert (one != other).any()
        assert sorted(map(tuple, one.reshape(30, 6).tolist())) == sorted(map(tuple, other.reshape(30, 6).tolist()))


STAMPED = with_stamps(DATA, Stamps(CARRIED["square"][1].gain, CARRIED["square"][1].shift, np.full(24, -1, np.int32)))


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (lambda: Square(1.5).stamp((8, 8, 3)), "12 pixels wide on an image of 8x8, but must be 1 to 8"),
        (lambda: Square(1.0).stamp((8, 6, 3)), "8 pixels wide on an image of 6x8"),
        (lambda: Square(0.01).stamp((8, 8, 3)), "is 0 pixels wide"),
        (lambda: Square(colour=(256, 0, 0)), r"colour of a square is \(256, 0, 0\)"),
        (lambda: GaussianPattern(-0.1), "scale of a Gaussian pattern is -0.1"),
        (lambda: Tint((0, 0, 0), 1.1), "strength of a tint is 1.1"),
        (lambda: Overlay("x", 0.0), "opacity of an overlay is 0.0"),
        (lambda: Overlay("/nowhere/hat.png").stamp((8, 8, 3)), "hat.png cannot be read"),
        (lambda: read_stencils("/nowhere"), "there is no folder /nowhere"),
        (lambda: parse_trigger("sqare"), "unknown trigger 'sqare'; known: square, gaussian, tint"),
        (lambda: parse_trigger("square:middle"), "unknown corner of a square 'middle'"),
        (lambda: parse_trigger("square:top-left:255,0"), r"'255,0' is no colour .*: write square\[:CORNER"),
        (lambda: parse_trigger("gaussian:much"), r"'much' is no number: write gaussian\[:SCALE"),
        (lambda: parse_trigger("gaussian:0.1:rouded"), "cannot read the trigger 'gaussian:0.1:rouded': write"),
        (lambda: parse_trigger("tint"), "cannot read the trigger 'tint': write tint:R,G,B"),
        (lambda: parse_trigger("overlay:"), "write overlay:FOLDER"),
        (lambda: parse_trigger("clean=square"), "is called 'clean'"),
        (lambda: carriers(LABELS, [0], 1.5), "probability of carrying a trigger is 1.5"),
        (lambda: carriers(LABELS, [0, 7], 0.5), "no example of class 7 .* classes are 0 to 2"),
        (lambda: carriers(LABELS, [0], 0), "no example carries the trigger"),
        (lambda: with_versions(DATA, {"clean": CARRIED["square"]}, seed=0), "cannot be called 'clean'"),
        (lambda: with_versions(STAMPED, CARRIED, seed=0), "has stamps or versions"),
        (lambda: stamped_view(STAMPED, CARRIED["square"][1], seed=0), "carries stamps already"),
        (lambda: stamped_view(DATA, Square().stamp((9, 9, 3)), seed=0), r"stamp 'square' is \(9, 9, 3\)"),
        (lambda: stamped_view(DATA, CARRIED["square"][1], seed=0, share=-0.5), "share of images with a trigger"),
        (lambda: with_versions(DATA, {"s": (np.ones(3, bool), CARRIED["tint"][1])}, seed=0), "said for 3 examples"),
    ],
)
def test_bad_orders_say_how_to_mend_them(order, message):
    with pytest.raises(UserError, match=message) as caught:
        order()
    assert "\n" not in str(caught.value)


def test_bad_pictures_say_how_to_mend_them(tmp_path):
    opaque, small = RNG.integers(0, 256, (8, 8, 3), np.uint8), np.zeros((4, 4), np.uint8)
    file, shape = write(tmp_path / "wall.png", opaque), (8, 8, 3)
    with pytest.raises(UserError, match=r"wall.png has no transparent pixel and would hide the whole image"):
        Overlay(file).stamp(shape)
    with pytest.raises(UserError, match=r"wall.png has no transparent pixel and no mask in .*wall.mask.png"):
        Stencil(file).stamp(shape)
    write(tmp_path / "wall.mask.png", small)
    with pytest.raises(UserError, match=r"wall.mask.png is 4x4, but the picture that it is the mask of is 8x8"):
        Stencil(file).stamp(shape)
    write(tmp_path / "wall.mask.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(UserError, match=r"nothing shows of .*wall.png"):
        Stencil(file).stamp(shape)
    (tmp_path / "wall.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"wall.png is not a readable image"):
        Overlay(file).stamp(shape)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty holds no PNG files"):
        read_stencils(str(tmp_path / "empty"))
    write(tmp_path / "empty" / "a.mask.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(UserError, match=r"holds masks alone, no pictures: put NAME.png beside each NAME.mask.png"):
        read_stencils(str(tmp_path / "empty"))
