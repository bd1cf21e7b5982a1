"""Reports: records of evaluations as one self-contained HTML page."""

from molflow.report.boltzmann import boltzmann_page
from molflow.report.gallery import Example
from molflow.report.molecules import example, molecules_page
from molflow.report.posterior import corner_figure, coverage_figure

__all__ = ["Example", "boltzmann_page", "corner_figure", "coverage_figure", "example", "molecules_page"]
