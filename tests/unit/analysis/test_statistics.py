"""semraft.analysis.statistics: known answers, and intervals that cover what they say they cover."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from semraft.analysis.statistics import (
    FEWEST_SCENES,
    Crossed,
    Interval,
    Sums,
    area_under_curve,
    crossed_interval,
    difference_over_scenes,
    effect_size,
    first_credible,
    holm,
    paired_t,
    pooled,
    power,
    probability_of_improvement,
    scene_draws,
    scene_influence,
    seeds_needed,
    smallest_visible,
    without_best_scene,
)

SIMULATIONS = 2000


def test_paired_t_by_hand() -> None:
    """Mean 2, standard error 1/sqrt(3), t(0.975; 2) = 4.3027, and p of t = 3.4641 from a table.

    Red when: the normal quantile is taken (p 0.0005), the spread is divided by n, or p is one-sided.
    """
    mean, low, high, p = paired_t(np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]]))
    assert (mean[0], mean[1]) == (2.0, 5.0)
    assert low[0] == pytest.approx(2 - 2.48414, abs=1e-5)
    assert high[0] == pytest.approx(2 + 2.48414, abs=1e-5)
    assert p[0] == pytest.approx(0.0741799, abs=1e-7)
    assert np.isnan([low[1], high[1], p[1]]).all()  # Seeds that agree to the last digit are no replicates.


def test_one_seed_has_no_interval_and_no_difference_is_none() -> None:
    """Red when: an interval of one seed is zero wide, or NaN comes out of two equal variants."""
    mean, low, high, p = paired_t(np.array([[0.3, -0.2]]))
    assert mean.tolist() == [0.3, -0.2]
    assert np.isnan([low, high, p]).all()
    equal = paired_t(np.zeros((3, 2)))
    assert (equal.low == 0).all()
    assert (equal.p == 1).all()


@pytest.mark.parametrize("effect", [0.0, 0.4])
@pytest.mark.parametrize("seeds", [3, 5])
def test_the_interval_over_seeds_covers(rng: np.random.Generator, seeds: int, effect: float) -> None:
    """Between 93 and 97 % of 95 % intervals hold the truth, however few the seeds.

    Red when: seeds are bootstrapped (74 % with three), or the normal quantile is taken (82 %).
    """
    paired = paired_t(rng.normal(effect, 0.7, (seeds, SIMULATIONS)))
    assert 0.93 < ((paired.low <= effect) & (effect <= paired.high)).mean() < 0.97


@pytest.mark.parametrize("effect", [0.0, -0.4])
@pytest.mark.parametrize("scenes", [20, 100])
def test_the_interval_over_scenes_covers(rng: np.random.Generator, scenes: int, effect: float) -> None:
    """The same over scenes of different size, whose frames err together: the scene is what is drawn.

    Red when: the percentiles are not widened (92 % with 20 scenes), or frames are drawn (below 60 %).
    """
    frames = 5
    weights = rng.lognormal(0, 0.4, (1, scenes, SIMULATIONS))
    of_scene = rng.normal(effect, 1, (scenes, 1, SIMULATIONS))
    gains = (of_scene + rng.normal(0, 0.5, (scenes, frames, SIMULATIONS))).mean(axis=1) * weights
    variant, base = Sums(gains, weights), Sums(np.zeros_like(gains), weights)
    assert 0.93 < covered(variant, base, effect, over_scenes) < 0.97


def test_the_interval_over_scenes_covers_scores_of_heads(rng: np.random.Generator) -> None:
    """Each run is scored on pixels of its own: hits of what it or the truth calls occluded.

    Red when: base's pixels are taken for the variant's, or differences of scenes are averaged (no weight).
    """
    scenes = 40
    sizes = rng.lognormal(3, 0.6, (1, scenes, SIMULATIONS))
    shares = (0.6, 0.5)
    variant, base = (
        Sums((share + rng.normal(0, 0.1, sizes.shape)) * weights, weights)
        for share, weights in ((share, sizes * rng.uniform(0.5, 1.5, sizes.shape)) for share in shares)
    )
    assert 0.93 < covered(variant, base, shares[0] - shares[1], over_scenes) < 0.97


def covered(
    variant: Sums, base: Sums, truth: float, find: Callable[[Sums, Sums, np.ndarray], Interval | Crossed]
) -> float:
    """The share of intervals, one a column, that hold the truth."""
    found = []
    for start in range(0, variant.totals.shape[-1], 100):  # Parts are a square matrix.
        some = slice(start, start + 100)
        own, other = (Sums(*(array[..., some] for array in sums)) for sums in (variant, base))
        interval = find(own, other, np.eye(own.totals.shape[-1]))
        found.append((interval.low <= truth) & (truth <= interval.high))
    return float(np.mean(found))


def over_scenes(variant: Sums, base: Sums, parts: np.ndarray) -> Interval:
    return difference_over_scenes(variant, base, parts, scene_draws(variant.totals.shape[1], 1000))


def test_the_crossed_interval_by_hand() -> None:
    """Two seeds, eight scenes of equal weight, a table without rest: seed means 1 and 3, scene effects +-1.

    MS_seed = 8 x 2 = 16, MS_scene = 2 x 8 / 7, MS_rest = 0: variance (16 + 16/7) / 16 = 8/7, of
    (128/7)^2 / (16^2 / 1 + (16/7)^2 / 7) = 1.3 degrees of freedom. Its half width of 7.9 is less than that
    of the seeds alone, 12.7. With seed means 1.98 and 2.02 both count.
    Red when: a factor is left out, or its mean square is divided by the wrong number.
    """
    effects = np.array([1.0, -1.0] * 4)

    def found(*means: float) -> Crossed:
        gains = np.stack([mean + effects for mean in means])[..., None]
        return crossed_interval(
            Sums(gains, np.ones_like(gains)), Sums(0 * gains, np.ones_like(gains)), np.eye(1)
        )

    apart = found(1.0, 3.0)
    assert (apart.error[0], apart.freedom[0]) == pytest.approx((1.0, 1.0))
    assert apart.high[0] - 2 == pytest.approx(stats.t.ppf(0.975, 1))
    close = found(1.98, 2.02)
    squares = (0.0064, 16 / 7)
    variance, freedom = sum(squares) / 16, sum(squares) ** 2 / (squares[0] ** 2 + squares[1] ** 2 / 7)
    assert (close.error[0] ** 2, close.freedom[0]) == pytest.approx((variance, freedom))
    assert 2 - close.low[0] == pytest.approx(stats.t.ppf(0.975, freedom) * variance**0.5)
    assert close.p[0] == pytest.approx(2 * stats.t.sf(2 / variance**0.5, freedom))
    assert found(2.0, 2.0).error[0] ** 2 == pytest.approx(1 / 7)
    assert np.isnan(found(2.0).high).all()


@pytest.mark.parametrize(("seeds", "scenes"), [(2, 12), (3, 24), (3, 200), (5, 50)])
@pytest.mark.parametrize("of_seeds", [0.0, 0.1, 1.0])
def test_the_crossed_interval_covers(
    rng: np.random.Generator, seeds: int, scenes: int, of_seeds: float
) -> None:
    """At least 93.5 % of 95 % intervals hold the truth when seeds and scenes are both drawn anew.

    `of_seeds` is the spread between seeds; between scenes it is 1, the rest 0.5; scenes weigh unequally.
    Red when: the interval over scenes stands for the whole (below 60 % where seeds differ), or the one over
    seeds (below 80 % where scenes do).
    """
    variant, base = simulated(rng, seeds, scenes, of_seeds)
    assert covered(variant, base, 0.3, crossed_interval) > 0.935
    if of_seeds == 1.0 and scenes == 200:
        assert covered(variant, base, 0.3, over_scenes) < 0.6
    if of_seeds == 0.0 and seeds == 3:
        assert covered(variant, base, 0.3, over_seeds) < 0.8


def test_the_crossed_interval_is_no_wider_than_needed(rng: np.random.Generator) -> None:
    """Where one factor rules it is as wide as that factor's own interval. Red when: variances are added
    without the rest's, or freedom is that of the smaller factor."""
    variant, base = simulated(rng, 5, 50, of_seeds=0.0)
    variant, base = (Sums(*(array[..., :200] for array in sums)) for sums in (variant, base))
    crossed, alone = (find(variant, base, np.eye(200)) for find in (crossed_interval, over_scenes))
    assert (crossed.high - crossed.low).mean() < 1.1 * (alone.high - alone.low).mean()


