"""Optimisers and schedules of a recipe, against a few lines of NumPy."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest

from jdt import config, train
from jdt.checks import UserError

ADAMW = train.Recipe(
    epochs=12, batch_size=1, learning_rate=0.02, algorithm="adamw", betas=(0.8, 0.95), epsilon=1e-3, weight_decay=0.1,
    clip_norm=1.5, warmup_steps=3, warmup_cap=1.0, decay="cosine",
)  # fmt: skip


def published_rate(step, total, peak, warmup):
    """Linear to the peak at the last step of the warm-up, then a cosine to 0."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return 0.5 * peak * (1 + np.cos(np.pi * (step - warmup) / (total - warmup)))


def test_adamw_clips_decays_kernels_and_follows_its_schedule():
    draw = np.random.default_rng(0)
    shapes = {"kernel": (3, 4), "bias": (4,), "temperature": ()}
    want = {name: draw.normal(size=shape) for name, shape in shapes.items()}
    # Large gradients and small ones, so that the limit binds in some steps alone.
    gradients = [{name: (3.0, 0.1)[step % 2] * draw.normal(size=s) for name, s in shapes.items()} for step in range(12)]
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), want)
    optimizer = ADAMW.optimizer(ADAMW.schedule(1.0))
    state = optimizer.init(params)

    @jax.jit
    def stepped(gradient, state, params):
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    first, second = ({name: np.zeros(shape) for name, shape in shapes.items()} for _ in range(2))
    limited = []
    for step, gradient in enumerate(gradients):
        params, state = stepped(jax.tree.map(np.float32, gradient), state, params)
        norm = np.sqrt(sum(np.sum(part**2) for part in gradient.values()))
        limited.append(norm > 1.5)
        rate = published_rate(step, 12, 0.02, 3)
        for name in shapes:
            part = gradient[name] * min(1.0, 1.5 / norm)
            first[name] = 0.8 * first[name] + 0.2 * part
            second[name] = 0.95 * second[name] + 0.05 * part**2
            mean, square = first[name] / (1 - 0.8 ** (step + 1)), second[name] / (1 - 0.95 ** (step + 1))
            decay = 0.1 if name == "kernel" else 0.0
            want[name] = want[name] - rate * (mean / (np.sqrt(square) + 1e-3) + decay * want[name])
    assert any(limited)
    assert not all(limited)
    for name in shapes:
        np.testing.assert_allclose(params[name], want[name], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(("cap", "warmup"), [(1.0, 500), (0.1, 12), (0.5, 64)])
def test_warm_up_in_steps_is_published_or_capped(cap, warmup):
    recipe = train.Recipe(epochs=128, batch_size=100, learning_rate=1e-3, decay="cosine", warmup_steps=500,
                          warmup_cap=cap)  # fmt: skip
    rates = np.asarray(jax.jit(jax.vmap(recipe.schedule(100.0)))(jnp.arange(128)))
    np.testing.assert_allclose(rates, [published_rate(s, 128, 1e-3, warmup) for s in range(128)], rtol=1e-4, atol=1e-9)
    # Published: 128 of 500 steps, so that training ends at 26 % of the nominal rate.
    assert round(100 * rates.max() / 1e-3) == (26 if cap == 1 else 100)


def test_recipes_of_before_keep_their_identity_and_their_optimizer():
    plain = config.to_plain(train.Recipe())
    assert not {"algorithm", "betas", "epsilon", "clip_norm", "warmup_steps", "warmup_cap"} & plain.keys()
    assert config.from_plain(train.Recipe(), config.to_plain(ADAMW)) == ADAMW
    params = {"kernel": jnp.ones((2, 2))}
    schedule = train.Recipe().schedule(9.0)
    plainly = optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(schedule, 0.9)).init(params)
    assert jax.tree.structure(train.Recipe().optimizer(schedule).init(params)) == jax.tree.structure(plainly)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"algorithm": "adam"}, "unknown algorithm 'adam'"),
        ({"betas": (0.9, 1.0)}, r"betas are \(0.9, 1.0\) .* below 1"),
        ({"clip_norm": 0.0}, "clip-norm is 0.0, but must be positive"),
        ({"warmup_steps": -1}, "warmup-steps is -1"),
        ({"warmup_cap": 0.0}, "warmup-cap is 0.0, but must be positive"),
    ],
)
def test_bad_optimizers_are_refused(change, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(UserError, match=message):
        train.Recipe(**change)
