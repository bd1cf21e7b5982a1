"""Reports: records of evaluations as one self-contained HTML page, and figures of posteriors."""

from typing import TYPE_CHECKING

from molflow.registry import lazy_names

if TYPE_CHECKING:
    from molflow.report.boltzmann import boltzmann_page
    from molflow.report.examples import Draw, Example, example
    from molflow.report.molecules import molecules_page
    from molflow.report.posterior import corner_figure, coverage_figure

__all__ = ["Draw", "Example", "boltzmann_page", "corner_figure", "coverage_figure", "example", "molecules_page"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "boltzmann": ("boltzmann_page",),
        "examples": ("Draw", "Example", "example"),
        "molecules": ("molecules_page",),
        "posterior": ("corner_figure", "coverage_figure"),
    },
)
