"""Statistics of paired comparisons: intervals over seeds, scenes and both, tests, effect sizes, power.

Pure functions on arrays; what a metric or a run is, is not known here. A difference is variant minus base
with the same seed on the same pairs. Why each method was chosen: docs/decisions/0009-statistics.md.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int
from scipy import special

CONFIDENCE = 0.95
"""Of every interval."""

POWER = 0.8
"""The chance to see an effect that "seeds needed" and "smallest visible difference" are about."""

FEWEST_SCENES = 8
"""With fewer scenes there is no interval over scenes: resampling so few covers less than 95 %."""

DRAWS = 4000
"""Bootstrap samples of an interval: its ends then vary by a hundredth of its width from draw to draw."""

MOST_SEEDS = 10_000
"""More seeds than anyone would run: `seeds_needed` looks no further."""


class Paired(NamedTuple):
    """The mean of paired differences with its t interval and two-sided p; NaN where there is none."""

    difference: Float64[np.ndarray, "..."]
    low: Float64[np.ndarray, "..."]
    high: Float64[np.ndarray, "..."]
    p: Float64[np.ndarray, "..."]


class Interval(NamedTuple):
    """The ends of 95 % intervals; NaN where there is none."""

    low: Float64[np.ndarray, "..."]
    high: Float64[np.ndarray, "..."]


class Crossed(NamedTuple):
    """An interval and a two-sided p over seeds and scenes together; NaN where there is none.

    `error` is the standard error of the mean difference, `freedom` its degrees of freedom.
    """

    low: Float64[np.ndarray, "..."]
    high: Float64[np.ndarray, "..."]
    p: Float64[np.ndarray, "..."]
    error: Float64[np.ndarray, "..."]
    freedom: Float64[np.ndarray, "..."]


class Sums(NamedTuple):
    """Sums of metrics, or of their parts, by scene: over any set of scenes, a part is total / weight."""

    totals: Float64[np.ndarray, "... P"]
    weights: Float64[np.ndarray, "... P"]

    def over_scenes(self) -> "Sums":
        """The sums of all scenes, of "... C P"."""
        return Sums(self.totals.sum(axis=-2), self.weights.sum(axis=-2))


class Omission(NamedTuple):
    """Differences without their most favourable scene, per metric."""

    scene: Int[np.ndarray, " M"]
    difference: Float64[np.ndarray, " M"]
    crossed: Crossed


def paired_t(differences: Float64[np.ndarray, "S ..."]) -> Paired:
    """Student's paired t over seeds: valid at any number of seeds if differences are roughly normal.

    One seed has no interval and no p. Differences that agree to the last digit but are not zero come from
    runs that are no replicates: no interval either. Differences of exactly zero are [0, 0] with p = 1.
    """
    seeds = len(differences)
    mean = differences.mean(axis=0)
    if seeds < 2:
        unknown = np.full_like(mean, np.nan)
        return Paired(mean, unknown, unknown, unknown)
    spread = differences.std(axis=0, ddof=1)
    same = spread <= 1e-12 * np.abs(mean)
    error = np.where(same, np.where(mean == 0, 0.0, np.nan), spread / np.sqrt(seeds))
    half = t_quantile((1 + CONFIDENCE) / 2, seeds - 1) * error
    t = np.abs(mean) / np.where(error > 0, error, np.nan)
    p = np.where(error == 0, 1.0, 2 * special.stdtr(seeds - 1, -t))
    return Paired(mean, mean - half, mean + half, p)


def t_quantile(probability: float, degrees: float | int) -> float:
    """Student's t quantile."""
    return float(special.stdtrit(degrees, probability))


def scene_draws(scenes: int, draws: int = DRAWS) -> Float64[np.ndarray, "R C"]:
    """How often each scene is in each bootstrap sample; the same draws for the same number of scenes."""
    counts = np.random.default_rng(scenes).multinomial(scenes, np.full(scenes, 1 / scenes), size=draws)
    return counts.astype(np.float64)


def pooled(sums: Sums, parts: Float64[np.ndarray, "P M"]) -> Float64[np.ndarray, "... M"]:
    """Sums as metrics: the mean of total / weight over a metric's parts; NaN where none has any weight.

    A part without weight is left out: a class that is in no pixel of these scenes has no score.
    """
    there = (sums.weights > 0).astype(np.float64)
    values = np.divide(sums.totals, sums.weights, out=np.zeros_like(sums.totals), where=there > 0)
    count = there @ parts
    means: Float64[np.ndarray, "... M"] = (values @ parts) / np.where(count > 0, count, np.nan)
    return means


