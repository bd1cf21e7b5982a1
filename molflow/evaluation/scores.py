"""Scores as values: one score with all that it needs to be understood, and the scores of one set of molecules."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from molflow.evaluation.metrics import METRICS, label
from molflow.extras import import_extra
from molflow.plot.tables import html_table

if TYPE_CHECKING:
    import pandas

Interval = tuple[float, float]

_VIEWS = (
    "atom_stability", "molecule_stability", "validity", "connected_validity", "uniqueness", "validity_x_uniqueness",
    "novelty", "n_distinct", "n_novel", "nearest_training_similarity", "nearest_training_similarity_median",
    "novel_compositions",
)  # fmt: skip
_INTERVALS = (
    "atom_stability", "molecule_stability", "validity", "connected_validity", "validity_x_uniqueness", "novelty",
    "novel_compositions",
)  # fmt: skip
_MAIN = (
    "molecule_stability", "atom_stability", "validity", "connected_validity", "uniqueness", "validity_x_uniqueness",
    "novelty",
)  # fmt: skip
_COUNTS = {"n_distinct": "validity_x_uniqueness", "n_novel": "novelty"}  # the numerators of these


@dataclass(frozen=True)
class Score:
    """The value of a metric: a fraction of things counted, or a figure that summarises values.

    Attributes:
        value: a fraction in 0..1, or the figure; None if the denominator is 0.
        count: numerator of a fraction, else None.
        of: denominator of a fraction, or number of values behind the figure.
        what: the denominator in words.
        protocol: the rule.
        unit: unit of a figure; empty for a fraction.
        interval: Wilson's 95 % interval of a fraction, else None.
        reference: value of the reference data set, or None.
    """

    value: float | None
    count: int | None
    of: int
    what: str
    protocol: str
    unit: str = ""
    interval: Interval | None = None
    reference: float | None = None


@dataclass(frozen=True, kw_only=True, repr=False)
class MoleculeScores:
    """Scores of one set of molecules. Fractions are in 0..1; a score that was not computed is None.

    Every metric is also an attribute, as in `scores.molecule_stability`, and so is its interval, as in
    `scores.molecule_stability_interval`. Metrics that were not computed are None there and missing in `metrics`.

    Wilson's 95 % intervals assume independent counts. The atoms of one molecule are not independent, so the interval of
    atom_stability is too narrow. Fractions of distinct molecules fall as more are sampled, and their intervals hold for
    the number sampled.

    Attributes:
        n_molecules, n_atoms: number of molecules and atoms that were scored.
        n_unreadable: number of records that could not be read; they are in no other figure.
        n_unscored: number of records that were read and are in no other figure, see the status "unscored".
        protocol: the rule that assigned the bonds of the main figures.
        training: name of the training molecules that novelty is measured against.
        reference_scores: the same scores of a reference data set, which are the ceiling.
        metrics: scores by name in the order of `METRICS`, each with its count, denominator and protocol.
        distributions: by quantity, the number of values, their mean and their 5, 50 and 95 % quantiles; with a
            reference the Wasserstein distance to it; for atom counts and descriptors also a coarse histogram.
        statuses: number of molecules by status, see `molflow.evaluation.STATUSES`.
        unscored: number of molecules that are in no figure by the reason.

    Example:
        >>> scores = MoleculeScores(n_molecules=2, n_atoms=6, protocol="", reference_scores=None, metrics={
        ...     "molecule_stability": Score(0.5, 1, 2, "molecules", "EDM", interval=(0.09, 0.91))})
        >>> scores
        MoleculeScores(n_molecules=2, molecule_stability=0.5)
        >>> scores.molecule_stability_interval, scores.novelty
        ((0.09, 0.91), None)
    """

    n_molecules: int
    n_unreadable: int = 0
    n_unscored: int = 0
    n_atoms: int
    protocol: str
    training: str | None = None
    reference_scores: dict[str, Any] | None
    metrics: dict[str, Score] = field(default_factory=dict)
    distributions: dict[str, dict[str, Any]] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    unscored: dict[str, int] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        """The value, interval or count of a metric by name; None where it was not computed."""
        kind = "interval" if name.endswith("_interval") else "count" if name in _COUNTS else "value"
        metric = _COUNTS.get(name, name.removesuffix("_interval"))
        if name.startswith("_") or metric not in METRICS:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.metrics.get(metric), kind, None)

    def __repr__(self) -> str:
        main = ("molecule_stability", "connected_validity", "uniqueness", "novelty")
        values = [("n_molecules", self.n_molecules), *((name, getattr(self, name)) for name in main)]
        shown = (f"{name}={value:.4g}" for name, value in values if value is not None)
        return f"{type(self).__name__}({', '.join(shown)})"

    def to_dict(self) -> dict[str, Any]:
        """All scores under their own names, ready for JSON."""
        record = asdict(self)
        parts = {name: record.pop(name) for name in ("metrics", "distributions", "statuses", "unscored")}
        record |= {name: getattr(self, name) for name in _VIEWS}
        return record | {f"{name}_interval": getattr(self, f"{name}_interval") for name in _INTERVALS} | parts

    def to_frame(self) -> pandas.DataFrame:
        """One row for each metric, indexed by its name.

        Raises:
            MolflowError: pandas is not installed.
        """
        frames = import_extra("pandas", "frame", "a data frame")
        rows = []
        for score in self.metrics.values():
            row = asdict(score)
            row["low"], row["high"] = row.pop("interval") or (None, None)
            rows.append(row)
        frame: pandas.DataFrame = frames.DataFrame(rows, index=frames.Index(self.metrics, name="metric"))
        return frame

    def summary(self) -> str:
        """The main scores as lines of text, each with its interval, its denominator and the value of the reference.

        Example:
            >>> batch = molflow.load_pretrained("qm9").sample(10, seed=0)
            >>> print(molflow.evaluate(batch, scope="stability", reference=None).summary())
            molecule stability  100.00 % [72.25, 100.00] of 10 molecules
            atom stability      100.00 % [97.89, 100.00] of 178 atoms
        """
        name = (self.reference_scores or {}).get("name", "reference")
        found = [(label(key), self.metrics[key]) for key in _MAIN if key in self.metrics]
        width = max((len(words) for words, _ in found), default=0)
        lines = []
        for words, score in found:
            ends = "" if score.interval is None else f" [{', '.join(f'{100 * end:.2f}' for end in score.interval)}]"
            of = f" of {score.of:,} {score.what}"
            beside = "" if score.reference is None else f"; {name}: {_shown(score, score.reference)}"
            lines.append(f"{words:<{width}}  {_shown(score, score.value):>8}{ends}{of}{beside}")
        return "\n".join(lines)

    def plot(self, ax: Any = None) -> Any:
        """Draw the main fractions with their intervals and the reference's values, see `molflow.plot.scores`.

        Raises:
            MolflowError: matplotlib is not installed.
        """
        from molflow.plot import scores

        found = {label(key): self.metrics[key] for key in _MAIN if getattr(self, key) is not None}
        return scores(
            {words: score.value for words, score in found.items() if score.value is not None},
            {words: score.interval for words, score in found.items() if score.interval is not None},
            {words: score.reference for words, score in found.items() if score.reference is not None},
            ax,
        )

    def _repr_html_(self) -> str:
        """A table in notebooks."""
        rows = [
            (
                label(name),
                _shown(score, score.value),
                " – ".join(_shown(score, end) for end in score.interval or ()),
                f"{score.of:,} {score.what}",
                _shown(score, score.reference),
                score.protocol,
            )
            for name, score in self.metrics.items()
        ]
        return html_table(rows, ("", "score", "95 % interval", "of", "reference", "protocol"))


def _shown(score: Score, value: float | None) -> str:
    if value is None:
        return ""
    return f"{100 * value:.2f} %" if score.count is not None else f"{value:.4g} {score.unit}".rstrip()
