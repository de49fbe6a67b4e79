"""One root seed, split by name: any model can be retrained alone, on any host, with the same randomness."""

import zlib

import jax

from jdt.types import PRNGKey


def key_for(seed: int | jax.Array, purpose: str, *ids: int | jax.Array) -> PRNGKey:
    """Derive the key of one purpose, and of one model or epoch within it.

    `fold_in(fold_in(fold_in(key(seed), crc32(purpose)), ids[0]), ...)`: it depends on stable names and indices only,
    never on how many keys were asked for before or on which host asks.

    Args:
      seed: The study's root seed; a traced integer is fine.
      purpose: What the randomness is for, e.g. `"mask"`, `"init"`, `"order"`.
      *ids: Stable indices, e.g. a model id and a pass number. Traced integers are fine.

    Returns:
      A typed threefry key (the generator is named, so that the platform's default does not matter).

    >>> bool((jax.random.key_data(key_for(0, "init", 17)) == jax.random.key_data(key_for(0, "init", 17))).all())
    True
    >>> bool((jax.random.key_data(key_for(0, "init", 17)) == jax.random.key_data(key_for(0, "order", 17))).all())
    False
    """
    key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), zlib.crc32(purpose.encode()))
    for i in ids:
        key = jax.random.fold_in(key, i)
    return key