def simulated(rng: np.random.Generator, seeds: int, scenes: int, of_seeds: float) -> tuple[Sums, Sums]:
    """SIMULATIONS studies of a difference of 0.3, one a column; a seed's runs of it, and base's zeros."""
    weights = np.broadcast_to(rng.lognormal(0, 0.4, (scenes, SIMULATIONS)), (seeds, scenes, SIMULATIONS))
    gains = 0.3 + of_seeds * rng.normal(size=(seeds, 1, SIMULATIONS))
    gains = gains + rng.normal(size=(1, scenes, SIMULATIONS)) + 0.5 * rng.normal(size=weights.shape)
    return Sums(gains * weights, weights), Sums(np.zeros_like(gains), weights)


def over_seeds(variant: Sums, base: Sums, parts: np.ndarray) -> Interval:
    paired = paired_t(pooled(variant.over_scenes(), parts) - pooled(base.over_scenes(), parts))
    return Interval(paired.low, paired.high)


def test_influence_is_what_leaving_a_little_out_changes(rng: np.random.Generator) -> None:
    """The derivative of the pooled metric by a scene's weight, for a mean over two classes of unequal size.

    Red when: classes are pooled instead of averaged, or a class without pixels counts.
    """
    weights = rng.uniform(1, 9, (2, 9, 3)) * (rng.random((2, 9, 3)) > 0.3)
    weights[:, :, 2] = 0
    totals = rng.normal(size=weights.shape) * weights
    parts = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
    found = scene_influence(Sums(totals, weights), parts)
    np.testing.assert_allclose(found.sum(axis=1), 0, atol=1e-12)
    for scene in range(9):
        more = np.ones(9)
        more[scene] += 1e-6
        moved = pooled(Sums(totals * more[:, None], weights * more[:, None]).over_scenes(), parts)
        slope = (moved - pooled(Sums(totals, weights).over_scenes(), parts)) / 1e-6
        np.testing.assert_allclose(found[:, scene], slope, atol=1e-4)


