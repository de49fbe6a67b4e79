"""Balanced rows: subsets of one size in which no two units go together more often than any other two.

An estimate of one unit's effect is disturbed by the effects of the units that happen to come along with it. Random
subsets leave correlations of about 1 / sqrt(models) between the columns of the mask; here every new row is exchanged,
unit by unit, until it makes up for what the rows before it left uneven.
"""

import numpy as np

from jdt.types import Bool, Float, Int

_WHOLE = 1024
"""Up to this many units all pairs are balanced; of more, those within random blocks of at most `_BLOCK` units."""
_BLOCK = 128
_LONGEST = 2048
_SHORTLIST = 16


def group_size(num_units: int) -> int:
    """Consecutive models that are balanced against each other: four a unit, at most 2048.

    At that length about 5 % of the unevenness of random subsets is left (docs/decisions/0008-balanced-design.md), and
    the search for one row takes milliseconds.
    """
    return min(4 * _block_size(num_units), _LONGEST)


def balanced_rows(orders: Int[np.ndarray, "models units"], kept: int) -> Bool[np.ndarray, "models units"]:
    """Turn random subsets into balanced ones, from the first row to the last.

    Row m starts as the first `kept` units of `orders[m]`. With overlaps o_mj, the number of units that rows m and j
    share, and n_u, how often unit u was kept so far, units are exchanged (kept for left out, the best of a short list)
    as long as

        sum_{j < m} (o_mj - kept^2 / units)^2 + sum_{u in row m} n_u

    falls. Even overlaps of rows are even co-occurrences of units, since X'X and XX' have the same sum of squares (the
    E(s^2) criterion of Booth and Cox 1962, for two-level supersaturated designs); the second sum keeps every unit
    equally often. A row depends on the rows before it only, so that any first part of a group is balanced as well, and
    where the orders are uniformly random each row by itself is a uniformly random subset: nothing in the rule knows
    one unit from another.

    Args:
      orders: int `[models, units]`: a permutation of the units for each model of one group.
      kept: Units that each row keeps, at least 1 and fewer than all.

    Returns:
      bool `[models, units]`, every row with `kept` units.

    >>> orders = np.stack([np.random.default_rng(i).permutation(4) for i in range(6)])
    >>> rows = balanced_rows(orders, 2).astype(int)
    >>> (rows.T @ rows).tolist()  # Each unit in 3 of 6 rows, each two units in 1 of 6.
    [[3, 1, 1, 1], [1, 3, 1, 1], [1, 1, 3, 1], [1, 1, 1, 3]]
    """
    num_models, num_units = orders.shape
    rows = np.zeros((num_models, num_units), bool)
    num_blocks = -(-num_units // _block_size(num_units))
    # The first row's order is as good as any to deal the units into blocks: all the others are independent of it.
    place = np.argsort(orders[0])
    block_of = place * num_blocks // num_units
    share = [kept * int((block_of < b).sum()) // num_units for b in range(num_blocks + 1)]
    for block in range(num_blocks):
        units = np.flatnonzero(block_of == block)
        local = np.full(num_units, -1)
        local[units] = np.arange(len(units))
        inside = local[orders]
        inside = inside[inside >= 0].reshape(num_models, len(units))
        rows[:, units] = _exchange(inside, share[block + 1] - share[block])
    return rows


def _exchange(orders: Int[np.ndarray, "models units"], kept: int) -> Bool[np.ndarray, "models units"]:
    # Everything is multiplied by the number of units: whole numbers below 2^53, so that no rounding differs by machine.
    num_models, num_units = orders.shape
    rows = np.zeros((num_models, num_units), bool)
    together = np.zeros((num_units, num_units))  # How often two units were kept together; diagonal: kept at all.
    often = np.diagonal(together)
    for m, order in enumerate(orders):
        inside, outside = order[:kept].copy(), order[kept:].copy()
        row = np.zeros(num_units)
        row[inside] = 1.0
        slope = 2 * num_units * (together @ row) + (num_units - 2 * kept**2) * often
        while kept:
            # Exchanging u for v changes the sum by slope_v - slope_u + units (n_u + n_v - 2 together_uv).
            leaving, entering = num_units * often[inside] - slope[inside], num_units * often[outside] + slope[outside]
            out, into = _smallest(leaving), _smallest(entering)
            pairs = together[np.ix_(inside[out], outside[into])]
            change = leaving[out][:, None] + entering[into] - 2 * num_units * pairs
            best = np.unravel_index(change.argmin(), change.shape)
            if change[best] >= 0:
                break
            i, j = out[best[0]], into[best[1]]
            slope += 2 * num_units * (together[outside[j]] - together[inside[i]])
            inside[i], outside[j] = outside[j], inside[i]
        rows[m, inside] = True
        together += np.outer(rows[m], rows[m])
    return rows


def _smallest(values: Float[np.ndarray, " units"]) -> Int[np.ndarray, " some"]:
    """Indices of the smallest few; the order of equal values is that of the random row, so ties favour no unit."""
    if len(values) > _SHORTLIST:
        few = np.flatnonzero(values <= np.partition(values, _SHORTLIST - 1)[_SHORTLIST - 1])
        return few[np.argsort(values[few], kind="stable")[:_SHORTLIST]]
    return np.argsort(values, kind="stable")


def _block_size(num_units: int) -> int:
    return num_units if num_units <= _WHOLE else _BLOCK
