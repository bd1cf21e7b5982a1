"""Geometry and descriptors of molecules, counted in fixed fine bins, so that molecules add up in constant memory.

All quantities share one flat histogram. A molecule is a short list of bins in it, and Wasserstein distances follow from
cumulative sums. Nothing here imports torch or RDKit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations, combinations_with_replacement
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from molflow.chem.elements import atomic_number
from molflow.chem.valences import VALENCES

if TYPE_CHECKING:
    from rdkit import Chem

ELEMENTS = tuple(VALENCES)
"""Elements that quantities are counted by; atoms of other elements are left out."""

ORDERS = ("-", "=", "#", ":")
"""Signs of bond orders: single, double, triple, aromatic."""


class Quantity(NamedTuple):
    """A measured quantity, with the bins that it is counted in.

    Attributes:
        group: name that quantities which are summarised together share.
        name: unique name.
        unit: unit of the values.
        low: lower edge of the first bin, in which smaller values are counted too.
        width: width of a bin: the resolution of means, quantiles and Wasserstein distances.
        bins: number of bins; larger values are counted in the last.
        first: place of the first bin in the flat histogram.
    """

    group: str
    name: str
    unit: str
    low: float
    width: float
    bins: int
    first: int


_PAIRS = list(combinations_with_replacement(ELEMENTS, 2))


def _declared() -> Iterator[tuple[str, str, str, float, float, int]]:
    """group, name, unit, low, width, bins of every quantity."""
    for a, b in _PAIRS:
        for sign in ORDERS:
            yield "bond length", f"bond {a}{sign}{b}", "Å", 0.5, 0.001, 2000
    for centre in ELEMENTS:
        for a, b in _PAIRS:
            yield "angle", f"angle {a}-{centre}-{b}", "°", 0.0, 0.2, 900
    for a, b in _PAIRS:
        yield "dihedral", f"dihedral about {a}-{b}", "°", 0.0, 0.2, 900
    for a, b in _PAIRS:
        yield "distance", f"distance {a} {b}", "Å", 0.0, 0.005, 4000
    yield "atom count", "atoms", "atoms", -0.5, 1, 512
    for element in ELEMENTS:
        yield "composition", f"{element} atoms", "atoms", -0.5, 1, 512
    yield "descriptor", "QED", "", 0.0, 0.001, 1000
    yield "descriptor", "SA score", "", 1.0, 0.01, 900
    yield "descriptor", "logP", "", -20.0, 0.01, 4000
    yield "descriptor", "molecular weight", "Da", 0.0, 0.1, 10_000
    yield "descriptor", "rings", "rings", -0.5, 1, 64
    yield "descriptor", "aromatic rings", "rings", -0.5, 1, 64
    for method in ("", "GFN2-xTB "):
        yield "strain", f"{method}strain energy", "kcal/mol", 0.0, 0.1, 10_000
        yield "strain", f"{method}strain RMSD", "Å", 0.0, 0.002, 2500
    yield "ring size", "ring size", "atoms", -0.5, 1, 512


def _placed() -> Iterator[Quantity]:
    first = 0
    for declared in _declared():
        yield Quantity(*declared, first)
        first += declared[-1]


QUANTITIES: dict[str, Quantity] = {quantity.name: quantity for quantity in _placed()}
"""All quantities by name.