def drawn_means(
    runs: Sums, parts: Float64[np.ndarray, "P M"], draws: Float64[np.ndarray, "R C"]
) -> Float64[np.ndarray, "R M"]:
    """The mean over runs of metrics pooled over each bootstrap sample of scenes."""
    each = [
        pooled(Sums(draws @ totals, draws @ weights), parts)
        for totals, weights in zip(runs.totals, runs.weights, strict=True)
    ]
    mean: Float64[np.ndarray, "R M"] = np.mean(each, axis=0)
    return mean


def scene_interval(drawn: Float64[np.ndarray, "R M"], scenes: Float64[np.ndarray, " M"]) -> Interval:
    """Bootstrap over scenes, one interval per column.

    A scene is drawn whole and with both variants: its frames are not independent (Field & Welsh, JRSS B
    2007). Percentiles are widened by the t quantile and sqrt(n / (n - 1)) (Hesterberg, The American
    Statistician 69(4), 2015, "expanded percentile"), as plain ones cover too little with few scenes.

    Args:
        drawn: The quantity, in each sample of `scene_draws`.
        scenes: How many scenes it is of: those that have any weight.
    """
    low, high = np.full(len(scenes), np.nan), np.full(len(scenes), np.nan)
    for count in np.unique(scenes[scenes >= FEWEST_SCENES]):
        columns = scenes == count
        tail = special.ndtr(t_quantile((1 - CONFIDENCE) / 2, int(count) - 1) * np.sqrt(count / (count - 1)))
        low[columns], high[columns] = np.nanquantile(drawn[:, columns], [tail, 1 - tail], axis=0)
    return Interval(low, high)


def difference_over_scenes(
    variant: Sums, base: Sums, parts: Float64[np.ndarray, "P M"], draws: Float64[np.ndarray, "R C"]
) -> Interval:
    """The interval over scenes of the difference of pooled metrics, mean over seeds; sums are "S C P"."""
    drawn = drawn_means(variant, parts, draws) - drawn_means(base, parts, draws)
    return scene_interval(drawn, scene_counts(variant, base, parts))


def scene_counts(variant: Sums, base: Sums, parts: Float64[np.ndarray, "P M"]) -> Float64[np.ndarray, " M"]:
    """How many scenes have any weight in any run, per metric."""
    weights: Float64[np.ndarray, "C M"] = (variant.weights + base.weights).sum(axis=0) @ parts
    counts: Float64[np.ndarray, " M"] = (weights > 0).sum(axis=0).astype(np.float64)
    return counts


def crossed_interval(variant: Sums, base: Sums, parts: Float64[np.ndarray, "P M"]) -> Crossed:
    """The interval of the mean difference over other seeds and other scenes at once; sums are "S C P".

    Seeds and scenes are crossed random effects: the difference of seed s on scene c is
    mean + seed effect + scene effect + rest. With the mean squares of a two-way analysis of variance,
    the variance of the mean is (MS_seed + MS_scene - MS_rest) / (S C), and its degrees of freedom are
    Satterthwaite's (Biometrics Bulletin 2(6), 1946). Of three seeds these are sometimes far too many: the
    interval is never narrower than Student's over seeds alone, or over scenes alone.

    A pooled metric is no mean of scenes: a scene's difference is linearised (its influence on the metric).
    There is no interval with one seed, nor with fewer than FEWEST_SCENES scenes of any weight.
    """
    by_seed = pooled(variant.over_scenes(), parts) - pooled(base.over_scenes(), parts)
    seeds, scenes = len(by_seed), scene_counts(variant, base, parts)
    if seeds < 2:
        return Crossed(*np.full((5, len(scenes)), np.nan))
    scenes = np.where(scenes >= FEWEST_SCENES, scenes, np.nan)
    influence = scenes * (scene_influence(variant, parts) - scene_influence(base, parts))
    of_scene, difference = influence.mean(axis=0), by_seed.mean(axis=0)
    between_seeds = scenes * by_seed.var(axis=0, ddof=1)
    between_scenes = seeds * (of_scene**2).sum(axis=0) / (scenes - 1)
    rest = ((influence - of_scene) ** 2).sum(axis=(0, 1)) / ((seeds - 1) * (scenes - 1))
    squares = np.stack([between_seeds, between_scenes, rest])
    freedoms = np.stack([np.full_like(scenes, seeds - 1), scenes - 1, (seeds - 1) * (scenes - 1)])
    both = np.maximum(between_seeds + between_scenes - rest, 0.0)
    of_both = both**2 / np.maximum((squares**2 / freedoms).sum(axis=0), np.finfo(np.float64).tiny)
    errors = np.sqrt(np.stack([between_seeds, between_scenes, both]) / (seeds * scenes))
    freedoms = np.stack([freedoms[0], freedoms[1], np.maximum(of_both, 1.0)])
    halves = special.stdtrit(freedoms, (1 + CONFIDENCE) / 2) * errors
    widest = np.nan_to_num(halves).argmax(axis=0)
    half, error, freedom = (rows[widest, np.arange(len(scenes))] for rows in (halves, errors, freedoms))
    # Equal runs surely do not differ; runs that differ by one number everywhere are no replicates.
    error = np.where((error <= 1e-12 * np.abs(difference)) & (difference != 0), np.nan, error)
    t = np.abs(difference) / np.where(error > 0, error, np.nan)
    p = np.where(error == 0, 1.0, 2 * special.stdtr(freedom, -t))
    half = np.where(np.isnan(error), np.nan, half)
    return Crossed(difference - half, difference + half, p, error, freedom)


