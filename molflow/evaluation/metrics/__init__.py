"""Registry of metrics: names and their order in tables, without importing the metrics themselves."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from molflow.registry import Registry

if TYPE_CHECKING:
    from molflow.evaluation.metrics.base import Metric

FURTHER = "Further"
"""Group of metrics that name none."""

_FAMILIES = {
    "stability": ("molecule_stability", "atom_stability"),
    "validity": (
        "connected_validity",
        "validity",
        "fragments",
        "edm_validity",
        "largest_fragment_validity",
    ),
    "perceived": (
        "valence_molecule_stability",
        "valence_atom_stability",
        "valence_charge_separated",
        "perceived_connected_validity",
        "perceived_validity",
        "rdkit_default_validity",
    ),
    "coverage": ("lookup_covered", "qm9_elements"),
    "beside": (
        "lookup_molecule_stability",
        "lookup_atom_stability",
        "lookup_connected_validity",
        "lookup_validity",
        "bonds_as_perceived",
    ),
    "distinct": (
        "validity_x_uniqueness",
        "uniqueness",
        "novelty",
        "validity_x_uniqueness_x_novelty",
        "novel_compositions",
        "edm_validity_x_uniqueness",
        "edm_validity_x_uniqueness_x_novelty",
        "nearest_training_similarity",
        "nearest_training_similarity_median",
        "nearest_neighbour_novelty",
    ),
    "diversity": ("scaffold_novelty", "internal_diversity", "without_alerts"),
    "shape": ("without_clashes", "posebusters", "posebusters_energy"),
    "geometry": ("validity_3d", "strain_per_atom", "rare_ring_sizes"),
    "distances": (
        "w1_bond_lengths",
        "w1_angles",
        "w1_dihedrals",
        "w1_distances",
        "w1_atom_counts",
        "w1_compositions",
        "js_bond_lengths",
        "js_angles",
        "js_dihedrals",
    ),
}

METRICS: "Registry[type[Metric]]" = Registry(
    "metric",
    modules={name: f"{__name__}.{family}" for family, names in _FAMILIES.items() for name in names},
    group="molflow.metrics",
)
"""Metric classes by name. Their order is that of tables and of JSON records."""


def grouped(names: Iterable[str]) -> dict[str, list[str]]:
    """Names of metrics by the heading of their group, in the order of the registry; unregistered ones come last."""
    wanted = list(dict.fromkeys(names))
    known = [name for name in METRICS if name in wanted]
    groups: dict[str, list[str]] = {}
    for name in known:
        groups.setdefault(METRICS[name].group, []).append(name)
    if unknown := [name for name in wanted if name not in known]:
        groups.setdefault(FURTHER, []).extend(unknown)
    return groups


def label(name: str) -> str:
    """Label of a metric in tables."""
    given = METRICS[name].label if name in METRICS else ""
    return given or name.replace("_x_", " x ").replace("_", " ")