Bond lengths are counted by elements and order, angles by their three elements, unsigned dihedral angles by the elements
of the bond in the middle, and distances of all pairs of atoms, bonded or not, by elements. Strain without the name of a
method is by force fields, MMFF94 or UFF. New quantities come last, so that recorded histograms stay readable.
"""

GROUPS: tuple[str, ...] = tuple(dict.fromkeys(quantity.group for quantity in QUANTITIES.values()))

N_BINS = sum(quantity.bins for quantity in QUANTITIES.values())
"""Length of the flat histogram."""

_ROW = np.full(119, -1)  # atomic number -> place in ELEMENTS
_ROW[[atomic_number(element) for element in ELEMENTS]] = range(len(ELEMENTS))
_PAIR = np.zeros((len(ELEMENTS), len(ELEMENTS)), dtype=np.int64)  # two such places -> place in _PAIRS
for _k, (_a, _b) in enumerate(_PAIRS):
    _i, _j = ELEMENTS.index(_a), ELEMENTS.index(_b)
    _PAIR[_i, _j] = _PAIR[_j, _i] = _k


_FIRST = {group: next(q for q in QUANTITIES.values() if q.group == group) for group in GROUPS}
_PAIRS_AT_ONCE = 1 << 18  # some MB

KNOWN = 100
"""Values that a reference needs of a quantity to tell the usual ones."""

JS_BINS = 10
"""Bins that are counted together for Jensen-Shannon distances: 0.01 Å and 2°."""


def bins_of(kinds: Any, values: Any, first: Quantity) -> np.ndarray:
    """Bins of values; `kinds` is the place of their quantity after `first`, which has bins of the same kind."""
    places = np.floor((np.asarray(values) - first.low) / first.width)
    return first.first + np.asarray(kinds) * first.bins + np.clip(places, 0, first.bins - 1).astype(np.int64)


def counted(bins: Iterable[np.ndarray]) -> np.ndarray:
    """Distinct bins and their counts, (2, k) int32: the form in which a report keeps them."""
    return np.stack(np.unique(np.concatenate([np.zeros(0, np.int64), *bins]), return_counts=True)).astype(np.int32)


def add_counts(histogram: np.ndarray, measured: np.ndarray | None) -> np.ndarray:
    """Add bins and their counts (2, k), as `counted` gives them, to the flat histogram in place."""
    if measured is not None:
        bins, counts = measured
        histogram[bins] += counts
    return histogram


def composition_bins(atomic_numbers: np.ndarray) -> np.ndarray:
    """Bins of the number of atoms and of the number of atoms of each element."""
    by_element = np.bincount(_ROW[atomic_numbers] + 1, minlength=len(ELEMENTS) + 1)[1:]
    total = bins_of([0], [len(atomic_numbers)], _FIRST["atom count"])
    return np.concatenate([total, bins_of(range(len(ELEMENTS)), by_element, _FIRST["composition"])])


def distance_bins(positions: np.ndarray, atomic_numbers: np.ndarray) -> np.ndarray:
    """Bins of the distances of all pairs of atoms."""
    rows = _ROW[atomic_numbers]
    positions, rows = positions[rows >= 0], rows[rows >= 0]
    n, found = len(rows), []
    step = max(1, _PAIRS_AT_ONCE // max(1, n))
    for start in range(0, n, step):
        i, j = np.nonzero(np.arange(start, min(start + step, n))[:, None] < np.arange(n))
        lengths = np.linalg.norm(positions[start + i] - positions[j], axis=1)
        found.append(bins_of(_PAIR[rows[start + i], rows[j]], lengths, _FIRST["distance"]))
    return np.concatenate([np.zeros(0, np.int64), *found])


def bond_bins(mol: Chem.Mol) -> np.ndarray:
    """Bins of bond lengths, angles, dihedrals and ring sizes of a sanitised molecule with a conformer."""
    x = mol.GetConformer().GetPositions()
    rows = _ROW[[atom.GetAtomicNum() for atom in mol.GetAtoms()]]
    bonds = [
        (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), 3 if bond.GetIsAromatic() else int(bond.GetBondType()) - 1)
        for bond in mol.GetBonds()
    ]
    near: list[list[int]] = [[] for _ in rows]
    for i, j, _ in bonds:
        near[i].append(j)
        near[j].append(i)
    angles = [(a, j, b) for j, around in enumerate(near) for a, b in combinations(around, 2)]
    dihedrals = [(a, i, j, b) for i, j, _ in bonds for a in near[i] for b in near[j] if a != j and b != i and a != b]

    i, j, order = _columns(bonds, 2, rows, further=1)
    lengths = np.linalg.norm(x[i] - x[j], axis=1)
    found = [bins_of(_PAIR[rows[i], rows[j]] * len(ORDERS) + order, lengths, _FIRST["bond length"])]
    a, j, b = _columns(angles, 3, rows)
    kinds = rows[j] * len(_PAIRS) + _PAIR[rows[a], rows[b]]
    found.append(bins_of(kinds, _angle(x[a] - x[j], x[b] - x[j]), _FIRST["angle"]))
    a, i, j, b = _columns(dihedrals, 4, rows)
    axis = x[j] - x[i]
    turned = _angle(_cross(x[a] - x[i], axis), _cross(x[b] - x[j], axis))
    found.append(bins_of(_PAIR[rows[i], rows[j]], turned, _FIRST["dihedral"]))
    found.append(bins_of(0, [len(ring) for ring in mol.GetRingInfo().AtomRings()], _FIRST["ring size"]))
    return np.concatenate(found)


def value_bins(values: dict[str, float]) -> np.ndarray:
    """Bins of values of single quantities by name."""
    found = []
    for name, value in values.items():
        quantity = QUANTITIES[name]
        place = math.floor((value - quantity.low) / quantity.width)
        found.append(quantity.first + min(max(place, 0), quantity.bins - 1))
    return np.array(found, dtype=np.int64)


def _columns(tuples: Sequence[tuple[int, ...]], atoms: int, rows: np.ndarray, further: int = 0) -> np.ndarray:
    """Columns of tuples of atoms and `further` numbers, without tuples that have an element outside `ELEMENTS`."""
    table = np.array(tuples, dtype=np.int64).reshape(-1, atoms + further)
    return table[(rows[table[:, :atoms]] >= 0).all(1)].T


def _angle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Angles between vectors (n, 3) in degrees, accurate also for small angles."""
    sine = np.linalg.norm(_cross(u, v), axis=1)
    degrees: np.ndarray = np.degrees(np.arctan2(sine, (u * v).sum(1)))
    return degrees


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Cross products of vectors (n, 3); np.cross takes twice as long for so few."""
    product: np.ndarray = u[:, [1, 2, 0]] * v[:, [2, 0, 1]] - u[:, [2, 0, 1]] * v[:, [1, 2, 0]]
    return product


def counts_of(histogram: np.ndarray, name: str) -> np.ndarray:
    """The part of the flat histogram that belongs to one quantity, as a view."""
    quantity = QUANTITIES[name]
    return histogram[quantity.first : quantity.first + quantity.bins]


def group_count(histogram: np.ndarray, group: str) -> int:
    """Number of values of all quantities of a group."""
    return sum(int(counts_of(histogram, q.name).sum()) for q in QUANTITIES.values() if q.group == group)


def quantiles(histogram: np.ndarray, name: str, shares: Iterable[float] = (0.05, 0.5, 0.95)) -> list[float] | None:
    """Centres of the bins at which the cumulative share of a quantity reaches the given ones; None without counts."""
    counts, quantity = counts_of(histogram, name), QUANTITIES[name]
    if not counts.any():
        return None
    cumulative = np.cumsum(counts)
    places = np.searchsorted(cumulative, np.asarray(list(shares)) * cumulative[-1])
    return [_centre(quantity, int(place)) for place in places]


def mean(histogram: np.ndarray, name: str) -> float | None:
    """Mean of a quantity, off by at most half a bin's width; None without counts."""
    counts, quantity = counts_of(histogram, name), QUANTITIES[name]
    total = int(counts.sum())
    if not total:
        return None
    return _centre(quantity, 0) + quantity.width * int(counts @ np.arange(len(counts))) / total


