"""Pictures: molecules in two and three dimensions, and plots of training, energies, densities and scores.

Molecules need RDKit alone; the plots need the extra `plot` (matplotlib). Each plot draws into the axes that it is
given, or into the current ones, and returns them: `axes.figure.savefig("plot.png")`.
"""

from typing import TYPE_CHECKING

from molflow.registry import lazy_names

if TYPE_CHECKING:
    from molflow.plot.figures import density, energies, scores, training
    from molflow.plot.view import MoleculeView

__all__ = ["MoleculeView", "density", "energies", "scores", "training"]

__getattr__, __dir__ = lazy_names(
    __name__, {"figures": ("density", "energies", "scores", "training"), "view": ("MoleculeView",)}
)
