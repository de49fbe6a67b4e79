"""The sources of a study of pre-training data, as masks over one pool of images.

Every source is a sequence of images in which the classes take turns: its first n images are the source at size n. So
sizes are nested, and sources of equal size have as equal classes as can be. Changes keep the sequence: `noise` gives
wrong labels to an exact share of every size of the study, `useful` puts images without information, or copies of those
that are there, between the others, so that every beginning of the sequence holds its share of them.

    specs = parse_sources(["near=classes:upright *", "noisy=near|noise:0.4", "mix=near|useful:0.25"])
    sources = make_sources(specs, digits, seeds=range(5), nonce=17)
    units, masks = jdt.masks.atoms(sources.rows.swapaxes(0, 1).reshape(-1, len(sources.pool)), names)
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

import jdt
from experiments.pretraining_source_specs import COPIES, Base, Change, SourceSpec, chosen_names, ordered
from experiments.pretraining_source_specs import parse_sources as parse_sources

GROUPS_FLAG = "--source-sets"
"""The flag behind which the file of `groups:` is, for messages."""
_OWN, _PIXELS = "", "pixels"  # Keys of shelves: the data that was passed, and random pixels.
_SHELF_BITS, _COPY_BITS = 40, 50  # An image is (copy << bits) + (shelf << bits) + its place there.


class Cut(NamedTuple):
    """What equal sizes cost a source.

    Attributes:
      source: Its name.
      start: Images that it has.
      end: Images that are left.
    """

    source: str
    start: int
    end: int


@dataclasses.dataclass(frozen=True, eq=False)
class Sources:
    """Sources over one pool.

    Attributes:
      specs: What was asked for; sources are in this order everywhere.
      pool: Images of all sources and seeds, each in every rendering and under every label that any of them gives it;
        `version_of` says which are the same image. Classes are those of all sources, by name.
      places: int `[pool]`: place of each image in the data that was passed, -1 of what comes from elsewhere.
      rows: bool `[sources, seeds, pool]`: who belongs to a source. Seeds differ in label noise, and in nothing else
        unless other selections were asked for.
      equal_size: The size that sources without `size` and `times` have; None where sizes were left as they are.
      images: Number of images of each source.
      classes: Number of classes of each source that have an image.
      flipped: int `[sources, seeds]`: labels that are wrong.
      useful: Number of images of each source that `useful` left as they were; all where it is not asked for.
      cuts: Sources that have more images than are used.
      notes: What to know about them, in sentences.
    """

    specs: tuple[SourceSpec, ...]
    pool: jdt.data.Dataset
    places: np.ndarray
    rows: np.ndarray
    equal_size: int | None
    images: tuple[int, ...]
    classes: tuple[int, ...]
    flipped: np.ndarray
    useful: tuple[int, ...]
    cuts: tuple[Cut, ...]
    notes: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """What the sources are called."""
        return tuple(spec.name for spec in self.specs)

    def identity(self) -> dict:
        """What decides who is trained on what: plain JSON."""
        return {
            "sources": {spec.name: spec.text for spec in self.specs},
            "equal_size": self.equal_size,
            "images": list(self.images),
            "pool": self.pool.fingerprint,
            "rows": hashlib.sha256(np.packbits(self.rows).tobytes()).hexdigest()[:16],
        }


class _Sequence(NamedTuple):
    """Images of a source, of which a source of size n has the first n.

    Attributes:
      image: int64 `[images]`: each once; see `_SHELF_BITS`.
      look: int `[images]`: place in the list of renderings.
      label: int `[images]`: among all classes of the study.
      is_flipped: bool `[images]`.
      is_useful: bool `[images]`.
    """

    image: np.ndarray
    look: np.ndarray
    label: np.ndarray
    is_flipped: np.ndarray
    is_useful: np.ndarray

    def taken(self, rows: np.ndarray) -> "_Sequence":
        return _Sequence(*(part[rows] for part in self))

    def __add__(self, other: "_Sequence") -> "_Sequence":  # pyright: ignore[reportIncompatibleMethodOverride]
        return _Sequence(*(np.concatenate(parts) for parts in zip(self, other, strict=True)))


@dataclasses.dataclass(frozen=True, eq=False)
class _Shelves:
    """Where images come from.

    Attributes:
      keys: The data that was passed, other datasets by name, `textures:K`, and random pixels.
      loaded: The first of these.
      class_names: All classes of the study; those of equal name are one.
      looks: Renderings, each a sequence of changes, to which sources add theirs.
      groups: Of classes, for `groups:`.
      nonce: Root seed of all that is drawn.
    """

    keys: tuple[str, ...]
    loaded: Mapping[str, jdt.data.Dataset]
    class_names: tuple[str, ...]
    looks: list[tuple[Change, ...]]
    groups: Mapping[str, Sequence[str]] | None
    nonce: int


def make_sources(
    specs: Sequence[SourceSpec],
    data: jdt.data.Dataset,
    *,
    seeds: Sequence[int],
    nonce: int,
    source_size: int | None = None,
    equal: bool = True,
    groups: pathlib.Path | Mapping[str, Sequence[str]] | None = None,
    load: Callable[[str], jdt.data.Dataset] | None = None,
    redraw: bool = False,
) -> Sources:
    """Make sources of one or several datasets.

    Args:
      specs: From `parse_sources`.
      data: What `all`, `groups:` and `classes:` choose from, decoded; procedural images get its shape.
      seeds: Of models: label noise is drawn anew for each.
      nonce: Root seed of all draws: of who is in a smaller source, of noise, and of procedural images.
      source_size: Images of each source; of the smallest when None.
      equal: Whether sources are brought to that size. If not, each has all its images, or its `size:` of them, and
        `source_size` is for `textures` and `pixels` alone.
      groups: JSON file of group -> class names, or what it says, for `groups:`.
      load: Loads the dataset of a `dataset:NAME`, with images like those of `data`.
      redraw: Whether seeds draw other images for smaller sources, too.

    Raises:
      UserError: If a class, group or dataset is not there, or does not fit; if a source has too few images, or
        fewer than two classes.
    """
    if source_size is not None:
        jdt.checks.require_at_least("--source-size", source_size, 2)
    if not seeds or len(set(seeds)) < len(seeds):
        raise jdt.UserError(f"seeds of sources are {', '.join(map(str, seeds)) or 'absent'}: give each once.")
    shelves = _shelves(specs, data, load, groups, nonce)
    factors = _factors(specs)
    # More than any source can have or is asked for; sources that reach it have no end.
    most = max(source_size or 0, sum(len(one) for one in shelves.loaded.values()))
    limit = int(most * max(1, *factors.values())) + 1

    def sequences(seed: int, sizes: Mapping[str, int] | None = None) -> dict[str, _Sequence]:
        made: dict[str, _Sequence] = {}
        for spec in ordered(specs):
            bounds = _noise_bounds(spec, specs, sizes) if sizes else ()
            made[spec.name] = _sequence(shelves, spec, made, limit, bounds, seed, redraw)
        return made

    there = {name: _count(made, limit) for name, made in sequences(seeds[0]).items()}
    if equal:
        size, sizes = _equal_sizes(specs, there, factors, source_size)
    else:
        plain = [dataclasses.replace(spec, changes=()) for spec in specs if spec.base.kind != "source"]
        starts = {spec.name: _count(_sequence(shelves, spec, {}, limit, (), 0, False), limit) for spec in plain}
        size, sizes = None, _own_sizes(specs, there, starts, factors, source_size)
    drawn = [sequences(seed, sizes) for seed in seeds]
    parts = [[of_seed[spec.name].taken(np.arange(sizes[spec.name])) for of_seed in drawn] for spec in specs]
    pool, places, rows = _pooled(shelves, parts, data)
    classes = tuple(len(np.unique(of_source[0].label)) for of_source in parts)
    if min(classes) < 2:
        raise jdt.UserError(
            f"source {specs[classes.index(1)].name!r} has images of one class, but at least two are needed: name more "
            "classes."
        )
    cuts = tuple(
        Cut(spec.name, count, sizes[spec.name])
        for spec in specs
        if (count := there[spec.name]) and size and factors[spec.name] >= 1 and sizes[spec.name] < count
        and not _has(spec, specs, "useful")
    )  # fmt: skip
    return Sources(
        specs=tuple(specs),
        pool=pool,
        places=places,
        rows=rows,
        equal_size=size,
        images=tuple(sizes[spec.name] for spec in specs),
        classes=classes,
        flipped=np.array([[one.is_flipped.sum() for one in of_source] for of_source in parts]),
        useful=tuple(int(of_source[0].is_useful.sum()) for of_source in parts),
        cuts=cuts,
        notes=_notes(specs, parts, cuts, size),
    )


def _shelves(
    specs: Sequence[SourceSpec],
    data: jdt.data.Dataset,
    load: Callable[[str], jdt.data.Dataset] | None,
    groups: pathlib.Path | Mapping[str, Sequence[str]] | None,
    nonce: int,
) -> _Shelves:
    """Load what sources are made of, and list all classes."""
    bases = [spec.base for spec in specs]
    if isinstance(groups, pathlib.Path):
        groups = jdt.masks.read_groups(groups)
    if groups is None and (wanting := [spec for spec in specs if spec.base.kind == "groups"]):
        raise jdt.UserError(
            f"source {wanting[0].name!r} is {wanting[0].base.name!r} of groups, but there is no file of groups: pass "
            f"{GROUPS_FLAG} FILE, JSON of group -> class names, or write classes:NAME,NAME."
        )
    loaded = {_OWN: _plain(data)}
    for spec in specs:
        if spec.base.kind == "dataset" and spec.base.name not in loaded:
            if load is None:
                raise jdt.UserError(f"source {spec.name!r} is another dataset, but none can be loaded here.")
            loaded[spec.base.name] = _plain(load(spec.base.name), data)
    textures = sorted({base.num_classes for base in bases if base.kind == "textures"})
    pixels = max((base.num_classes for base in bases if base.kind == "pixels"), default=0)
    names = [name for one in loaded.values() for name in one.class_names]
    names += [name for count in textures for name in jdt.plant.TEXTURES[:count]]
    names += [_pixel_class(number) for number in range(pixels)]
    keys = (*loaded, *(f"textures:{count}" for count in textures), _PIXELS)
    return _Shelves(keys, loaded, tuple(dict.fromkeys(names)), [()], groups, nonce)


def _plain(data: jdt.data.Dataset, like: jdt.data.Dataset | None = None) -> jdt.data.Dataset:
    """The data, if sources can be made of it."""
    if isinstance(data.images, jdt.data.StreamedImages):
        raise jdt.UserError(f"{data.name} is streamed, but sources are made of decoded images: leave streaming out.")
    if data.stamps is not None or data.version_of is not None:
        raise jdt.UserError(f"{data.name} has stamps or versions of examples already: start from the data as loaded.")
    if len(set(data.class_names)) < len(data.class_names):
        raise jdt.UserError(f"several classes of {data.name} have one name: rename them, since sources name classes.")
    if like is not None and like.image_shape != data.image_shape:
        raise jdt.UserError(
            f"{data.name} has images of shape {data.image_shape} and {like.name} of {like.image_shape}, but sources "
            "share one network: resize them (--image-size, --image-channels)."
        )
    return data


def _pixel_class(number: int) -> str:
    return f"pixels {number}"


def _factors(specs: Sequence[SourceSpec]) -> dict[str, Fraction]:
    """How many times the equal size each source has."""
    factors: dict[str, Fraction] = {}
    for spec in ordered(specs):
        factor = factors[spec.base.name] if spec.base.kind == "source" else Fraction(1)
        for change in spec.changes:
            factor *= change.amount if change.kind in ("size", "times") else 1
        factors[spec.name] = factor
    return factors


def _count(made: _Sequence, limit: int) -> int | None:
    """How many images there are; None for as many as you like."""
    return None if len(made.image) >= limit else len(made.image)


def _equal_sizes(
    specs: Sequence[SourceSpec],
    there: Mapping[str, int | None],
    factors: Mapping[str, Fraction],
    source_size: int | None,
) -> tuple[int, dict[str, int]]:
    """The equal size, and the size of every source, all of which can be had."""
    # A smaller source is a part of one of the equal size, which there must be enough images for.
    possible = {name: int(count / max(1, factors[name])) for name, count in there.items() if count is not None}
    if source_size is None and not possible:
        raise jdt.UserError("all sources are drawn, as many images as you like: pass --source-size N.")
    size = source_size or min(possible.values())
    sizes = {name: _rounded(factor * size) for name, factor in factors.items()}
    for spec in specs:
        count, wanted, factor = there[spec.name], sizes[spec.name], factors[spec.name]
        if count is not None and wanted > count:
            times = "" if factor == 1 else f" ({float(factor):g} times {size:,})"
            raise jdt.UserError(
                f"source {spec.name!r} has {count:,} images, but {wanted:,} are asked for{times}: pass --source-size "
                f"{min(possible.values())} or less, leave it out, or give that source more classes."
            )
        if wanted < 2:
            raise jdt.UserError(
                f"source {spec.name!r} would have {wanted} image, {float(factor):g} times {size:,}, but two are the "
                "least: pass a larger --source-size or share."
            )
    return size, sizes


def _own_sizes(
    specs: Sequence[SourceSpec],
    there: Mapping[str, int | None],
    starts: Mapping[str, int | None],
    factors: Mapping[str, Fraction],
    source_size: int | None,
) -> dict[str, int]:
    """The size of every source where that is its own business: all that it starts from, or its `size:` of that."""
    whole: dict[str, int] = {}
    for spec in ordered(specs):
        count, factor = there[spec.name], factors[spec.name]
        if factor > 1:
            raise jdt.UserError(
                f"source {spec.name!r} is {float(factor):g} times the equal size, but sizes are left as they are: "
                "leave times out, or ask for equal sizes."
            )
        start = whole[spec.base.name] if spec.base.kind == "source" else starts[spec.name] or source_size
        if start is None:
            raise jdt.UserError(f"source {spec.name!r} is drawn, as many images as you like: pass --source-size N.")
        whole[spec.name] = start if count is None else min(start, count)  # Images that replace others add none.
    return {name: max(2, _rounded(factors[name] * count)) for name, count in whole.items()}


def _rounded(value: Fraction) -> int:
    """The nearest whole number, halves up."""
    return int(value + Fraction(1, 2))


def _root(spec: SourceSpec, specs: Sequence[SourceSpec]) -> Base:
    """What a source starts from in the end."""
    by_name = {one.name: one for one in specs}
    while spec.base.kind == "source":
        spec = by_name[spec.base.name]
    return spec.base


def _has(spec: SourceSpec, specs: Sequence[SourceSpec], kind: str) -> bool:
    """Whether a source, or what it is made of, was changed so."""
    if any(change.kind == kind for change in spec.changes):
        return True
    return spec.base.kind == "source" and _has(next(s for s in specs if s.name == spec.base.name), specs, kind)


def _noise_bounds(spec: SourceSpec, specs: Sequence[SourceSpec], sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Ascending sizes at which the count of wrong labels is exact: those of noisy sources with the same start."""
    kin = [one for one in specs if _root(one, specs) == _root(spec, specs) and _has(one, specs, "noise")]
    return tuple(sorted({sizes[one.name] for one in kin}))