def _centre(quantity: Quantity, place: int) -> float:
    return round(quantity.low + (place + 0.5) * quantity.width, 6)


def wasserstein(histogram: np.ndarray, reference: np.ndarray, name: str) -> float | None:
    """Wasserstein-1 distance of a quantity in two histograms, in its unit; None if either has no counts.

    The sum over bins of width x |F - F_reference|, with F the cumulative share; off by at most a bin's width.
    """
    a, b = (np.cumsum(counts_of(h, name)) for h in (histogram, reference))
    if not (a[-1] and b[-1]):
        return None
    return float(QUANTITIES[name].width * np.abs(a / a[-1] - b / b[-1]).sum())


def jensen_shannon(histogram: np.ndarray, reference: np.ndarray, name: str) -> float | None:
    """Jensen-Shannon distance of a quantity in two histograms, 0..1; None if either has no counts.

    sqrt((KL(p, m) + KL(q, m)) / 2) with m = (p + q) / 2 and logarithms to base 2, over bins `JS_BINS` times as wide.
    """
    from scipy.spatial.distance import jensenshannon

    a, b = (counts_of(h, name) for h in (histogram, reference))
    if not (a.any() and b.any()):
        return None
    starts = np.arange(0, len(a), JS_BINS)
    return float(jensenshannon(np.add.reduceat(a, starts), np.add.reduceat(b, starts), base=2))


