import dataclasses
import pathlib
import zlib

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdt import checks, config
from jdt.checks import UserError
from jdt.keys import key_for

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False, allow_infinity=False) | st.text("ab.é"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
    max_leaves=8,
)

OUT = pathlib.PurePosixPath("runs/demo")


@dataclasses.dataclass(frozen=True)
class Inner:
    rates: tuple[float, ...] = (0.1, 0.2)
    out: pathlib.PurePath = OUT


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    seed: int = 0
    note: str | None = None


def data(key):
    return np.asarray(jax.random.key_data(key)).tolist()


def threefry(key, block):
    """Threefry-2x32, 20 rounds (Salmon et al. 2011), in Python integers."""
    word, (x, y) = 2**32 - 1, block
    schedule = [*key, key[0] ^ key[1] ^ 0x1BD11BDA]
    x, y = (x + schedule[0]) & word, (y + schedule[1]) & word
    for group in range(5):
        for turn in ((13, 15, 26, 6), (17, 29, 16, 24))[group % 2]:
            x = (x + y) & word
            y = ((y << turn | y >> (32 - turn)) & word) ^ x
        x = (x + schedule[(group + 1) % 3]) & word
        y = (y + schedule[(group + 2) % 3] + group + 1) & word
    return [x, y]


class TestKeys:
    def test_one_key_is_what_it_always_was(self):
        # Origin: jdt 0.1.0 on JAX 0.10.2, and the generator spelled out above; every stored run depends on it.
        assert data(key_for(0, "init", 17)) == [1480242946, 2161766970]

    @settings(max_examples=25, deadline=None)
    @given(
        st.integers(0, 2**31 - 1),
        st.sampled_from(["mask", "init", "order"]),
        st.lists(st.integers(0, 2**31 - 1), max_size=3),
    )
    def test_a_key_is_threefry_folded_over_seed_purpose_and_ids(self, seed, purpose, ids):
        expected = [0, seed]
        for value in (zlib.crc32(purpose.encode()), *ids):
            expected = threefry(expected, [0, value])
        assert data(key_for(seed, purpose, *ids)) == expected

    def test_the_order_of_asking_and_64_bit_types_change_nothing(self):
        forward = {i: data(key_for(3, "order", i, 1)) for i in range(5)}
        backward = {i: data(key_for(3, "order", i, 1)) for i in reversed(range(5))}
        with jax.enable_x64(True):
            wide = {i: data(key_for(3, "order", i, 1)) for i in range(5)}
        assert forward == backward == wide
        assert len({tuple(key) for key in forward.values()}) == 5

    def test_traced_ids_give_the_same_keys(self):
        ids = np.arange(4)
        traced = jax.jit(jax.vmap(lambda i: jax.random.key_data(key_for(7, "init", i, 2))))(ids)
        assert np.asarray(traced).tolist() == [data(key_for(7, "init", int(i), 2)) for i in ids]

    def test_the_platform_default_generator_does_not_matter(self):
        with jax.default_prng_impl("rbg"):
            assert data(key_for(0, "init", 17)) == [1480242946, 2161766970]


class TestConfig:
    def test_nested_dataclasses_tuples_and_paths_become_plain(self):
        assert config.to_plain(Outer()) == {
            "inner": {"rates": [0.1, 0.2], "out": "runs/demo"},
            "seed": 0,
            "note": None,
        }

    @pytest.mark.parametrize("value", [{1, 2}, np.arange(2), np.int64(1), b"x", Inner, object(), 1j])
    def test_what_json_cannot_keep_is_refused_with_its_type(self, value):
        with pytest.raises(TypeError, match=f"type {type(value).__name__}, which JSON cannot keep"):
            config.to_plain({"deep": [value]})

    @settings(max_examples=25, deadline=None)
    @given(PLAIN)
    def test_plain_values_are_fixed_points(self, value):
        assert config.to_plain(value) == value
        assert config.to_plain(config.to_plain(value)) == value

    @settings(max_examples=25, deadline=None)
    @given(st.dictionaries(st.text("abc", min_size=1), PLAIN))
    def test_fingerprints_ignore_the_order_of_keys_only(self, value):
        turned = dict(reversed(value.items()))
        assert config.fingerprint(turned) == config.fingerprint(value)
        assert config.fingerprint({**value, "extra": 1}) != config.fingerprint(value)

    def test_fingerprints_see_a_nested_change_and_not_the_container(self):
        assert config.fingerprint(Outer()) == config.fingerprint(config.to_plain(Outer()))
        assert config.fingerprint(Outer()) != config.fingerprint(Outer(inner=Inner(rates=(0.1, 0.3))))
        assert len(config.fingerprint(Outer())) == 16

    def test_flatten_uses_dotted_names(self):
        assert config.flatten(config.to_plain(Outer())) == {
            "inner.rates": [0.1, 0.2],
            "inner.out": "runs/demo",
            "seed": 0,
            "note": None,
        }

    def test_difference_names_what_changed_came_and_went(self):
        before = config.to_plain(Outer())
        assert config.difference(before, config.to_plain(Outer())) == []
        after = {**config.to_plain(Outer(inner=Inner(rates=(0.5,)), seed=1)), "new": True}
        del after["note"]
        assert config.difference(before, after) == [
            "inner.rates: saved [0.1, 0.2], asked [0.5]",
            "new: saved (absent), asked True",
            "note: saved None, asked (absent)",
            "seed: saved 0, asked 1",
        ]


class TestChecks:
    @pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 1.5, float("nan"), float("inf")])
    def test_fractions_lie_strictly_inside(self, value):
        with pytest.raises(UserError, match=rf"share is {value}, .* strictly between 0 and 1: .*share=0\.5"):
            checks.require_fraction("share", value)
        checks.require_fraction("share", 0.01)

    @pytest.mark.parametrize("value", [1, float("nan")])
    def test_least_values(self, value):
        with pytest.raises(UserError, match=rf"epochs is {value}, .* at least 2"):
            checks.require_at_least("epochs", value, 2)
        checks.require_at_least("epochs", 2, 2)

    def test_known_names(self):
        with pytest.raises(UserError, match=r"unknown mode 'half'; known: fixed, full\."):
            checks.require_known("mode", "half", iter(("fixed", "full")))

    def test_nearest_names_come_first_and_some_always_come(self):
        assert checks.nearest("cifar1", ["mnist", "cifar100", "cifar10"], count=1) == "cifar10"
        assert checks.nearest("zzz", ["b", "a", "d", "c"]) == "a, b, c"
        assert checks.nearest("x", []) == ""
