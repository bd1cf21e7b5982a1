"""Reports: records of evaluations as one self-contained HTML page."""

from molflow.report.boltzmann import boltzmann_page
from molflow.report.gallery import Example
from molflow.report.molecules import example, molecules_page

__all__ = ["Example", "boltzmann_page", "example", "molecules_page"]
