"""What a study of bias transfer must show, and whether it does.

The bars are those of section 6 of the specification of arXiv 2207.02842 (B2 to B8) and of the blame of planted units.
They are not to be tuned: where one is missed, more data, width or epochs are what is to be changed.
"""

import itertools
from collections.abc import Sequence

import numpy as np

import jdt
from experiments.bias_blame import ALL, BLAMED, Blame
from experiments.bias_measures import ACCURACY, ASR, SHIFT, SKEW, Measured, find
from experiments.bias_setup import CLEAN, SCRATCH, Study
from experiments.verdicts import Verdict

TRANSFERS, ACCURACY_GAP, WEAKER_SEEDS = 0.30, 0.02, 0.8
"""B2: least gap of attack success in fixed mode. B3: clean accuracies agree; share of seeds where full is weaker."""
DECAY_CORRELATION, DECAY_VALUES, FIXED_CHANGE = -0.7, 5, 1 / 3
"""B4: Spearman of decay and attack success in full mode, over so many values; change in fixed mode, of that in full."""
DEBIASED, DEBIAS_SHARE = 0.05, 0.5
"""B5: distance to the clean twin where so many target training images carry the pattern."""
PLANTED_AUROC = 0.95
"""A unit that carries the pattern must be above one that does not so often; of the bias, what B5 allows may be left."""
SHAM, NULL_SKEW = 0.03, 0.03
"""A sham must not transfer more, anywhere; the skew of a source without correlation. Both in absolute value."""


def judge(study: Study, measured: Sequence[Measured]) -> list[Verdict]:
    """Every requirement that a study of this kind can meet, for every target and trigger."""
    verdicts = []
    for target in [one.name for one in study.base.targets]:
        if study.kind == "group":
            verdicts += _group(study, measured, target)
            continue
        for trigger in study.triggers:
            mine = [one for one in measured if one.variant.target == target]
            verdicts += [
                _fixed(target, trigger, mine),
                _full(target, trigger, mine),
                _decay(target, trigger, mine),
                _debias(target, trigger, mine),
                *(_natural(target, trigger, mode, mine) for mode in study.task.modes),
            ]
        verdicts.append(_sham(study, target, measured))
    return [one for one in verdicts if one.passed is not None]


def judge_blame(study: Study, blame: Blame) -> list[Verdict]:
    """Whether the units that carry the pattern are blamed, and whether models without the blamed ones lack the bias."""
    verdicts = []
    if blame.auroc is not None:
        words = f"AUROC {blame.auroc.value:.3f}, at least {PLANTED_AUROC}"
        if blame.control is not None:
            words += f"; permuted masks {blame.control.value:.3f}"
        verdicts.append(Verdict("units that carry the pattern are blamed", blame.auroc.value >= PLANTED_AUROC, words))
    if not blame.dropped:
        return verdicts
    # The twin keeps all units: without those that carry the pattern both would be trained on the same images.
    twin = blame.attack[study.twin, ALL]
    gaps = {what: jdt.analyses.paired(blame.attack[blame.pattern, what], twin) for what in (ALL, BLAMED)}
    if np.isfinite(gaps[BLAMED].mean):
        words = (
            f"attack success above the twin that has all units {_difference(gaps[BLAMED])}, before "
            f"{_difference(gaps[ALL])}; "
            f"at most {_points(DEBIASED)} are to be left"
        )
        name = f"without the {blame.dropped} blamed units the bias is gone"
        verdicts.append(Verdict(name, abs(gaps[BLAMED].mean) <= DEBIASED, words))
    return verdicts


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"


def _difference(found: jdt.analyses.Difference) -> str:
    return f"{_points(found.mean)} points ({_points(found.low)} to {_points(found.high)})"


def _one(measured: Sequence[Measured], **what: object) -> Measured | None:
    found = find(measured, **{"plain": True, **what})  # pyright: ignore[reportArgumentType]
    return found[0] if found else None