def test_few_scenes_have_no_interval() -> None:
    """Red when: one scene's interval is zero wide, or scenes without weight are counted."""
    gains = np.arange(1.0, 21.0).reshape(1, 10, 2)
    weights, nothing = np.ones((1, 10, 2)), np.zeros((1, 10, 2))

    def interval(scenes: int) -> Interval:
        variant, base = (Sums(array[:, :scenes], weights[:, :scenes]) for array in (gains * weights, nothing))
        return difference_over_scenes(variant, base, np.eye(2), scene_draws(scenes))

    assert np.isfinite(interval(10)).all()
    weights[:, FEWEST_SCENES - 1 :, 1] = 0
    low, high = interval(10)
    assert np.isfinite([low[0], high[0]]).all()
    assert np.isnan([low[1], high[1]]).all()
    assert np.isnan(interval(1)).all()


def test_a_metric_is_the_mean_of_its_parts() -> None:
    """Metric 0 is the mean of parts 0 and 1, metric 1 is part 2. Red when: a part without weight counts as
    0, a mean is over sums, or nothing at all is 0."""
    parts = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    totals = np.array([[30.0, 8.0, 5.0], [30.0, 0.0, 5.0], [0.0, 0.0, 0.0]])
    weights = np.array([[10.0, 2.0, 1.0], [10.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    expected = [[3.5, 5.0], [3.0, 5.0], [np.nan, np.nan]]
    np.testing.assert_array_equal(pooled(Sums(totals, weights), parts), expected)


def test_without_the_best_scene_by_hand() -> None:
    """Scene 2 holds most of the gain, scene 0 as large a loss: without scene 2 the variant is 7.96 worse.

    Red when: the scene with the largest difference of either sign is left out, or what is left is smallest.
    """
    one_seed = np.array([[31.0, 2.0], [0.5, 2.0], [-30.0, 2.0], [-8.0, -90.0]])
    gains = np.stack([one_seed, one_seed + np.array([0.25, 0.0])])
    weights = np.ones((2, 4, 2))
    variant, base = Sums(gains, weights), Sums(np.zeros_like(gains), weights)
    omission = without_best_scene(variant, base, np.eye(2))
    assert omission.scene.tolist() == [2, 3]
    np.testing.assert_allclose(omission.difference, [(23.5 / 3 + 24.25 / 3) / 2, 2.0])
    omission = without_best_scene(base, variant, np.eye(2))
    np.testing.assert_allclose(omission.difference, [-(23.5 / 3 + 24.25 / 3) / 2, -2.0])
    one = [Sums(sums.totals[:, :1], sums.weights[:, :1]) for sums in (variant, base)]
    alone = without_best_scene(*one, np.eye(2))
    assert np.isnan(alone.difference).all()  # Nothing is left.


def test_probability_of_improvement_counts_all_pairs_of_runs() -> None:
    """Red when: only equal seeds are compared (0.5 in scene 0), or ties count whole."""
    variant = np.array([[1.0, 2.0, np.nan], [2.0, 2.0, 1.0]])[..., None]
    base = np.array([[3.0, 2.0, 1.0], [1.5, 2.0, 1.0]])[..., None]
    np.testing.assert_allclose(probability_of_improvement(variant, base)[:, 0], [0.75, 0.5, np.nan])
    np.testing.assert_allclose(probability_of_improvement(-variant, -base)[:, 0], [0.25, 0.5, np.nan])


def test_holm_as_in_r() -> None:
    """`p.adjust(c(.01, .04, .03, .005), "holm")`. Red when: Bonferroni, or the maximum is not carried on."""
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([np.nan, 0.5, 0.6])), [np.nan, 1.0, 1.0])
    assert holm(np.empty(0)).shape == (0,)


def test_effect_size_by_hand() -> None:
    """d = 2, corrected by J(2) = 0.5642; J(4) = 0.7979. Red when: J is approximated by 1 - 3/(4f - 1)."""
    assert effect_size(np.array([1.0, 2.0, 3.0])) == pytest.approx(2 * 0.5641896)
    five = np.array([-2.0, -1.0, 0.0, 1.0, 2.0]) / np.sqrt(2.5) + 1
    assert effect_size(five) == pytest.approx(0.7978846)
    assert np.isnan(effect_size(np.array([1.0, 2.0])))


@pytest.mark.parametrize(("effect", "seeds"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_seeds_needed_as_in_the_tables(effect: float, seeds: int) -> None:
    """Sample sizes of the two-sided paired t test at 80 % (G*Power). Red when: the normal power is used."""
    assert seeds_needed(effect, 1.0) == seeds
    assert seeds_needed(-3 * effect, 3.0) == seeds
    assert smallest_visible(2.0 / seeds**0.5, seeds - 1) == pytest.approx(2 * effect, rel=0.06)


def test_power_is_what_simulation_finds(rng: np.random.Generator) -> None:
    seen = paired_t(rng.normal(0.9, 0.6, (4, 20_000))).p < 0.05
    assert power(2 * 0.9 / 0.6, 3) == pytest.approx(seen.mean(), abs=0.01)
    assert power(1e6, 2) == pytest.approx(1.0)


def test_what_no_number_of_seeds_would_see() -> None:
    assert seeds_needed(0.0, 1.0) is None
    assert seeds_needed(1e-4, 1.0) is None
    assert seeds_needed(0.3, np.nan) is None
    assert smallest_visible(1.0, 0) is None
    assert smallest_visible(np.nan, np.nan) is None


def test_three_seeds_are_not_called_significant_when_they_are_not(rng: np.random.Generator) -> None:
    """Of variants without effect one in twenty is credible, though in one of four all seeds agree in sign.

    Red when: the sign, or a bootstrap over seeds (26 % false alarms), decides.
    """
    differences = rng.normal(0, 1, (3, SIMULATIONS))
    assert (np.abs(np.sign(differences).sum(axis=0)) == 3).mean() > 0.2
    assert (paired_t(differences).p < 0.05).mean() < 0.065


def test_the_first_credible_step(rng: np.random.Generator) -> None:
    """Twelve looks at curves without effect raise a false alarm in 5 % of all curves, not in 5 % of looks.

    Red when: looks are not corrected for (above 15 %).
    """
    curves = rng.normal(0, 1, (600, 5, 12)).cumsum(axis=-1)
    alarms = np.mean([first_credible(curve) is not None for curve in curves])
    assert alarms < 0.07
    uncorrected = np.mean([(paired_t(curve).p < 0.05).any() for curve in curves])
    assert uncorrected > 0.15
    sure = np.array([[0.1, -0.2, -1.0, -1.1], [-0.1, 0.1, -1.01, -1.12], [0.0, 0.2, -0.99, -1.11]])
    assert first_credible(sure) == 2
    assert first_credible(sure[:1]) is None


def test_area_under_a_curve_is_its_mean_height() -> None:
    """Red when: steps are taken as evenly spaced (2.0), or the area is not divided by its width."""
    steps = np.array([0.0, 1.0, 4.0])
    values = np.array([[0.0, 2.0, 2.0], [1.0, 1.0, 1.0]])
    np.testing.assert_allclose(area_under_curve(steps, values), [7 / 4, 1.0])
