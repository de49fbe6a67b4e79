"""Batches by index: which source images each model sees at each step, drawn from its own members only."""

import functools

import jax
import jax.numpy as jnp

from jdt.keys import key_for
from jdt.types import Array, Bool, Int


def pass_order(
    seed: Array,
    randomness_id: Array,
    pass_number: Array,
    members: Bool[Array, " examples"],
    version_of: Int[Array, " examples"] | None = None,
) -> Int[Array, " examples"]:
    """Order of one pass: the members' indices in random order, then all others.

    Depends on (seed, randomness id, pass) and on the members alone; no pixel is read. Versions of one example have the
    same place in the order, so that models which see different versions of the same examples see them side by side.
    """
    draws = jax.random.bits(key_for(seed, "order", randomness_id, pass_number), members.shape, jnp.uint32)
    draws = draws if version_of is None else draws[version_of]
    last = jnp.asarray(jnp.iinfo(jnp.uint32).max, jnp.uint32)
    return jnp.argsort(jnp.where(members, draws >> 1, last)).astype(jnp.int32)


@functools.partial(jax.jit, static_argnames=("num_steps", "batch_size", "num_passes"))
def batch_indices(
    seed: Int[Array, ""],
    randomness_ids: Int[Array, " models"],
    members: Bool[Array, "models examples"],
    first_step: Int[Array, ""],
    first_pass_number: Int[Array, ""],
    version_of: Int[Array, " examples"] | None = None,
    *,
    num_steps: int,
    batch_size: int,
    num_passes: int,
) -> Int[Array, "steps models batch"]:
    """Source indices of `num_steps` consecutive batches of every model.

    Model m passes through its n members in batches; the incomplete batch that ends a pass is dropped and the next
    pass draws a fresh order. With n < `batch_size` a batch holds all n members, some of them twice.

    Args:
      seed: Root seed.
      randomness_ids: `[models]` ids from which the orders derive.
      members: bool `[models, examples]`; every row has at least one.
      first_step: Number of the first of these steps.
      first_pass_number: Number of the pass that step 0 is in; orders derive from the pass's number.
      version_of: Position of the first version of each example, where some are versions of one another.
      num_steps: How many batches.
      batch_size: Images a batch.
      num_passes: At least as many passes as these steps can touch: see `passes_touched`.

    Returns:
      int32 `[steps, models, batch]`.
    """

    def one_model(randomness_id: Array, mine: Bool[Array, " examples"]) -> Int[Array, "steps batch"]:
        count = mine.sum()
        per_pass = jnp.maximum(count // batch_size, 1)
        steps = first_step + jnp.arange(num_steps)
        first_pass = first_step // per_pass
        numbers = first_pass_number + first_pass + jnp.arange(num_passes)
        orders = jax.vmap(lambda number: pass_order(seed, randomness_id, number, mine, version_of))(numbers)
        row = jnp.minimum(steps // per_pass - first_pass, num_passes - 1)
        position = (steps % per_pass)[:, None] * batch_size + jnp.arange(batch_size)
        return orders[row[:, None], position % count]

    return jax.vmap(one_model, out_axes=1)(randomness_ids, members)


def passes_touched(num_steps: int, batch_size: int, smallest_subset: int) -> int:
    """Passes that `num_steps` consecutive steps can touch when a subset has at least `smallest_subset` members."""
    per_pass = max(smallest_subset // batch_size, 1)
    return (num_steps - 1) // per_pass + 2
