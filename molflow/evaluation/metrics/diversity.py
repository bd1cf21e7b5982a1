"""Diversity, scaffolds and structural alerts, over a sample of at most `MOST` molecules that is drawn with a seed."""

from functools import cache
from typing import Any

import numpy as np

from molflow.evaluation.metrics import METRICS
from molflow.evaluation.metrics.base import Figure, Ratio
from molflow.evaluation.metrics.distinct import Identities, OfSmiles
from molflow.evaluation.novelty import fingerprints, scaffold

MOST = 2000
"""Molecules that are looked at; a thousand take about half a second."""


@METRICS.register("internal_diversity")
class InternalDiversity(OfSmiles):
    """1 - mean Tanimoto similarity of all pairs of connected valid molecules, equal ones included.

    Source: IntDiv_1 of MOSES (arXiv 1811.12823), which has 1024 bits and counts each molecule as a pair with itself.
    """

    denominator = "connected valid molecules"
    protocol = (
        f"1 - mean Tanimoto similarity of pairs (Morgan fingerprints, radius 2, 2048 bits); at most {MOST:,} drawn"
    )

    def value(self, state: Identities) -> Figure:
        names = sorted(name for name in state if name is not None)
        chosen = _drawn(np.repeat(np.arange(len(names)), [state[name] for name in names]))
        n = len(chosen)
        if n < 2:
            return Figure(None, n)
        used, place = np.unique(chosen, return_inverse=True)
        bits = np.unpackbits(fingerprints([names[k] for k in used]), axis=1)[place].astype(np.float32)
        shared, sizes = bits @ bits.T, bits.sum(1)
        similarity = shared / (sizes[:, None] + sizes - shared)
        mean = (similarity.sum(dtype=np.float64) - n) / (n * (n - 1))
        return Figure(round(1 - float(mean), 6), n)


@METRICS.register("scaffold_novelty")
class ScaffoldNovelty(OfSmiles):
    """Distinct molecules with a Bemis-Murcko scaffold that no training molecule has / those with a scaffold."""

    needs, denominator = "training", "distinct molecules with rings"
    protocol = f"Bemis-Murcko scaffold not in {{training}}; at most {MOST:,} molecules drawn"

    def value(self, state: Identities) -> Ratio:
        scaffolds = [found for name in _sample(state) if (found := scaffold(name))]
        return Ratio(sum(found not in self.training.scaffolds for found in scaffolds), len(scaffolds))


@METRICS.register("without_alerts")
class WithoutAlerts(OfSmiles):
    """Distinct molecules without a functional group or substructure of RDKit's alerts / distinct molecules."""

    scope, denominator, label = "all", "distinct molecules", "without structural alerts"
    protocol = f"no match of the alerts BRENK and PAINS of RDKit's FilterCatalog; at most {MOST:,} molecules drawn"

    def value(self, state: Identities) -> Ratio:
        from rdkit import Chem

        names, alerts = _sample(state), _alerts()
        return Ratio(sum(not alerts.HasMatch(Chem.MolFromSmiles(name)) for name in names), len(names))


def _sample(state: Identities) -> list[str]:
    """Distinct SMILES, at most `MOST` of them."""
    names = sorted(name for name in state if name is not None)
    return [names[k] for k in _drawn(np.arange(len(names)))]


def _drawn(places: np.ndarray) -> np.ndarray:
    """At most `MOST` of these, without replacement."""
    if len(places) > MOST:
        places = np.random.default_rng(0).choice(places, MOST, replace=False)
    return places


@cache
def _alerts() -> Any:
    from rdkit.Chem.FilterCatalog import FilterCatalog, FilterCatalogParams

    catalogs = FilterCatalogParams.FilterCatalogs
    params = FilterCatalogParams()
    for catalog in (catalogs.BRENK, catalogs.PAINS):
        params.AddCatalog(catalog)
    return FilterCatalog(params)
