"""Statistical tests of whether two data sets are of one kind, and a verdict: the same, grown, or drifted.

Under "nothing changed" it is chance which images are in the old data set and which in the new one. Images in both are
known by their SHA-256. An image weighs its share in the old set minus its share in the new one, and every test compares
a difference with what these weights, dealt out by chance, would give: its variance goes with their sum of squares,
1/n + 1/m for sets that have nothing in common, less where they overlap. So a resample is no alarm, and a handful of
images of one class gone from an otherwise equal set is seen. An image under another label is another image.

Every test asks not whether there is a difference, which among a million images there always is, but whether it is
larger than the smallest that matters (minimum-effect tests: Murphy & Myors 1999, J. Appl. Psychol. 84). Over all tests
together the level is 1 % (Holm 1979, Scand. J. Stat. 6).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import kolmogorov
from scipy.stats import binom, ncx2, norm

from aigc_tasks.clean.profile import CELLS, Profile

LEVEL = 0.01
SMALLEST = 0.03  # effect that matters, of any test
COMPARED = 1_000  # images of either, between which distances are taken
SHUFFLES = 1_999  # p-values from 0.0005, below what Holm asks of the smallest of a dozen
RARE = 5  # expected images of a class, below which chi-square is no measure of chance (Cochran 1954, Biometrics 10)
UNLABELLED = "no label"
Verdict = Literal["same", "grown", "drifted"]


@dataclass(frozen=True)
class Test:
    """One comparison. ``then`` and ``now`` are what a reader looks at: a median, a share, a count of classes."""

    name: str
    method: str
    then: str
    now: str
    statistic: float
    effect: float
    p: float
    changed: bool = False

    @property
    def chance(self) -> str:
        """``p`` as it is shown."""
        return f"{self.p:.2g}" if self.p >= 0.001 else "< 0.001"


@dataclass(frozen=True)
class Drift:
    """The verdict, the tests, and how many images there were, are, are new, are gone (estimates unless ``exact``)."""

    verdict: Verdict
    then: int
    now: int
    new: int
    gone: int
    exact: bool
    tests: list[Test]

    @property
    def changed(self) -> list[Test]:
        return [test for test in self.tests if test.changed]


@dataclass(frozen=True)
class Pool:
    """The distinct images that two profiles describe, and how often each is in either."""

    shas: np.ndarray
    labels: np.ndarray
    old: np.ndarray
    new: np.ndarray
    embedding: np.ndarray
    statistics: np.ndarray

    @property
    def weights(self) -> np.ndarray:
        """Share in the old set minus share in the new one; they sum to 0."""
        return balance(self.old, self.new)


def balance(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    return old / old.sum() - new / new.sum()


def compare(old: Profile, new: Profile) -> Drift:
    """Class mix, labels, sizes, colours and appearance of ``new`` against those of ``old``."""
    pool = pooled(old, new)
    variance, added, gone, exact = overlap(pool, old, new)
    tests = holm([*class_mix(old, new, pool, variance), *relabelled(old, new), *figures(pool), *appearance(old, new)])
    verdict: Verdict = "grown" if added else "same"
    if any(test.changed for test in tests):
        verdict = "drifted"
    return Drift(verdict, len(old), len(new), added, gone, exact, tests)


def pooled(old: Profile, new: Profile) -> Pool:
    """An image is the same if its pixels are, before and after cleaning, and its label."""
    both = [old, new]
    names = {name: number for number, name in enumerate(sorted({*old.classes, *new.classes}))}
    labels = [np.array([names[name] for name in one.classes] or [-1])[one.labels] for one in both]
    embedding, statistics = (np.concatenate([getattr(one, of) for one in both]) for of in ("embedding", "statistics"))
    shas = np.concatenate([np.array(one.shas, "S64") for one in both])
    columns = [shas, numbers := np.concatenate(labels), embedding, statistics]
    rows = np.concatenate([column.reshape(len(shas), -1).view(np.uint8) for column in columns], axis=1)
    keys = np.ascontiguousarray(rows).view(f"V{rows.shape[1]}").ravel()
    _, first, image = np.unique(keys, return_index=True, return_inverse=True)
    count = len(old.shas)
    times = [np.bincount(part, minlength=len(first)) for part in (image[:count], image[count:])]
    return Pool(shas[first], numbers[first], times[0], times[1], embedding[first], statistics[first])


def overlap(pool: Pool, old: Profile, new: Profile) -> tuple[float, int, int, bool]:
    """Over whole data sets: the sum of squared weights, how many images are new, how many gone, and whether exactly.

    A profile of few images is complete; one of many has all images up to some SHA-256, so that up to the smaller of the
    two limits both are known completely, and the rest is in proportion (bottom-k sketch: Cohen & Kaplan 2007, PODC).
    What such a sample missed, the numbers of images and the digests may still tell.
    """
    limits = [max(one.shas) for one in (old, new) if len(one.shas) < len(one)]
    known = pool.shas <= min(limits).encode() if limits else np.ones(len(pool.shas), bool)
    before, after = pool.old[known], pool.new[known]
    share = (before.sum() + after.sum()) / (len(old) + len(new))
    # Each set's own part is known well also where few of its images are: only what they share is in proportion.
    parts = [max(1, (times**2).sum()) / max(1, times.sum()) for times in (before, after)]
    own = parts[0] / len(old) + parts[1] / len(new)
    variance = float(own - 2 * (before * after).sum() / (share * len(old) * len(new)))
    if old.digest == new.digest:
        return variance, 0, 0, True
    added, gone = missing(after, before, len(new)), missing(before, after, len(old))
    if limits:
        more = len(new) - len(old)
        added, gone = max(added, more or 1), max(gone, -more or 1)
    return variance, added, gone, not limits


def missing(times: np.ndarray, others: np.ndarray, images: int) -> int:
    """How many of so many images are not in the other set, from how often those that are known are in either."""
    return round(images * times[others == 0].sum() / max(1, times.sum()))


def class_mix(old: Profile, new: Profile, pool: Pool, variance: float) -> list[Test]:
    """Chi-square over all classes, and the one that changed most. Effect: Cohen's w, of which 0.1 is called small.

    Where a class is rare, chi-square's distribution does not hold, and p comes by shuffling labels among images. Labels
    in one of the sets alone are no chance at all.
    """
    then, now = map(classes_of, (old, new))
    if bool(old.classes) != bool(new.classes):
        return [Test("class labels", "in one set alone", then, now, 1.0, 1.0, 0.0)]
    names = sorted({*old.classes, *new.classes})
    counted = [dict(zip(one.classes, one.counts.tolist(), strict=False)) for one in (old, new)]
    table = np.array([[counts.get(name, 0) for name in names] for counts in counted], float)
    there = table.sum(axis=0) > 0
    names, table = [name for name, some in zip(names, there, strict=True) if some], table[:, there]
    if len(names) < 2:
        return []
    totals, mean = table.sum(axis=1, keepdims=True), table.sum(axis=0) / table.sum()
    gaps = np.subtract(*table / totals)
    variance = max(variance, 1e-12)  # the same images: no chance at all
    (effect, largest), most = mixture(gaps, mean), int((gaps**2 / (mean * (1 - mean))).argmax())
    if (mean * totals.min() < RARE).any():
        method, chance = "chi-square, by shuffling", shuffled(pool, there, mean, variance)
        overall, single = ((1 + (chance + SMALLEST >= (effect, largest)).sum(axis=0)) / (1 + SHUFFLES)).tolist()
    else:
        method, freedom = "chi-square", len(names) - 1
        overall = float(ncx2.sf(effect**2 / variance, freedom, SMALLEST**2 / variance))
        single = min(1.0, 2 * len(names) * float(norm.sf((largest - SMALLEST) / np.sqrt(variance))))
    mix = Test("class mix", method, then, now, effect**2 / variance, effect, overall)
    then, now = (f"{100 * share:.3g} %" for share in (table / totals)[:, most])
    residual = largest / float(np.sqrt(variance))
    return [mix, Test(f"class {names[most]}", "largest residual", then, now, residual, largest, single)]


def classes_of(one: Profile) -> str:
    """How many classes there are, in words."""
    count = int((one.counts > 0).sum())
    return f"{count:,} class{'es' * (count != 1)}" if one.classes else "unlabelled"


def mixture(gaps: np.ndarray, mean: np.ndarray) -> tuple[float, float]:
    """The effect of differences in the shares of classes whose shares are ``mean``: of all, and the largest."""
    squares = gaps**2 / mean
    return float(np.sqrt(squares.sum())), float(np.sqrt((squares / (1 - mean)).max()))


def shuffled(pool: Pool, there: np.ndarray, mean: np.ndarray, variance: float) -> np.ndarray:
    """``mixture`` of the weights dealt out by chance, SHUFFLES×2; scaled, for those described may be a sample."""
    rng = np.random.default_rng(0)
    weights = pool.weights
    weights *= np.sqrt(variance / max(variance, float((weights**2).sum())))
    dealt = (np.bincount(pool.labels, rng.permutation(weights), len(there))[there] for _ in range(SHUFFLES))
    return np.array([mixture(gaps, mean) for gaps in dealt])


def relabelled(old: Profile, new: Profile) -> list[Test]:
    """Images that are in both sets, but not under the same label: among all, and in the class that has most of them.
    No label changes by chance: an exact binomial test of whether more than the smallest share did, for those that are
    described may be a sample. Effect: the share.
    """
    was, now = (set(zip(one.shas, named(one), strict=True)) for one in (old, new))
    both, kept = {sha for sha, _ in was} & {sha for sha, _ in now}, {sha for sha, _ in was & now}
    images = [(label, sha not in kept) for sha, label in was if sha in both]
    if not images or not (old.classes and new.classes):
        return []
    names, numbers = np.unique([label for label, _ in images], return_inverse=True)
    counts = np.bincount(numbers)
    moved = np.bincount(numbers, [other for _, other in images]).astype(int)
    each = len(names) * binom.sf(moved - 1, counts, SMALLEST)
    most = int(each.argmin())
    found = [
        ("labels", counts.sum(), moved.sum(), binom.sf(moved.sum() - 1, counts.sum(), SMALLEST)),
        (f"labels of {names[most]}", counts[most], moved[most], min(1.0, each[most])),
    ]
    return [
        Test(name, "exact binomial", f"{of:,} in both", f"{some:,} relabelled", float(some), float(some / of), float(p))
        for name, of, some, p in found
    ]


def named(one: Profile) -> list[str]:
    """The label of every image that is described."""
    return [one.classes[number] for number in one.labels] if one.classes else [UNLABELLED] * len(one.labels)


def described(statistics: np.ndarray, embedding: np.ndarray) -> dict[str, np.ndarray]:
    """What is tested one by one, from M×4 and M×70: pixels, and levels of 255."""
    cells, mean, deviation = np.split(embedding.astype(float), [CELLS**2, CELLS**2 + 3], axis=1)
    red, green, blue = mean.T
    return {
        "width": statistics[:, 0],
        "height": statistics[:, 1],
        "brightness": statistics[:, 2],
        "contrast": statistics[:, 3],
        "red against green": 255 * (red - green),
        "yellow against blue": 255 * ((red + green) / 2 - blue),
        "fine detail": 255 * np.sqrt(np.maximum(0, (deviation**2).mean(axis=1) - cells.var(axis=1))),
    }


def figures(pool: Pool) -> list[Test]:
    """Kolmogorov–Smirnov on each figure in which images differ at all. Effect: the largest gap between the shares of
    images up to a value, 0…1.
    """
    tests = []
    spread = np.sqrt((pool.weights**2).sum())
    for name, values in described(pool.statistics, pool.embedding).items():
        if np.ptp(values) == 0:
            continue
        order = np.argsort(values, kind="stable")
        ends = np.flatnonzero(np.diff(values[order], append=np.inf))
        gap = float(np.abs(np.cumsum(pool.weights[order])[ends]).max())
        p = float(kolmogorov((gap - SMALLEST) / spread)) if gap > SMALLEST else 1.0
        then, now = (f"{np.median(np.repeat(values, times)):.4g}" for times in (pool.old, pool.new))
        tests.append(Test(name, "Kolmogorov–Smirnov", then, now, gap, gap, p))
    return tests


def appearance(old: Profile, new: Profile) -> list[Test]:
    """Maximum mean discrepancy of the embeddings (Gretton et al. 2012, JMLR 13): Gaussian kernel as wide as the median
    distance, p by shuffling. Effect: the discrepancy beyond what chance gives, 0…1.4.

    It is taken among all images, and within the classes that are in both sets, as labels may be exchanged while the
    images stay what they are: there it is the root of the squares' mean, each weighed by its class's share.
    """
    pool = pooled(first(old), first(new))
    distances = cdist(pool.embedding, pool.embedding, "sqeuclidean")
    apart = distances[np.triu_indices(len(distances), 1)]
    width = np.median(apart[apart > 0]) if apart.any() else 0
    if width == 0:
        return []
    kernel = np.exp(-distances / (2 * width))
    rng = np.random.default_rng(0)
    tests = [discrepancy("appearance", squares(pool.old, pool.new, kernel, rng))]
    groups = [np.flatnonzero(pool.labels == label) for label in np.unique(pool.labels)]
    common = [rows for rows in groups if pool.old[rows].any() and pool.new[rows].any()]
    if len(groups) == 1 or not common:
        return tests
    times = pool.old + pool.new
    shares = np.array([times[rows].sum() for rows in common]) / times.sum()
    each = [squares(pool.old[rows], pool.new[rows], kernel[np.ix_(rows, rows)], rng) for rows in common]
    return [*tests, discrepancy("appearance in class", shares @ np.array(each))]


def squares(old: np.ndarray, new: np.ndarray, kernel: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Squared discrepancies: of the images' weights, and of the same dealt out by chance."""
    dealt = np.tile(balance(old, new), (1 + SHUFFLES, 1))
    rng.permuted(dealt[1:], axis=1, out=dealt[1:])
    return np.maximum(0, np.einsum("bi,bi->b", dealt @ kernel, dealt))


def discrepancy(name: str, squares: np.ndarray) -> Test:
    found, chance = np.sqrt(squares[0]), np.sqrt(squares[1:])
    p = float((1 + (chance + SMALLEST >= found).sum()) / (1 + SHUFFLES))
    effect = float(np.sqrt(max(0.0, squares[0] - squares[1:].mean())))
    return Test(name, "maximum mean discrepancy", "", "", float(found), effect, p)


def first(one: Profile) -> Profile:
    """``COMPARED`` of its images, by chance: those of the lowest SHA-256."""
    rows = np.argsort(one.shas, kind="stable")[:COMPARED]
    return replace(
        one, embedding=one.embedding[rows], statistics=one.statistics[rows], labels=one.labels[rows],
        shas=[one.shas[row] for row in rows],
    )  # fmt: skip


def holm(tests: list[Test]) -> list[Test]:
    """The tests, with those marked that stay significant when all are asked together; their order stays."""
    marked = list(tests)
    for rank, number in enumerate(sorted(range(len(tests)), key=lambda number: tests[number].p)):
        if tests[number].p > LEVEL / (len(tests) - rank):
            break
        marked[number] = replace(tests[number], changed=True)
    return marked
