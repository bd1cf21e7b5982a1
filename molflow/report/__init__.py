"""Records of the evaluators as one HTML page that needs nothing else."""

from molflow.report.boltzmann import boltzmann_page
from molflow.report.gallery import Example
from molflow.report.molecules import example, molecules_page

__all__ = ["Example", "boltzmann_page", "example", "molecules_page"]