def _fixed(target: str, trigger: str, mine: Sequence[Measured]) -> Verdict:
    name = f"B2, {trigger} comes along to {target} with fixed features"
    one = _one(mine, metric=ASR, mode="fixed", pattern=trigger, arm=trigger)
    if one is None or one.transfer is None:
        return Verdict(name, None, "")
    gap = one.transfer
    if not np.isfinite(gap.low):
        return Verdict(name, None, "")
    passed = gap.mean >= TRANSFERS and gap.low > 0
    return Verdict(name, passed, f"attack success ({one.pushed_to}) {_difference(gap)}, at least {_points(TRANSFERS)}")


def _full(target: str, trigger: str, mine: Sequence[Measured]) -> Verdict:
    name = f"B3, {trigger} on {target} is weaker in the full network"
    found = {
        (mode, arm): _one(mine, metric=ASR, mode=mode, pattern=trigger, arm=arm)
        for mode in ("fixed", "full")
        for arm in (trigger, CLEAN)
    }
    if any(one is None for one in found.values()):
        return Verdict(name, None, "")
    values = {key: one.values for key, one in found.items() if one is not None}
    gaps = {mode: values[mode, trigger] - values[mode, CLEAN] for mode in ("fixed", "full")}
    weaker = gaps["full"] < gaps["fixed"]
    apart = {}
    for mode in gaps:
        one = _one(mine, metric=ACCURACY, mode=mode, pattern=trigger, arm=trigger)
        apart[mode] = abs(one.transfer.mean) if one is not None and one.transfer is not None else float("nan")
    passed = bool(weaker.mean() >= WEAKER_SEEDS and max(apart.values()) <= ACCURACY_GAP)
    words = (
        f"in {weaker.sum()} of {len(weaker)} seeds ({_points(gaps['full'].mean())} against "
        f"{_points(gaps['fixed'].mean())} points); accuracies of biased and clean models differ by "
        f"{100 * apart['fixed']:.1f} (fixed) and {100 * apart['full']:.1f} points (full), at most "
        f"{100 * ACCURACY_GAP:.0f}"
    )
    return Verdict(name, passed, words)


def _sweep(mine: Sequence[Measured], trigger: str, mode: str) -> tuple[np.ndarray, np.ndarray]:
    """Decays and attack success of biased models at each, `[decays, seeds]`."""
    found = [
        one
        for one in find(mine, metric=ASR, mode=mode, pattern=trigger, arm=trigger)
        if one.variant.decay is not None and (one.variant.fraction, one.variant.debias) == (1.0, 0.0)
    ]
    found.sort(key=lambda one: one.variant.decay or 0.0)
    decays = np.array([one.variant.decay for one in found], float)
    return decays, np.array([one.values for one in found])


def _decay(target: str, trigger: str, mine: Sequence[Measured]) -> Verdict:
    name = f"B4, weight decay on {target} matters in the full network and not with fixed features ({trigger})"
    decays, full = _sweep(mine, trigger, "full")
    _, fixed = _sweep(mine, trigger, "fixed")
    if len(decays) < DECAY_VALUES or len(fixed) != len(full):
        return Verdict(name, None, "")
    means = np.nanmean(full, axis=1), np.nanmean(fixed, axis=1)
    correlation = float(jdt.analyses.sweep_correlation(decays, means[0][:, None])[0])
    changes = [float(np.nanmax(mean) - np.nanmin(mean)) for mean in means]
    passed = bool(correlation <= DECAY_CORRELATION and changes[1] <= FIXED_CHANGE * changes[0])
    words = (
        f"Spearman {correlation:.2f} (at most {DECAY_CORRELATION}), attack success changes by {100 * changes[0]:.1f} "
        f"points in full and {100 * changes[1]:.1f} in fixed mode (at most a third of that), {len(decays)} values"
    )
    return Verdict(name, passed, words)


def _debias(target: str, trigger: str, mine: Sequence[Measured]) -> Verdict:
    name = f"B5, {trigger} on {DEBIAS_SHARE:.0%} of the training images of {target} removes it"
    found = [
        one
        for one in find(mine, metric=ASR, pattern=trigger, arm=trigger)
        if one.variant.debias == DEBIAS_SHARE and one.variant.pattern == trigger
        and (one.variant.fraction, one.variant.decay) == (1.0, None)
    ]  # fmt: skip
    gaps = [one.transfer for one in found if one.transfer is not None]
    if not gaps:
        return Verdict(name, None, "")
    words = ", ".join(f"{one.mode} {_difference(gap)}" for one, gap in zip(found, gaps, strict=True))
    passed = all(abs(gap.mean) <= DEBIASED for gap in gaps)
    return Verdict(name, passed, f"left of the difference to the clean twin: {words}; at most {_points(DEBIASED)}")


