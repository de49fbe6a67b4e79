"""What it is worth to drop noisy source labels, or to correct them: models trained anew without the suspects."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

import jdt
from experiments.noise_rankings import CONFIDENT, INFLUENCE, RANKINGS, Found
from experiments.noise_setup import Config, relabelled
from experiments.noise_subruns import clean_images, folder, train

REPAIRED = "suspects-repaired"
"""Folder of the run; it ends in a digest of what its models are trained on: more models may suspect other examples."""
NOISY, ORACLE, RANDOM = "noisy", "true flips dropped", "random dropped"
"""Arms beside those of the rankings."""


@dataclasses.dataclass(frozen=True, eq=False)
class Repair:
    """What it is worth to drop or relabel suspects.

    All models take as many steps as those of the whole source in their epochs, whatever is dropped. Models of one seed
    share initial values and order, and differ in their labels alone.

    Attributes:
      run: Folder of the run that holds the models.
      dropped: How many suspects each arm drops or relabels.
      target: Name of the target of `transfer`.
      mode: Mode of `transfer`.
      wrong: Arm -> wrong labels that are left in it.
      accuracy: Arm -> float64 `[seeds]`: on the clean source images that scored nobody, of classes that the arm has.
      transfer: Arm -> float64 `[seeds]`: on the target's test split.
      gain: Arm -> its accuracy minus that of `NOISY`, paired over seeds.
      transfer_gain: The same of transfer.
    """

    run: str
    dropped: int
    target: str
    mode: str
    wrong: Mapping[str, int]
    accuracy: Mapping[str, np.ndarray]
    transfer: Mapping[str, np.ndarray]
    gain: Mapping[str, jdt.analyses.Difference]
    transfer_gain: Mapping[str, jdt.analyses.Difference]


def suspected(scores: np.ndarray, count: int) -> np.ndarray:
    """The examples of largest score, bool `[examples]`; those without a score come last and are never taken.

    >>> suspected(np.array([0.1, np.nan, 0.7, 0.3]), 2).tolist()
    [False, False, True, True]
    """
    found = np.zeros(len(scores), bool)
    order = np.argsort(-scores, kind="stable")  # NaN last.
    found[order[: min(count, int(np.isfinite(scores).sum()))]] = True
    return found


def pool_of(
    source: jdt.data.Dataset, likely: np.ndarray, corrected: np.ndarray
) -> tuple[jdt.data.Dataset, np.ndarray, np.ndarray]:
    """The source with another version of some examples beside them: the same image under another label.

    Args:
      source: With labels as given.
      likely: int `[examples]`: the other label.
      corrected: bool `[examples]`: who has another version.

    Returns:
      The pool; int `[pool]`, whose version each is; bool `[pool]`, whether it has the other label.
    """
    of = np.repeat(np.arange(len(source)), 1 + corrected)
    other = np.r_[False, of[1:] == of[:-1]]
    labels = np.where(other, likely[of], np.asarray(source.labels)[of])
    pool = relabelled(source.part(of), labels, f"{source.name}, with corrections")
    return dataclasses.replace(pool, version_of=np.searchsorted(of, of).astype(np.int32)), of, other


def repaired(
    config: Config,
    base: jdt.pipeline.Task,
    noisy: jdt.data.Dataset,
    found: Found,
    halves: jdt.analyses.Halves,
    hosts: jdt.hosts.Hosts,
    say: Callable[..., None],
) -> tuple[bool, Repair | None]:
    """Models without the suspects, and with their labels corrected, beside models of the noisy source.

    Returns:
      Whether nothing more is to be trained; what came out, or None where nobody is dropped.
    """
    count = int(found.picked.sum()) if config.drop is None else config.drop
    if not count:
        say("confident learning picks nobody, so that none is dropped: pass --drop to drop some.")
        return True, None
    inside = base.units.of_example != jdt.masks.OUTSIDE
    chosen = {name: suspected(found.rankings[name].scores, count) for name in RANKINGS}
    corrected = {
        name: chosen[name] & (found.likely != found.given) & (found.likely >= 0) for name in (INFLUENCE, CONFIDENT)
    }
    pool, of, other = pool_of(noisy, found.likely, np.logical_or.reduce(list(corrected.values())))
    arms, rows = _arms(config, found, chosen, corrected, inside, of, other)
    names = [f"{arm} {i}" for i, arm in enumerate(arms)]
    units, masks = jdt.masks.atoms(np.stack(rows), names)
    ids = jdt.analyses.FIRST_RETRAINED_ID + np.repeat(np.arange(config.seeds), len(rows) // config.seeds)
    target, mode = dataclasses.replace(base.targets[0], views=()), base.modes[0]
    judging = clean_images(base).part(np.flatnonzero(halves.report), f"{clean_images(base).name}, half that judges")
    task = dataclasses.replace(
        base,
        source=pool,
        source_test=judging,
        units=units,
        targets=(target,),
        modes=(mode,),
        design=jdt.masks.Listed(masks, ids, config.seed),
        num_models=len(masks),
        baseline_models=0,
        pool_size=jdt.pipeline.pool_size(pool, config.memory_budget, config.recipe),
    )
    name = f"{REPAIRED}-{jdt.config.fingerprint([pool.fingerprint, *(np.packbits(one).tolist() for one in rows)])[:8]}"
    say(f"{len(masks)} models are trained without {count} suspects, or with their labels corrected.")
    more = {"design": {"kind": "listed", "seed": config.seed}, "arms": sorted(set(arms)), "dropped": count}
    if not train(config, name, task, hosts, say, more, save_models=False)[1]:
        return False, None
    run = jdt.open_run(folder(config, name))
    wrong = pool.labels != np.asarray(base.source.labels)[of]
    mine = {arm: np.array([arm == one for one in arms]) for arm in dict.fromkeys(arms)}
    accuracy = run.column("source/accuracy")
    moved = run.column(f"targets/{target.name}/{mode}/accuracy")
    by_arm = {arm: np.asarray(accuracy[rows_of], np.float64) for arm, rows_of in mine.items()}
    transfer = {arm: np.asarray(moved[rows_of], np.float64) for arm, rows_of in mine.items()}
    return True, Repair(
        run=name,
        dropped=count,
        target=target.name,
        mode=mode,
        wrong={arm: int((rows[arms.index(arm)] & wrong).sum()) for arm in mine},
        accuracy=by_arm,
        transfer=transfer,
        gain={arm: jdt.analyses.paired(values, by_arm[NOISY]) for arm, values in by_arm.items()},
        transfer_gain={arm: jdt.analyses.paired(values, transfer[NOISY]) for arm, values in transfer.items()},
    )


def _arms(
    config: Config,
    found: Found,
    chosen: Mapping[str, np.ndarray],
    corrected: Mapping[str, np.ndarray],
    inside: np.ndarray,
    of: np.ndarray,
    other: np.ndarray,
) -> tuple[list[str], list[np.ndarray]]:
    """Name and members of every model, seed by seed, so that more seeds are more models at the end."""
    nobody = np.zeros(len(inside), bool)

    def row(gone: np.ndarray, changed: np.ndarray) -> np.ndarray:
        return (inside & ~gone)[of] & (other == changed[of])

    arms: list[str] = []
    rows: list[np.ndarray] = []
    count = int(next(iter(chosen.values())).sum())
    for seed in range(config.seeds):
        anyone = nobody.copy()
        anyone[jdt.plant.draws(config.seed, "random suspects", seed).permutation(np.flatnonzero(inside))[:count]] = True
        made = {
            NOISY: row(nobody, nobody),
            ORACLE: row(found.planted, nobody),
            **{f"dropped by {name}": row(chosen[name], nobody) for name in RANKINGS},
            RANDOM: row(anyone, nobody),
            **{f"relabelled by {name}": row(nobody, corrected[name]) for name in corrected},
        }
        arms += list(made)
        rows += list(made.values())
    return arms, rows
