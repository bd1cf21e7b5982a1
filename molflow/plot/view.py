"""Molecules as balls and sticks: a PNG that RDKit paints, and a view that turns in a notebook or browser (3Dmol.js)."""

import json
from collections.abc import Iterator, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from molflow.chem.build import bonded_mol
from molflow.chem.depict import drawn
from molflow.chem.elements import formula, symbol
from molflow.chem.structure import Structure
from molflow.errors import MolflowError
from molflow.files import atomic_path, check_writable

Colour = tuple[float, ...]

_CELL = 240  # pixels of a molecule in the PNG
_COLUMNS = 4
_MOST = 12  # molecules in one picture
_COLOURS: dict[str, Colour] = {
    "H": (0.93, 0.93, 0.93), "C": (0.45, 0.45, 0.45), "N": (0.25, 0.39, 0.95), "O": (0.93, 0.18, 0.16),
    "F": (0.45, 0.80, 0.35), "S": (0.93, 0.78, 0.20), "Cl": (0.20, 0.75, 0.20), "Br": (0.60, 0.20, 0.15),
    "P": (0.95, 0.50, 0.10),
}  # fmt: skip
_OTHER: Colour = (0.80, 0.45, 0.75)
_DARK: Colour = (0.15, 0.15, 0.15)
_RADII = {"H": 0.24}  # Å
_RADIUS = 0.36
_STICK = 0.11  # Å, half of the width of a bond
_STYLE = '{stick: {radius: 0.11, colorscheme: "Jmol"}, sphere: {scale: 0.22, colorscheme: "Jmol"}}'


