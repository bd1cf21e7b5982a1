"""Configurations of particles as cards of the gallery, which are turned in three dimensions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from molflow.evaluation.contacts import pairs_within
from molflow.report.examples import Example
from molflow.report.tables import number

_ELEMENT = "Ar"
_SPACING = 2.4  # Å between nearest neighbours, in the view
_CONTACT = 1.3  # nearest distances
_SIZE = (260, 200)
_RADIUS = 11


def configuration_examples(figures: Mapping[str, Any]) -> list[Example]:
    """The configurations of `molflow.evaluation.particle_figures` for the gallery; empty beyond three dimensions.

    Lengths are scaled so that nearest neighbours are 2.4 Å apart. Particles closer than 1.3 times the median distance
    of nearest neighbours are joined by a line.
    """
    nearest = figures["nearest"]
    if not nearest or any(len(x[0]) > 3 for x in (each["positions"] for each in figures["examples"])):
        return []
    return [_example(each, nearest) for each in figures["examples"]]


def _example(found: Mapping[str, Any], nearest: float) -> Example:
    x = np.array(found["positions"])
    x = np.pad(x - x.mean(0), ((0, 0), (0, 3 - x.shape[1])))
    bonds = [(i, j, 1) for i, j in pairs_within(_CONTACT * nearest, x).tolist()]
    weight = "" if found["weight"] is None else f", weight {number(found['weight'])}"
    origin = "reference" if found["kind"] == "reference" else "sample"
    return Example(
        name=f"{origin} {found['number']:,}",
        status=found["kind"],
        reason=f"U = {number(found['energy'])} kT{weight}",
        smiles=None,
        depiction=_depict(x, bonds),
        elements=[_ELEMENT] * len(x),
        positions=(x * _SPACING / nearest).tolist(),
        bonds=bonds,
    )


def _depict(x: np.ndarray, bonds: Sequence[tuple[int, int, int]]) -> str:
    """Balls and lines as SVG, seen along the axis in which they spread least; nearer balls are lighter."""
    x = x @ np.linalg.svd(x, full_matrices=False)[2].T
    low, high = x.min(0), x.max(0)
    width, height = (side - 2 * _RADIUS - 4 for side in _SIZE)
    scale = min(width / max(high[0] - low[0], 1e-9), height / max(high[1] - low[1], 1e-9), 60)
    place = (x - (low + high) / 2)[:, :2] * scale + np.array(_SIZE) / 2
    depth = (x[:, 2] - low[2]) / max(high[2] - low[2], 1e-9)
    lines = "".join(
        f'<line x1="{place[i, 0]:.1f}" y1="{place[i, 1]:.1f}" x2="{place[j, 0]:.1f}" y2="{place[j, 1]:.1f}"/>'
        for i, j, _ in bonds
    )
    balls = "".join(
        f'<circle cx="{place[i, 0]:.1f}" cy="{place[i, 1]:.1f}" r="{_RADIUS}" '
        f'fill="hsl(187 45% {40 + 30 * depth[i]:.0f}%)"/>'
        for i in np.argsort(depth)
    )
    return (
        f'<svg viewBox="0 0 {_SIZE[0]} {_SIZE[1]}" aria-hidden="true"><g stroke="#888" stroke-width="2">{lines}</g>'
        f'<g stroke="#222">{balls}</g></svg>'
    )
