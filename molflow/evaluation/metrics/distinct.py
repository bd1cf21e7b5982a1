"""Uniqueness and novelty: how many distinct molecules there are, and how many the training molecules lack.

A distinct molecule is a canonical SMILES among the connected valid molecules. The metrics of EDM count its own SMILES,
which keep explicit hydrogens, see `molflow.evaluation.edm`.
"""

from abc import abstractmethod
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from molflow.evaluation.metrics import METRICS
from molflow.evaluation.metrics.base import Figure, Ratio, SetMetric
from molflow.evaluation.metrics.validity import EDM_CODE, LOOKED_UP

if TYPE_CHECKING:
    from molflow.evaluation.novelty import TrainingReference
    from molflow.evaluation.reports import MoleculeReport

Identities = Counter[str | None]

NEW_SMILES = "canonical SMILES not in {training}"
SIMILARITY = "Tanimoto similarity (Morgan fingerprints, radius 2, 2048 bits) to the nearest molecule of {training}"

EDM_DISTINCT = f"{EDM_CODE}; canonical SMILES with explicit hydrogens"

NEAR = 0.4
"""Least similarity of molecules that resemble each other."""


class _OfIdentities(SetMetric[Identities]):
    """A metric of how often each identity occurs; None is the identity of molecules that have none."""

    group = "Distinct and new"

    @abstractmethod
    def identity(self, report: "MoleculeReport") -> str | None:
        """The name that equal molecules share."""

    def empty(self) -> Identities:
        return Counter()

    def add(self, state: Identities, report: "MoleculeReport") -> Identities:
        state[self.identity(report)] += 1
        return state

    def merge(self, a: Identities, b: Identities) -> Identities:
        a.update(b)
        return a

    @property
    def training(self) -> "TrainingReference":
        """The training molecules; only for metrics that need them."""
        assert self.options.training is not None
        return self.options.training


class OfSmiles(_OfIdentities):
    """A metric of the connected valid molecules by their canonical SMILES."""

    shared = "smiles"

    def identity(self, report: "MoleculeReport") -> str | None:
        return report.smiles if report.connected else None


class _OfEDMSmiles(_OfIdentities):
    shared = "edm_smiles"

    def identity(self, report: "MoleculeReport") -> str | None:
        return report.edm_smiles


@METRICS.register("validity_x_uniqueness")
class ValidityUniqueness(OfSmiles):
    """Distinct molecules / all molecules."""

    protocol = f"{LOOKED_UP}; one fragment; canonical SMILES"

    def value(self, state: Identities) -> Ratio:
        return Ratio(len(_distinct(state)), state.total())


@METRICS.register("uniqueness")
class Uniqueness(OfSmiles):
    """Distinct molecules / connected valid molecules, so that a model cannot gain by fragments."""

    protocol, denominator = f"{LOOKED_UP}; canonical SMILES", "connected valid molecules"

    def value(self, state: Identities) -> Ratio:
        return Ratio(len(_distinct(state)), state.total() - state[None])


@METRICS.register("novelty")
class Novelty(OfSmiles):
    """Distinct molecules that are not among the training molecules / distinct molecules."""

    needs, protocol, denominator = "training", NEW_SMILES, "distinct molecules"

    def value(self, state: Identities) -> Ratio:
        distinct = _distinct(state)
        return Ratio(len(distinct - self.training.smiles), len(distinct))


@METRICS.register("validity_x_uniqueness_x_novelty")
class ValidityUniquenessNovelty(OfSmiles):
    """Distinct molecules that are not among the training molecules / all molecules."""

    needs, protocol = "training", f"{LOOKED_UP}; {NEW_SMILES}"

    def value(self, state: Identities) -> Ratio:
        return Ratio(len(_distinct(state) - self.training.smiles), state.total())


@METRICS.register("novel_compositions")
class NovelCompositions(_OfIdentities):
    """Molecules, valid or not, with a molecular formula that no training molecule has / all molecules."""

    scope, needs, protocol, shared = "stability", "training", "formula not in {training}", "formulas"

    def identity(self, report: "MoleculeReport") -> str | None:
        return report.formula

    def value(self, state: Identities) -> Ratio:
        new = sum(count for formula, count in state.items() if formula not in self.training.formulas)
        return Ratio(new, state.total())


@METRICS.register("edm_validity_x_uniqueness")
class EDMValidityUniqueness(_OfEDMSmiles):
    """Distinct molecules / all molecules, by the code of EDM."""

    protocol = EDM_DISTINCT

    def value(self, state: Identities) -> Ratio:
        return Ratio(len(_distinct(state)), state.total())


@METRICS.register("edm_validity_x_uniqueness_x_novelty")
class EDMValidityUniquenessNovelty(_OfEDMSmiles):
    """Distinct molecules that are not among the training molecules / all molecules, by the code of EDM."""

    needs = "training"
    protocol = f"{EDM_DISTINCT} that no molecule of {{training}} has by its look-up bonds"

    def value(self, state: Identities) -> Ratio:
        return Ratio(len(_distinct(state) - self.training.edm_smiles), state.total())


class _Similarity(OfSmiles):
    needs, denominator = "training", "novel distinct molecules"

    def value(self, state: Identities) -> Figure:
        nearest = _nearest(frozenset(_distinct(state) - self.training.smiles), self.training, self.options.progress)
        return Figure(self.summary(nearest) if len(nearest) else None, len(nearest))

    @abstractmethod
    def summary(self, similarities: np.ndarray) -> float:
        """One value for the similarities of all novel molecules, (n,)."""


@METRICS.register("nearest_training_similarity")
class NearestTrainingSimilarity(_Similarity):
    """Mean Tanimoto similarity of novel distinct molecules to the most similar training molecule."""

    protocol = f"mean {SIMILARITY}"

    def summary(self, similarities: np.ndarray) -> float:
        return float(similarities.mean())


@METRICS.register("nearest_training_similarity_median")
class NearestTrainingSimilarityMedian(_Similarity):
    """Median Tanimoto similarity of novel distinct molecules to the most similar training molecule."""

    protocol = f"median {SIMILARITY}"

    def summary(self, similarities: np.ndarray) -> float:
        return float(np.median(similarities))


@METRICS.register("nearest_neighbour_novelty")
class NearestNeighbourNovelty(OfSmiles):
    """Distinct molecules that resemble no training molecule / distinct molecules.

    Source: the novelty of MARS (arXiv 2103.10432).
    """

    needs, denominator = "training", "distinct molecules"
    protocol = f"{SIMILARITY} below {NEAR}"

    def value(self, state: Identities) -> Ratio:
        distinct = _distinct(state)
        nearest = _nearest(frozenset(distinct - self.training.smiles), self.training, self.options.progress)
        return Ratio(int((nearest < NEAR).sum()), len(distinct))


def _distinct(state: Identities) -> set[str]:
    return {identity for identity in state if identity is not None}


@lru_cache(maxsize=1)  # the mean and the median need the same, which takes seconds
def _nearest(smiles: frozenset[str], training: "TrainingReference", progress: bool) -> np.ndarray:
    return training.nearest_similarity(sorted(smiles), progress) if smiles else np.zeros(0)