def _sequence(
    shelves: _Shelves,
    spec: SourceSpec,
    made: Mapping[str, _Sequence],
    limit: int,
    bounds: Sequence[int],
    seed: int,
    redraw: bool,
) -> _Sequence:
    """All images that a source can have, of procedural ones the first `limit`."""
    if spec.base.kind == "source":
        found = made[spec.base.name]
    else:
        found = _start(shelves, spec, limit, seed if redraw else None)
    for change in spec.changes:
        match change.kind:
            case "grey" | "blur":
                found = found._replace(look=_redrawn(shelves.looks, found.look, change))
            case "noise":
                found = _noisy(shelves, spec, found, change.amount, bounds, seed)
            case "useful":
                other = _copies(found, change.amount, limit) if change.other == COPIES else made.get(change.other)
                found = _diluted(shelves, found, change.amount, other, limit)
            case _:  # How much of the sequence is taken is not its own business.
                pass
    return found


def _redrawn(looks: list[tuple[Change, ...]], look: np.ndarray, change: Change) -> np.ndarray:
    """Renderings with another change behind them; those that are new are added to the list."""
    before, which = np.unique(look, return_inverse=True)
    after = [(*looks[number], change) for number in before]
    looks += [one for one in after if one not in looks]
    return np.array([looks.index(one) for one in after])[which]


