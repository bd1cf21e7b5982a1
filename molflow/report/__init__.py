"""Records of the evaluators as one HTML page that needs nothing else."""

from molflow.report.boltzmann import boltzmann_page
from molflow.report.molecules import example, molecules_page

__all__ = ["boltzmann_page", "example", "molecules_page"]
