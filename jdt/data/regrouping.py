"""A smaller dataset of one that is there: classes taken together, or left out, and so many images of each."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np

from jdt.checks import UserError, nearest
from jdt.data.arrays import from_arrays
from jdt.data.base import Dataset
from jdt.data.images import StreamedImages
from jdt.data.stamps import with_stamps
from jdt.data.texts import with_tokens
from jdt.keys import key_for


def regrouped(
    data: Dataset, groups: Mapping[str, Sequence[str]], *, per_group: int | None = None, seed: int = 0
) -> Dataset:
    """Make a dataset whose classes are groups of another's classes; classes in no group are left out.

    Examples keep their stamps and captions, whatever their classes are called now.

    Args:
      data: The dataset, decoded.
      groups: Name of a new class -> names of the classes that it is made of.
      per_group: Images of each group, drawn at random; all of them when None.
      seed: Root seed of the study; which images depends on it and the group alone.

    Raises:
      UserError: If the dataset is streamed, a group names an unknown class, or one that another group has too, or
        has too few images.

    >>> data = from_arrays("pets", np.zeros((3, 4, 4, 1), np.uint8), [0, 1, 2], ["beagle", "pug", "tabby"])
    >>> regrouped(data, {"cats": ["tabby"], "dogs": ["beagle", "pug"]}).labels.tolist()
    [0, 1, 1]
    """
    if isinstance(data.images, StreamedImages):
        raise UserError(f"{data.name} is streamed, but only decoded data can be grouped anew: leave streaming out.")
    labels, rows, owner = np.asarray(data.labels), [], {}
    for number, (group, names) in enumerate(groups.items()):
        for name in names:
            if name not in data.class_names:
                raise UserError(
                    f"group {group!r} names class {name!r}, which {data.name} does not have; "
                    f"nearest: {nearest(name, data.class_names)}."
                )
            if name in owner:
                raise UserError(f"class {name!r} is in groups {owner[name]!r} and {group!r}: keep it in one.")
            owner[name] = group
        members = np.flatnonzero(np.isin(labels, [data.class_names.index(name) for name in names]))
        if per_group is not None:
            if not 1 <= per_group <= len(members):
                raise UserError(
                    f"{per_group} images of each group are asked for, but group {group!r} of {data.name} has "
                    f"{len(members)}: ask for 1 to that many."
                )
            order = np.asarray(jax.random.permutation(key_for(seed, "regroup", number), len(members)))
            members = np.sort(members[order[:per_group]])
        rows.append(members)
    chosen = np.concatenate([np.empty(0, np.int64), *rows])
    new_labels = np.repeat(np.arange(len(rows), dtype=np.int32), [len(members) for members in rows])
    made = from_arrays(data.name, data.images[chosen], new_labels, list(groups))
    if data.stamps is not None:
        made = with_stamps(made, data.stamps._replace(of_example=np.asarray(data.stamps.of_example)[chosen]))
    return made if data.tokens is None else with_tokens(made, data.tokens[chosen])