def _start(shelves: _Shelves, spec: SourceSpec, limit: int, seed: int | None) -> _Sequence:
    """The sequence that a base has: classes take turns."""
    base = spec.base
    if base.kind in ("textures", "pixels"):
        names = jdt.plant.TEXTURES[: base.num_classes]
        if base.kind == "pixels":
            names = tuple(map(_pixel_class, range(base.num_classes)))
        key = _PIXELS if base.kind == "pixels" else f"textures:{base.num_classes}"
        rows = np.arange(limit)
        return _plain_sequence(shelves, key, rows, _numbers(shelves, names)[rows % len(names)])
    key = base.name if base.kind == "dataset" else _OWN
    data = shelves.loaded[key]
    chosen = _classes(shelves, spec, data)
    labels = np.asarray(data.labels)
    rng = jdt.plant.draws(shelves.nonce, f"source order {data.name}", *([] if seed is None else [seed]))
    place, turn = rng.permutation(len(data)), rng.permutation(len(data))
    by_class = np.lexsort((place, labels))
    counts = np.bincount(labels, minlength=len(data.class_names))
    nth = np.empty(len(data), np.int64)  # How many of its class come before it.
    nth[by_class] = np.arange(len(data)) - np.repeat(np.cumsum(counts) - counts, counts)
    order = np.lexsort((turn, nth))
    order = order[np.isin(labels[order], [data.class_names.index(name) for name in chosen])]
    return _plain_sequence(shelves, key, order, _numbers(shelves, data.class_names)[labels[order]])