class MoleculeView:
    """A picture of one or more molecules, which notebooks show: one molecule turns, several are a PNG.

    Bonds are those of the structure, else look-up bonds, else RDKit's by covalent radii.

    Args:
        structures: 1 to 12 molecules, positions in Å.

    Raises:
        MolflowError: no molecule, or more than 12.

    Example:
        >>> positions = np.array([[0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48]])
        >>> water = molflow.chem.Structure(positions, np.array([8, 1, 1]))
        >>> view = MoleculeView([water])
        >>> view
        MoleculeView(H2O)
        >>> view.write("water.png")
    """

    def __init__(self, structures: Sequence[Structure]):
        if not 1 <= len(structures) <= _MOST:
            raise MolflowError(f"a picture shows 1 to {_MOST} molecules, got {len(structures)}")
        self.structures = list(structures)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(formula(each.atomic_numbers) for each in self.structures)})"

    def _repr_png_(self) -> bytes:
        return self.png()

    def _repr_html_(self) -> str | None:
        if len(self.structures) > 1:
            return None
        return f'<iframe style="border:0;width:420px;height:320px" srcdoc="{escape(self.html())}"></iframe>'

    def png(self) -> bytes:
        """The picture as PNG, 240 pixels square for each molecule, at most four in a row."""
        from rdkit.Chem.Draw import rdMolDraw2D

        n = len(self.structures)
        columns = min(n, _COLUMNS)
        canvas = rdMolDraw2D.MolDraw2DCairo(columns * _CELL, -(-n // columns) * _CELL)
        canvas.ClearDrawing()
        for place, structure in enumerate(self.structures):
            _paint(canvas, structure, (place % columns * _CELL, place // columns * _CELL))
        canvas.FinishDrawing()
        data: bytes = canvas.GetDrawingText()
        return data

    def html(self) -> str:
        """A page that shows the first molecule in three dimensions; it needs WebGL and no network."""
        from rdkit import Chem

        text = Chem.MolToMolBlock(_bonded(self.structures[0]), kekulize=False)
        block = json.dumps(text).replace("<", "\\u003c")  # so that no text ends the script
        return f"""<!DOCTYPE html>
<meta charset="utf-8">
<style>html, body, #stage {{ margin: 0; width: 100%; height: 100%; position: relative; overflow: hidden }}</style>
<div id="stage"></div>
<script>{library()}</script>
<script>
const viewer = $3Dmol.createViewer("stage", {{backgroundAlpha: 0}});
viewer.addModel({block}, "sdf", {{keepH: true}});
viewer.setStyle({{}}, {_STYLE});
viewer.zoomTo();
viewer.render();
</script>
"""

    def write(self, path: str | Path) -> None:
        """Write the picture to a .png file, or the first molecule in three dimensions to an .html file.

        Raises:
            MolflowError: another suffix, or a file that cannot be written.
        """
        suffix = Path(path).suffix.lower()
        if suffix not in (".png", ".html"):
            raise MolflowError(f"{path}: unknown suffix {suffix!r}; accepted are .png .html")
        check_writable(path)
        content = self.png() if suffix == ".png" else self.html().encode()
        with atomic_path(Path(path)) as temporary:
            temporary.write_bytes(content)


def library() -> str:
    """The JavaScript of 3Dmol.js 2.5.5 (BSD-3-Clause) with its licence."""
    folder = resources.files("molflow.plot") / "3dmol"
    licence = (folder / "LICENSE").read_text(encoding="utf-8").replace("*/", "* /")
    return f"/*!\n{licence}*/\n{(folder / '3Dmol-min.js').read_text(encoding='utf-8')}"


def _bonded(structure: Structure) -> Any:
    return bonded_mol(structure.positions, structure.atomic_numbers, drawn(*structure).bonds)


class _Shape(NamedTuple):
    """A ball (one point) or a stick (two points) in the plane of the picture, Å."""

    depth: float
    points: tuple[np.ndarray, ...]
    radius: float
    colour: Colour


def _shapes(structure: Structure) -> Iterator[_Shape]:
    """Balls and half sticks of the molecule, which is turned so that its widest plane is seen."""
    centred = structure.positions - structure.positions.mean(0)
    axes = np.linalg.svd(centred, full_matrices=False)[2] if len(centred) > 1 else np.eye(3)
    x = np.zeros((len(centred), 3))
    x[:, : len(axes)] = centred @ axes.T
    tilt = np.array([[1, 0, 0], [0, 0.89, -0.45], [0, 0.45, 0.89]])  # so that flat molecules show their depth
    x = x @ tilt.T
    elements = [symbol(number) for number in structure.atomic_numbers.tolist()]
    radii = [_RADII.get(element, _RADIUS) for element in elements]
    for point, element, radius in zip(x, elements, radii, strict=True):
        yield _Shape(point[2], (point[:2],), radius, _COLOURS.get(element, _OTHER))
    for i, j, order in drawn(*structure).bonds.tolist():
        along = x[j, :2] - x[i, :2]
        across = np.array([-along[1], along[0]]) / max(float(np.hypot(*along)), 1e-6)
        width = _STICK / order**0.5
        for k in range(order):
            shift = across * (k - (order - 1) / 2) * 2.6 * width
            for a, b in ((i, j), (j, i)):
                middle = (x[a] + x[b]) / 2
                start = x[a] + (middle - x[a]) * min(1, 1.8 * radii[a] / max(float(np.linalg.norm(x[a] - x[b])), 1e-6))
                points = (start[:2] + shift, middle[:2] + shift)
                yield _Shape((start[2] + middle[2]) / 2, points, width, _COLOURS.get(elements[a], _OTHER))


def _paint(canvas: Any, structure: Structure, corner: tuple[int, int]) -> None:
    """Paint a molecule into a cell of the canvas, the farthest parts first."""
    from rdkit.Geometry import Point2D

    shapes = sorted(_shapes(structure), key=lambda shape: shape.depth)
    ends = np.array([point for shape in shapes for point in shape.points])
    low, high = ends.min(0) - 0.5, ends.max(0) + 0.5
    scale = min(_CELL / float((high - low).max()), 42.0)

    def at(point: np.ndarray) -> Any:
        x, y = (point - (low + high) / 2) * scale
        return Point2D(corner[0] + _CELL / 2 + float(x), corner[1] + _CELL / 2 - float(y))

    def ball(centre: np.ndarray, radius: float, colour: Colour) -> None:
        canvas.SetColour(colour)
        canvas.DrawEllipse(at(centre - radius), at(centre + radius), True)

    canvas.SetFillPolys(True)
    for _, points, radius, colour in shapes:
        if len(points) == 2:
            for width, shade in ((radius + 0.03, _DARK), (radius, colour)):
                canvas.SetLineWidth(max(1, round(2 * width * scale)))
                canvas.SetColour(shade)
                canvas.DrawLine(at(points[0]), at(points[1]), True)
            continue
        canvas.SetLineWidth(1)
        ball(points[0], radius + 0.03, _DARK)
        for step in range(6):  # from the rim to a bright spot
            light = step / 6
            mixed = tuple(c * (0.72 + 0.28 * min(1, 1.6 * light)) + (1 - c) * 0.55 * light**3 for c in colour)
            ball(points[0] + radius * 0.32 * light * np.array([-1, 1]), radius * (1 - 0.8 * light), mixed)
