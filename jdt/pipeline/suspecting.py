"""Leaks and misleading images of a run whose units are source images."""

import numpy as np

from jdt import checks
from jdt.analyses import VERDICTS, Paired, Suspicions, join, leakage, misleading, paired_with, strongest
from jdt.analyses.similarity import SURELY_A_COPY, Copies, nearest_copies, similarity_of
from jdt.pipeline.cases import Inspector, entry
from jdt.pipeline.evidence import Evidence
from jdt.pipeline.gallery import Gallery
from jdt.report.content import Figure, Suspect, Suspects
from jdt.types import Float, Int

_TILE = 512  # Images compared at once.
_NUMBERS_AT_ONCE = 20_000_000  # Influences in memory, in a handful of arrays; every so many, chunks are decoded anew.


def copies(inspector: Inspector) -> Copies:
    """The source image that looks most like each test image.

    Raises:
      UserError: If units are no source images, or images are not at hand, decoded.
    """
    if not inspector.are_examples:
        raise checks.UserError(
            f"leaks and misleading images are single source images, but units of this run are "
            f"{inspector.run.config.get('units')}: make a run with --units examples."
        )
    gallery, target = inspector.gallery, inspector.evidence.target
    images = None if gallery is None else gallery.targets.get(target)
    if gallery is None or images is None:
        raise checks.UserError("leaks and misleading images are looked for with images, and those are not at hand.")
    if not isinstance(gallery.source, np.ndarray) or not isinstance(images, np.ndarray):
        raise checks.UserError("images are streamed, and looking for copies needs them decoded: leave out --streamed.")
    return nearest_copies(gallery.source, images)


def suspects(
    inspector: Inspector, kind: str, count: int, alike: Copies, *, least_similarity: float = SURELY_A_COPY
) -> Suspects:
    """Source images that leak into test images (`leakage`), or mislead about them (`misleading`).

    Args:
      inspector: Of a run whose units are source images, with a gallery.
      kind: Which of the two.
      count: How many pairs at most; all are counted.
      alike: As `copies` gives them.
      least_similarity: From which on two images count as the same; small or uniform images are alike anyhow.

    Raises:
      UserError: If `kind` is neither.
    """
    checks.require_known("kind of suspects", kind, ("leakage", "misleading"))
    gallery, evidence, harmful = inspector.gallery, inspector.evidence, kind == "misleading"
    assert gallery is not None  # `copies` needed it.
    of_example = gallery.units.of_example
    parts: tuple[list[Paired], list[Paired]] = ([], [])
    nearest_units = of_example[alike.index[:, 0]]
    tile = _tile_size(evidence)
    for start in range(0, evidence.num_examples, tile):
        columns = np.arange(start, min(start + tile, evidence.num_examples))
        found = evidence.examples(only=columns)
        parts[0].append(strongest(found, harmful=harmful))
        parts[1].append(paired_with(found, nearest_units[columns], harmful=harmful))
    influential, similar = join(parts[0]), join(parts[1])
    likeness = _similarities(inspector, gallery, influential.effects.units)
    judge = misleading if harmful else leakage
    told = judge(
        influential, similar, (likeness, alike.similarity[:, 0].astype(np.float64)),
        level=inspector.level, least_similarity=least_similarity,
    )  # fmt: skip
    rows = tuple(_suspect(inspector, gallery, told, place) for place in _shown(told, count))
    text = _suspects_words(kind, told, inspector.level, least_similarity)
    return Suspects(kind, text, evidence.output, rows, _tally(inspector, told))


def _shown(told: Suspicions, count: int) -> list[int]:
    """Pairs to show: what both suspect first, and of the rest as many that one suspects as that the other does."""
    places = {verdict: [i for i, one in enumerate(told.verdicts) if one == verdict] for verdict in VERDICTS}
    chosen = places["both"][:count]
    left = count - len(chosen)
    influence, similarity = places["influence only"], places["similarity only"]
    half = max((left + 1) // 2, left - len(similarity))
    chosen += influence[:half]
    return chosen + similarity[: count - len(chosen)]


def _tile_size(evidence: Evidence) -> int:
    return max(1, _NUMBERS_AT_ONCE // evidence.num_units)


def _similarities(
    inspector: Inspector, gallery: Gallery, units: Int[np.ndarray, " examples"]
) -> Float[np.ndarray, " examples"]:
    source, target = gallery.source, gallery.targets[inspector.evidence.target]
    parts = []
    for start in range(0, len(units), _TILE):
        places = inspector.source_of_unit[units[start : start + _TILE]]
        pairs = np.stack([np.asarray(source[int(i)]) for i in places])
        parts.append(similarity_of(pairs, np.asarray(target[start : start + _TILE])))
    return np.concatenate(parts).astype(np.float64)


def _suspect(inspector: Inspector, gallery: Gallery, told: Suspicions, place: int) -> Suspect:
    effects = told.effects.take(np.array([place]))
    unit, example = int(effects.units[0]), int(effects.targets[0])
    words = inspector.taken_words(example)
    return Suspect(
        source=inspector.unit_title(unit),
        target=inspector.example_title(example) + (f", {words}" if words else ""),
        source_image=np.asarray(gallery.source[int(inspector.source_of_unit[unit])]),
        target_image=inspector.example_images([example])[0],
        influence=float(effects.influence[0]),
        low=entry(effects.low, 0),
        high=entry(effects.high, 0),
        z=entry(effects.z, 0),
        rank=int(told.rank[place]),
        similarity=float(told.similarity[place]),
        verdict=told.verdicts[place],
        lead=float(told.lead[place]) if told.rank[place] == 1 else None,
    )


def _tally(inspector: Inspector, told: Suspicions) -> dict[str, Figure]:
    texts = {
        "both": "pairs that influence and similarity suspect",
        "influence only": "pairs that influence alone suspects",
        "similarity only": "pairs that similarity alone suspects",
    }
    return {name: inspector.count_figure(told.verdicts.count(name), text, "pairs") for name, text in texts.items()}


def _suspects_words(kind: str, told: Suspicions, level: float, least_similarity: float) -> str:
    what = "helps most" if kind == "leakage" else "harms most"
    by = f"beyond noise (q < {level:g})" if told.effects.q is not None else "more than twice as much as the next"
    return (
        f"For each test image, the source image that {what} ({by}), and the one that looks most like it (similarity of "
        f"{least_similarity:g} or more), whose influence is judged among such pairs alone. {told.count('both')} pairs "
        f"are suspected by both, {told.count('influence only')} by influence only, {told.count('similarity only')} by "
        "similarity only."
    )