def _numbers(shelves: _Shelves, names: Sequence[str]) -> np.ndarray:
    """Places of classes among all classes of the study."""
    place = {name: number for number, name in enumerate(shelves.class_names)}
    return np.array([place[name] for name in names])


def _plain_sequence(shelves: _Shelves, key: str, rows: np.ndarray, labels: np.ndarray) -> _Sequence:
    image = (shelves.keys.index(key) << _SHELF_BITS) + rows.astype(np.int64)
    nothing = np.zeros(len(rows), bool)
    return _Sequence(image, np.zeros(len(rows), np.int64), labels.astype(np.int64), nothing, ~nothing)


def _classes(shelves: _Shelves, spec: SourceSpec, data: jdt.data.Dataset) -> Sequence[str]:
    """Names of the classes that a base takes from its dataset."""
    where = f"source {spec.name!r}: {data.name}"
    if spec.base.kind == "classes":
        chosen = list(chosen_names(spec.base.name, data.class_names, "class", where))
    elif spec.base.kind == "groups":
        groups = shelves.groups or {}
        chosen: list[str] = []
        for group in chosen_names(spec.base.name, tuple(groups), "group", f"source {spec.name!r}: the file of groups"):
            for name in groups[group]:
                if name not in data.class_names:
                    raise jdt.UserError(
                        f"group {group!r} names class {name!r}, which {data.name} does not have; nearest: "
                        f"{jdt.checks.nearest(name, data.class_names)}."
                    )
                chosen.append(name)
    else:
        chosen = list(data.class_names)
    if len(chosen) < 2:
        raise jdt.UserError(
            f"source {spec.name!r} has the class {chosen[0]!r} alone, but at least two are needed: name more classes."
        )
    return chosen