def scene_influence(runs: Sums, parts: Float64[np.ndarray, "P M"]) -> Float64[np.ndarray, "S C M"]:
    """The influence of each scene on a pooled metric: it sums to zero over the scenes of a run.

    Of a plain mean over C scenes of equal weight it is (own value - mean) / C (Hampel, Journal of the
    American Statistical Association 69, 1974).
    """
    whole = runs.over_scenes()
    weight = np.where(whole.weights > 0, whole.weights, np.inf)[:, None]
    residual = runs.totals - runs.weights * (whole.totals[:, None] / weight)
    count = (whole.weights > 0).astype(np.float64) @ parts
    influence: Float64[np.ndarray, "S C M"] = (residual / weight) @ parts
    return influence / np.where(count > 0, count, np.nan)[:, None]


def without_best_scene(variant: Sums, base: Sums, parts: Float64[np.ndarray, "P M"]) -> Omission:
    """Leaves out, per metric, the scene that speaks most for the sign that the whole difference has.

    Sums are "S C P", of runs of the same seeds. The scene is found by leaving out each in turn. Where one
    scene holds all the weight of a metric, nothing is left: NaN.
    """
    left = pooled(_others(variant), parts) - pooled(_others(base), parts)
    whole = pooled(variant.over_scenes(), parts) - pooled(base.over_scenes(), parts)
    sign = np.where(whole.sum(axis=0) < 0, -1.0, 1.0)
    scene = np.nan_to_num(left.mean(axis=0) * sign, nan=np.inf).argmin(axis=0)
    kept = np.ones(variant.totals.shape[1:])
    kept[scene[parts.argmax(axis=1)], np.arange(len(parts))] = 0
    own, other = (Sums(runs.totals * kept, runs.weights * kept) for runs in (variant, base))
    difference = left[:, scene, np.arange(len(scene))].mean(axis=0)
    return Omission(scene, difference, crossed_interval(own, other, parts))


def _others(runs: Sums) -> Sums:
    """The sums of all scenes but one, for each."""
    total, weight = (sums[:, None] for sums in runs.over_scenes())
    rest = weight - runs.weights
    # Rounding leaves a few ulp where nothing is left.
    return Sums(total - runs.totals, np.where(rest < 1e-9 * weight, 0.0, rest))


def probability_of_improvement(
    variant: Float64[np.ndarray, "S C M"], base: Float64[np.ndarray, "S C M"]
) -> Float64[np.ndarray, "C M"]:
    """Per scene, how often a run of the variant is below one of the base: all pairs of runs, ties half.

    Its mean over scenes is the probability of improvement of Agarwal et al. (NeurIPS 2021), with scenes for
    tasks. NaN for a scene that has no value.
    """
    ahead = base[:, None] - variant[None]
    wins: Float64[np.ndarray, "S S C M"] = (ahead > 0) + 0.5 * (ahead == 0)
    chance: Float64[np.ndarray, "C M"] = np.where(np.isnan(ahead), np.nan, wins).mean(axis=(0, 1))
    return chance


