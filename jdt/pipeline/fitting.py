"""One output of one target, fitted in tiles of examples and judged on models held out: for runs of any size.

Several processes share the blocks that are read and the tiles that are fitted. Each reads its blocks, trades their rows
for all rows of the examples that it fits, and gives what it finds to all. Tiles are the same for any number of
processes, and so is every operation on their values.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from jdt import checks, exchange, store
from jdt.estimators import (
    Estimator,
    Influences,
    Joined,
    Level,
    from_arrays,
    influence_path,
    save_influences,
    tiles,
    to_arrays,
)
from jdt.evaluate import LDS, Groups, aggregate, by_class, lds, whole_task
from jdt.evaluate.lds import model_draws, with_intervals
from jdt.hosts import ALONE, Hosts
from jdt.pipeline.rows import Models, share_of
from jdt.types import Bool, Float

LEAST_HELD_OUT = 8
"""Models below which a held-out score says nothing and none is given."""
_RESAMPLES = 200


class HeldOut(NamedTuple):
    """How well a datamodel predicts models that it was not fitted to.

    Attributes:
      num_models: Models held out.
      r_squared: float `[examples]`: 1 - squared error over that of the mean output of the models fitted to; NaN where
        the output does not vary.
      lds: Linear datamodeling score over examples.
      baseline: The same of the trivial baseline: every example is predicted by the mean output over examples.
    """

    num_models: int
    r_squared: Float[np.ndarray, " examples"]
    lds: LDS
    baseline: LDS


class Fitted(NamedTuple):
    """Influences by level, the judgement (None where there are too few models for it), and where both are saved."""

    levels: dict[Level, Influences]
    held_out: HeldOut | None
    path: store.Place


def held_out_models(num_models: int, share: float, *, paired: bool, seed: int = 0) -> Bool[np.ndarray, " models"]:
    """Draw the models to hold out, pairs together; none where there would be fewer than `LEAST_HELD_OUT`.

    >>> int(held_out_models(100, 0.2, paired=True).sum()), int(held_out_models(20, 0.2, paired=False).sum())
    (20, 0)
    """
    size = 2 if paired else 1
    groups = num_models // size
    count = round(share * groups)
    chosen = np.zeros(groups, bool)
    if count * size >= LEAST_HELD_OUT and groups - count >= 2:
        chosen[np.random.default_rng(seed).permutation(groups)[:count]] = True
    return np.repeat(chosen, size)


def fit_target(
    run: store.Run,
    target: str,
    mode: str,
    output: str,
    estimator: Estimator,
    *,
    models: Models,
    tile: int,
    at_once: int = 1,
    held_out: float = 0.1,
    hosts: Hosts = ALONE,
    progress: Callable[[int, int], None] | None = None,
) -> Fitted:
    """Fit an estimator to one output of a target at every level, save the influences in the run, and judge them.

    Levels are the examples, the target classes where labels are known, and the whole task. What is saved rests on all
    usable models; the judgement on a second fit, without those held out. Its scores of each example are saved as
    `held_out_r_squared` and `held_out_lds`, and are in the `info` of the example level.

    Args:
      run: Any run, imported ones included.
      target: Which target.
      mode: Which mode.
      output: Which output of every example.
      estimator: Which estimator.
      models: As `usable_models` gives them.
      tile: Examples fitted together.
      at_once: Examples whose outputs a process may have in memory, a tile at least: every so many, all blocks are read.
      held_out: Share of the models to hold out; 0 for no judgement.
      hosts: The processes that share the work. All return the same; the first alone saves it.
      progress: Called with (examples done, examples in all).

    Raises:
      UserError: If the run does not hold the output, or as the estimator.
    """
    if output == "prediction":
        raise checks.UserError(
            "output 'prediction' is a class number, of which there is no influence: ask for another."
        )
    run = run.holding(target)
    column, count = run.output_column(target, mode, output), run.layout.num_examples[target]
    own = share_of(run, hosts)
    usable = np.isin(own.complete, run.complete[models.kept])
    with exchange.in_step(hosts):
        labelled = run.target(target)
        classes = by_class(labelled.labels, labelled.class_names)
        groups = {"task": whole_task(count, target), **({"class": classes} if classes.names else {})}
        own_means = _means(own, column, usable, groups)
    parts = exchange.gather(own_means, hosts)
    means = {kind: np.concatenate([part[kind] for part in parts]) for kind in groups}
    joined, judge = Joined(count), None
    test = held_out_models(len(models.masks), held_out, paired=models.paired) if held_out else None
    with exchange.in_step(hosts):
        if test is not None and test.any():
            judge = _Judge(estimator, models, test, means["task"], count)
    for places, values in _tiles(own, (target, mode, output), usable, list(tiles(count, tile)), at_once // tile, hosts):
        found: dict[str, np.ndarray] = {}
        with exchange.in_step(hosts):
            if values is not None:
                found = to_arrays(estimator.fit(models.masks, values, paired=models.paired))
                found |= {} if judge is None else judge.scores(values)
        for where, part in zip(places, exchange.gather(found, hosts), strict=False):
            joined.add(where, from_arrays(part))
            if judge is not None:
                judge.add(where, part)
            if progress is not None:
                progress(where.stop, count)
    path = influence_path(run.path, target, mode, output, estimator.name)
    with exchange.in_step(hosts):
        scores = None if judge is None else judge.verdict()
        levels: dict[Level, Influences] = {"example": _with_scores(joined.influences(), scores)}
        for level in ("class", "task"):
            if level in means:
                fitted = estimator.fit(models.masks, means[level], paired=models.paired)
                levels[level] = dataclasses.replace(fitted, target_names=groups[level].names)
        levels = {
            level: dataclasses.replace(one, unit_names=run.unit_names, output=output) for level, one in levels.items()
        }
        if hosts.index == 0:
            save_influences(
                path,
                levels,
                class_names=classes.names,
                attributes={"target": target, "mode": mode, "left_out": list(models.left_out)},
            )
    return Fitted(levels, scores, path)


def _with_scores(found: Influences, scores: HeldOut | None) -> Influences:
    if scores is None:
        return found
    added = {
        "held_out_models": scores.num_models,
        "held_out_r_squared": scores.r_squared,
        "held_out_lds": scores.lds.per_target,
    }
    return dataclasses.replace(found, info={**found.info, **added})


def _means(
    run: store.Run, column: str, usable: Bool[np.ndarray, " own_models"], groups: dict[str, Groups]
) -> dict[str, Float[np.ndarray, "models groups"]]:
    """Mean outputs of each kind of group, from blocks that are read once."""
    parts = [{kind: np.empty((0, len(one.names))) for kind, one in groups.items()}]
    parts += [{kind: aggregate(values, one) for kind, one in groups.items()} for values in run.blocks(column)]
    return {kind: np.concatenate([part[kind] for part in parts])[usable] for kind in groups}


def _tiles(
    own: store.Run, which: tuple[str, str, str], usable: Bool[np.ndarray, " own_models"], places: list[slice],
    of_each: int, hosts: Hosts,
) -> Iterator[tuple[list[slice], Float[np.ndarray, "models tile"] | None]]:  # fmt: skip
    """Go through tiles of outputs, one for each process at a time.

    Args:
      own: This process's share of the run.
      which: Target, mode and output.
      usable: Which of its models are.
      places: Where the tiles are, in order.
      of_each: Tiles that a process has in memory; every so many, it reads its share of the blocks.
      hosts: The processes.

    Yields:
      Where the tiles of the processes are, in their order, and this one's outputs of all usable models; None where
      there are no tiles for all.
    """
    n = hosts.count
    size = n * min(max(1, of_each), -(-len(places) // n))
    for wave in (places[i : i + size] for i in range(0, len(places), size)):
        first, stop = wave[0].start, wave[-1].stop
        with exchange.in_step(hosts):
            rows = own.outputs(*which, examples=slice(first, stop))[usable]
            cut = [rows[:, place.start - first : place.stop - first] for place in wave]
            # Neighbours go to different processes, so that what these find comes in the order of the tiles.
            sent = [np.concatenate([rows[:, :0], *cut[i::n]], axis=1) for i in range(n)]
        values, read = exchange.trade(sent, hosts), 0
        del rows, cut, sent
        for step in (wave[i : i + n] for i in range(0, len(wave), n)):
            if hosts.index >= len(step):
                yield step, None
                continue
            stop = read + step[hosts.index].stop - step[hosts.index].start
            # In one piece, as sums over models may depend on how they lie in memory.
            yield step, np.ascontiguousarray(values[:, read:stop])
            read = stop


class _Judge:
    """Scores of a fit without the held-out models, gathered tile by tile."""

    def __init__(
        self,
        estimator: Estimator,
        models: Models,
        test: Bool[np.ndarray, " models"],
        task: Float[np.ndarray, "models one"],
        num_examples: int,
    ) -> None:
        self._estimator, self._paired, self._test = estimator, models.paired, test
        self._masks = {"fit": models.masks[~test], "test": models.masks[test]}
        trivial = estimator.fit(self._masks["fit"], task[~test], paired=models.paired)
        self._trivial = trivial.predict(self._masks["test"])
        self._r_squared = np.full(num_examples, np.nan, np.float32)
        self._scores = {name: np.zeros(num_examples, np.float32) for name in ("datamodel", "baseline")}
        self._draws = {name: np.zeros(_RESAMPLES) for name in self._scores}

    def scores(self, values: Float[np.ndarray, "models targets"]) -> dict[str, np.ndarray]:
        """Fit to one tile and score it."""
        fit, test = values[~self._test], values[self._test]
        predicted = self._estimator.fit(self._masks["fit"], fit, paired=self._paired).predict(self._masks["test"])
        error = ((test - predicted) ** 2).sum(axis=0, dtype=np.float64)
        spread = ((test - fit.mean(axis=0)) ** 2).sum(axis=0, dtype=np.float64)
        found = {"held_out/r_squared": 1 - np.divide(error, spread, out=np.full(len(error), np.nan), where=spread > 0)}
        guesses = {"datamodel": predicted, "baseline": np.broadcast_to(self._trivial, test.shape)}
        for name, guess in guesses.items():
            guess = guess.astype(test.dtype)
            found[f"held_out/{name}"] = lds(guess, test)
            # Equal seeds draw equal models, so that means over tiles add up to the mean over all examples.
            found[f"held_out/{name}_draws"] = model_draws(guess, test, paired=self._paired, resamples=_RESAMPLES)
        return found

    def add(self, where: slice, scores: Mapping[str, np.ndarray]) -> None:
        """Take the scores of one tile; tiles come in order."""
        self._r_squared[where] = scores["held_out/r_squared"]
        share = (where.stop - where.start) / len(self._r_squared)
        for name in self._scores:
            self._scores[name][where] = scores[f"held_out/{name}"]
            self._draws[name] += share * scores[f"held_out/{name}_draws"]

    def verdict(self) -> HeldOut:
        """The scores of all examples, with intervals."""
        own, baseline = (
            with_intervals(self._scores[name], self._draws[name], level=0.95, seed=0)
            for name in ("datamodel", "baseline")
        )
        return HeldOut(int(self._test.sum()), self._r_squared, own, baseline)