def _noisy(
    shelves: _Shelves, spec: SourceSpec, found: _Sequence, rate: Fraction, bounds: Sequence[int], seed: int
) -> _Sequence:
    """Wrong labels: of the images between two bounds exactly `round(rate n)`, nested in the rate and in the size."""
    if found.is_flipped.any():
        raise jdt.UserError(f"source {spec.name!r} is made of a noisy one: write the whole rate once.")
    if not bounds:  # Sizes are still to be found.
        return found
    classes, label = np.unique(found.label, return_inverse=True)
    names = [shelves.class_names[number] for number in classes]
    drawn = jdt.plant.draw_noise(jdt.plant.LabelNoise(), label, names, seed=shelves.nonce, ids=(seed,))
    is_flipped = np.zeros(len(label), bool)
    for start, end in zip((0, *bounds), bounds, strict=False):
        order = start + np.argsort(drawn.rank[start:end])  # Fewer where the source itself ends before.
        is_flipped[order[: _rounded(rate * len(order))]] = True
    return found._replace(label=np.where(is_flipped, classes[drawn.drawn_label], found.label), is_flipped=is_flipped)


def _diluted(shelves: _Shelves, found: _Sequence, share: Fraction, other: _Sequence | None, limit: int) -> _Sequence:
    """Of every beginning of the sequence `round(share n)` images of one source, the others of another."""
    if other is None:
        classes = np.unique(found.label)
        # Pixels are drawn alike, so that labels in turn are random labels.
        other = _plain_sequence(shelves, _PIXELS, np.arange(limit), classes[np.arange(limit) % len(classes)])
    other = other.taken(~np.isin(other.image, found.image))
    twice = np.arange(limit + 1, dtype=np.int64) * 2 * share.numerator
    before = (twice + share.denominator) // (2 * share.denominator)  # How many of the first n are useful.
    rest = np.arange(limit + 1) - before
    length = int(((before <= len(found.image)) & (rest <= len(other.image))).sum()) - 1
    before, rest, is_useful = before[:length], rest[:length], np.diff(before[: length + 1]) == 1
    other = other._replace(is_useful=np.zeros(len(other.image), bool))
    both = found + other
    return both.taken(np.where(is_useful, before, len(found.image) + rest))