def _natural(target: str, trigger: str, mode: str, mine: Sequence[Measured]) -> Verdict:
    """Where the sham is the pattern's pixels in another order: is it the pattern that moves its models?"""
    name = f"B8, {trigger} moves models of its source more than models from scratch on {target} ({mode}), shuffled not"
    excess = {}
    # From scratch means a network that was trained on the target, where there is one: under a head alone it is random.
    from_scratch = "full" if _one(mine, metric=SHIFT, mode="full", pattern=trigger, arm=SCRATCH) else mode
    for pattern in (trigger, "shuffled"):
        own = _one(mine, metric=SHIFT, mode=mode, pattern=pattern, arm=trigger)
        scratch = _one(mine, metric=SHIFT, mode=from_scratch, pattern=pattern, arm=SCRATCH)
        if own is None or scratch is None:
            return Verdict(name, None, "")
        excess[pattern] = jdt.analyses.paired(own.values, scratch.values)
        if not np.isfinite(excess[pattern].low):
            return Verdict(name, None, "")
    passed = bool(excess[trigger].low > 0 and not excess["shuffled"].low > 0)
    words = (
        f"total shift above that of scratch {_difference(excess[trigger])}, shuffled {_difference(excess['shuffled'])}"
    )
    return Verdict(name, passed, words)


def _sham(study: Study, target: str, measured: Sequence[Measured]) -> Verdict:
    """The largest difference of a sham over variants, modes and source variants."""
    name = f"sham on {target}"
    shams = [
        one
        for one in find(measured, metric=ASR, target=target)
        if one.pattern in study.shams and one.arm in study.triggers and one.transfer is not None
    ]
    there = [(gap, one) for one in shams if (gap := one.transfer) is not None and np.isfinite(gap.mean)]
    if not there:
        return Verdict(name, None, "")
    gap, worst = max(there, key=lambda pair: abs(pair[0].mean))
    missing = f", {len(shams) - len(there)} more are missing" if len(there) < len(shams) else ""
    words = f"largest of {len(there)} differences {_difference(gap)}, on {worst.variant.name} ({worst.mode}){missing}"
    return Verdict(name, abs(gap.mean) < SHAM, f"{words}; below {100 * SHAM:.0f} in absolute value")


def _group(study: Study, measured: Sequence[Measured], target: str) -> list[Verdict]:
    null, *correlated = study.members
    skews = find(measured, metric=SKEW, mode="fixed", target=target)
    skews = [one for one in skews if one.variant.decay is None]
    balanced = {one.arm: one for one in skews if one.variant.composition == 0.5}
    verdicts = []
    for arm in correlated:
        one, control = balanced.get(arm), balanced.get(null)
        if one is not None and one.transfer is not None and control is not None:
            level = float(np.nanmean(control.values))
            verdicts.append(
                Verdict(
                    f"B6, {arm} skews {target} with a balanced target",
                    bool(one.transfer.low > 0 and abs(level) <= NULL_SKEW),
                    f"skew {_difference(one.transfer)} above that of {null}, which is {_points(level)} "
                    f"(within {100 * NULL_SKEW:.0f})",
                )
            )
        shares = sorted((o.variant.composition or 0.0, float(np.nanmean(o.values))) for o in skews if o.arm == arm)
        if len(shares) >= 3:
            falls = all(first[1] <= second[1] for first, second in itertools.pairwise(shares))
            listed = ", ".join(f"{share:.0%}: {_points(skew)}" for share, skew in reversed(shares))
            verdicts.append(
                Verdict(
                    f"B7, {arm} skews {target} the more, the less of group 0 it has", falls, f"skew by share {listed}"
                )
            )
    return verdicts