def group_distance(
    histogram: np.ndarray,
    reference: np.ndarray,
    group: str,
    distance: Callable[[np.ndarray, np.ndarray, str], float | None] = wasserstein,
) -> float | None:
    """Mean of the distances of a group's quantities, weighted by how often the reference has each.

    Quantities that either histogram lacks are left out; None if none is left.
    """
    names = [quantity.name for quantity in QUANTITIES.values() if quantity.group == group]
    pairs = [(distance(histogram, reference, name), int(counts_of(reference, name).sum())) for name in names]
    shared = [(value, weight) for value, weight in pairs if value is not None]
    total = sum(weight for _, weight in shared)
    return sum(value * weight for value, weight in shared) / total if total else None


def usual_bins(reference: np.ndarray, groups: Iterable[str], tail: float) -> np.ndarray:
    """Whether each bin of the flat histogram is usual, (N_BINS,) bool.

    A bin of a quantity of these groups is usual if it lies between the quantiles `tail` and 1 - `tail` of the
    reference, which are its least and greatest value if it has fewer than 1 / `tail`. Quantities with fewer than
    `KNOWN` values, and all of other groups, are not judged: their bins are usual.
    """
    usual = np.ones(N_BINS, dtype=bool)
    for quantity in QUANTITIES.values():
        counts = counts_of(reference, quantity.name)
        total = int(counts.sum())
        if quantity.group in groups and total >= KNOWN:
            cumulative = np.cumsum(counts)
            low, high = np.searchsorted(cumulative, [tail * total, (1 - tail) * total])
            usual[quantity.first : quantity.first + quantity.bins] = False
            usual[quantity.first + low : quantity.first + high + 1] = True
    return usual


def coarse(histogram: np.ndarray, reference: np.ndarray | None, name: str, bins: int = 40) -> dict[str, Any] | None:
    """A quantity in few wide bins, for plots: edges (k + 1,), and shares of samples and reference in each bin, (k,).

    The bins cover both distributions without the outer thousandth at each end, which is counted in the outermost bins.
    None without counts.
    """
    quantity = QUANTITIES[name]
    if not counts_of(histogram, name).any():
        return None
    both = [counts_of(each, name) for each in (histogram, reference) if each is not None]
    found = [counts for counts in both if counts.any()]
    cumulative = [np.cumsum(counts) / counts.sum() for counts in found]
    low = min(int(np.searchsorted(c, 0.001)) for c in cumulative)
    high = max(int(np.searchsorted(c, 0.999)) for c in cumulative) + 1
    width = -(-(high - low) // bins)
    places = np.clip((np.arange(quantity.bins) - low) // width, 0, -(-(high - low) // width) - 1)
    edges = [round(quantity.low + quantity.width * (low + width * k), 6) for k in range(int(places.max()) + 2)]

    def shares(each: np.ndarray | None) -> list[float] | None:
        if each is None or not (counts := counts_of(each, name)).any():
            return None
        return [round(float(share), 6) for share in np.bincount(places, counts) / counts.sum()]

    return {"edges": edges, "samples": shares(histogram), "reference": shares(reference)}