def _copies(found: _Sequence, share: Fraction, limit: int) -> _Sequence:
    """Copies of the images of a source in turn, each an image of its own: equally many of every beginning.

    In training a source of n images with 1 of r useful and the rest copies of these shows what n / r images show.
    """
    if share == 1:
        return found.taken(np.empty(0, np.int64))
    each = share / (1 - share)  # Useful images for every copy.
    rank = np.arange(limit, dtype=np.int64)
    of = rank * each.numerator // each.denominator
    of, rank = of[of < len(found.image)], rank[of < len(found.image)]
    number = rank - np.searchsorted(of, of)  # How many copies of the image come before.
    copied = found.taken(of)
    return copied._replace(image=copied.image + ((number + 1) << _COPY_BITS))


def _pooled(
    shelves: _Shelves, parts: Sequence[Sequence[_Sequence]], data: jdt.data.Dataset
) -> tuple[jdt.data.Dataset, np.ndarray, np.ndarray]:
    """Everything that any source and seed holds, once; where it comes from; who holds it, `[sources, seeds, pool]`."""
    flat = [part for of_source in parts for part in of_source]
    images, which = np.unique(np.concatenate([part.image for part in flat]), return_inverse=True)
    looks, labels = np.concatenate([part.look for part in flat]), np.concatenate([part.label for part in flat])
    used, labels = np.unique(labels, return_inverse=True)
    versions = (which * len(shelves.looks) + looks) * len(used) + labels
    keys, member = np.unique(versions, return_inverse=True)
    image, look, label = (
        keys // len(used) // len(shelves.looks),
        keys // len(used) % len(shelves.looks),
        keys % len(used),
    )
    rows = np.zeros((len(flat), len(keys)), bool)
    rows[np.repeat(np.arange(len(flat)), [len(part.image) for part in flat]), member] = True
    shelf = images[image] >> _SHELF_BITS & ((1 << _COPY_BITS - _SHELF_BITS) - 1)
    place = images[image] & ((1 << _SHELF_BITS) - 1)
    pixels = np.empty((len(keys), *data.image_shape), np.uint8)
    marks = []
    for number in np.unique(shelf):
        source = _shelf(shelves, shelves.keys[number], int(place[shelf == number].max()) + 1, data)
        marks.append([int(number), source.fingerprint])
        for which_look in np.unique(look[shelf == number]):
            some = np.flatnonzero((shelf == number) & (look == which_look))
            pixels[some] = _shown(source, place[some], shelves.looks[which_look])
    class_names = tuple(shelves.class_names[number] for number in used)
    digests = [hashlib.sha256(part.astype("<i8").tobytes()).hexdigest() for part in (shelf, place, look, label)]
    renderings = [[[change.kind, float(change.amount)] for change in one] for one in shelves.looks]
    keys_used = [shelves.keys[number] for number in np.unique(shelf)]
    pool = jdt.data.Dataset(
        name="+".join(shelves.loaded[key].name if key in shelves.loaded else key for key in keys_used),
        images=pixels,
        labels=label.astype(np.int32),
        class_names=class_names,
        fingerprint=jdt.config.fingerprint(["sources", marks, renderings, digests, list(class_names)]),
        version_of=np.searchsorted(image, image).astype(np.int32),
    )
    places = np.where(shelf == shelves.keys.index(_OWN), place, -1)
    return pool, places, rows.reshape(len(parts), -1, len(keys))