def holm(p: Float64[np.ndarray, " K"]) -> Float64[np.ndarray, " K"]:
    """P values adjusted for K tests (Holm, Scandinavian Journal of Statistics 6, 1979); NaN is no test."""
    adjusted = np.full_like(p, np.nan)
    order = np.argsort(p)[: np.isfinite(p).sum()]
    steps = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * steps), 1.0)
    return adjusted


def effect_size(differences: Float64[np.ndarray, "S ..."]) -> Float64[np.ndarray, "..."]:
    """Hedges' g of paired differences: mean / standard deviation, times the exact small-sample correction.

    The correction is J(f) = Gamma(f/2) / (sqrt(f/2) Gamma((f-1)/2)), f = seeds - 1 (Hedges, Journal of
    Educational Statistics 6(2), 1981). It needs three seeds: with two there is none, NaN.
    """
    seeds = len(differences)
    if seeds < 3:
        return np.full(differences.shape[1:], np.nan)
    freedom = seeds - 1
    gammas = special.gammaln(freedom / 2) - special.gammaln((freedom - 1) / 2)
    correction = np.exp(gammas) / np.sqrt(freedom / 2)
    spread = differences.std(axis=0, ddof=1)
    mean = differences.mean(axis=0)
    same = spread <= 1e-12 * np.abs(mean)
    return np.where(same, np.nan, correction * mean / np.where(same, 1, spread))


def power(shift: float, freedom: float | int) -> float:
    """The chance that a t test at 5 % sees a true difference of `shift` standard errors: noncentral t, both
    tails (Cohen, Statistical Power Analysis, 1988, 2.5)."""
    critical = t_quantile((1 + CONFIDENCE) / 2, freedom)
    tails = special.nctdtr(freedom, abs(shift), np.array([critical, -critical]))
    # Far from zero the lower tail underflows to NaN: there is nothing in it.
    return float(1 - tails[0] + np.nan_to_num(tails[1]))


def seeds_needed(effect: float, spread: float) -> int | None:
    """The fewest seeds whose paired t test sees such an effect four times in five.

    `effect` and `spread`, the standard deviation of a paired difference, share a unit. None beyond
    MOST_SEEDS, or for no effect. An effect that matters is asked for, never the one just measured: that
    repeats its p value (Hoenig and Heisey, The American Statistician 55(1), 2001).
    """
    if not (effect and np.isfinite(effect) and np.isfinite(spread)):
        return None
    if spread == 0:
        return 2

    def seen(seeds: int) -> bool:
        return power(np.sqrt(seeds) * effect / spread, seeds - 1) >= POWER

    low, high = 1, 2
    while not seen(high):
        low, high = high, 2 * high
        if low >= MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if seen(middle) else (middle, high)
    return high


def smallest_visible(error: float, freedom: float | int) -> float | None:
    """The smallest true difference that a t test with this standard error sees four times in five.

    None without degrees of freedom.
    """
    if not (freedom > 0 and np.isfinite(error)):
        return None
    low, high = 0.0, 1.0  # In standard errors. Doubled until it is seen: far beyond, scipy's power fails.
    while power(high, freedom) < POWER:
        high *= 2
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle, freedom) >= POWER else (middle, high)
    return high * error


def first_credible(differences: Float64[np.ndarray, "S L"]) -> int | None:
    """The first of L looks at which the difference is credibly not zero, all looks accounted for.

    The paired t tests of all looks are corrected together after Holm, which holds for any dependence
    between them: a variant without effect has a credible look in at most one curve of twenty.
    """
    credible = np.flatnonzero(holm(np.atleast_1d(paired_t(differences).p)) < 1 - CONFIDENCE)
    return int(credible[0]) if credible.size else None


def area_under_curve(
    steps: Float64[np.ndarray, " L"], values: Float64[np.ndarray, "S L"]
) -> Float64[np.ndarray, " S"]:
    """The mean height of each curve over its steps, by trapezoids: it has the unit of the values."""
    widths = np.diff(steps)
    area: Float64[np.ndarray, " S"] = ((values[:, 1:] + values[:, :-1]) / 2) @ widths / widths.sum()
    return area