def _shelf(shelves: _Shelves, key: str, count: int, data: jdt.data.Dataset) -> jdt.data.Dataset:
    """Images of a shelf, of procedural ones as many as are needed."""
    if key in shelves.loaded:
        return shelves.loaded[key]
    count = max(count, 2)
    if key == _PIXELS:
        return jdt.plant.random_pixels(count, data.image_shape, seed=shelves.nonce)
    num_classes = int(key.partition(":")[2])
    return jdt.plant.textures(count, data.image_shape, seed=shelves.nonce, num_classes=num_classes)


def _shown(source: jdt.data.Dataset, rows: np.ndarray, look: Sequence[Change]) -> np.ndarray:
    """Some images in a rendering."""
    part = source.part(rows)
    for change in look:
        if change.kind == "grey":
            part = jdt.data.greyed(part)
        else:
            part = jdt.data.shifted(part, jdt.data.Shift("blur", float(change.amount)))
    return np.asarray(part.images)


def _notes(
    specs: Sequence[SourceSpec], parts: Sequence[Sequence[_Sequence]], cuts: Sequence[Cut], size: int | None
) -> tuple[str, ...]:
    made_of_others = {spec.name for spec in specs if spec.base.kind == "source"}  # Whose cut is said of these.
    notes = [
        f"{cut.source} was cut from {cut.start:,} images to {cut.end:,}, for equal sizes."
        for cut in cuts
        if cut.source not in made_of_others
    ]
    for spec, of_source in zip(specs, parts, strict=True):
        counts = np.unique(of_source[0].label, return_counts=True)[1]
        if not of_source[0].is_flipped.any() and of_source[0].is_useful.all() and np.ptp(counts) > 1:
            notes.append(f"{spec.name} has classes of {counts.min():,} to {counts.max():,} images: some have no more.")
    if size is None:
        smallest, largest = (pick(len(one[0].image) for one in parts) for pick in (min, max))
        if smallest < largest:
            notes.append(f"sources have {smallest:,} to {largest:,} images: what differs between them may be that.")
    return tuple(notes)
