"""Scores of molecules that are still being made: a thread evaluates the batches that have arrived."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

from molflow.batch import MoleculeBatch, structures_of
from molflow.chem.structure import Structure
from molflow.errors import MolflowError
from molflow.evaluation.molecules import evaluate
from molflow.evaluation.options import EvaluationOptions
from molflow.evaluation.scores import MoleculeScores
from molflow.files import Closing


class BackgroundEvaluation(Closing):
    """`evaluate` beside other work, with the same result.

    Args:
        options: evaluation options; without `workers` the molecules are scored in the thread itself.

    Example:
        >>> batch = MoleculeBatch.from_structures([Structure([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]], [8, 1, 1])])
        >>> with BackgroundEvaluation(EvaluationOptions(scope="lookup")) as evaluation:
        ...     evaluation.add(batch)
        ...     evaluation.scores().molecule_stability
        1.0
    """

    def __init__(self, options: EvaluationOptions):
        self._batches: SimpleQueue[MoleculeBatch | None] = SimpleQueue()
        self._closed = False
        self._executor = ThreadPoolExecutor(1, "evaluation")
        self._scores = self._executor.submit(evaluate, self._arriving(), options=options)

    def add(self, batch: MoleculeBatch) -> None:
        """Evaluate these molecules too, soon."""
        self._batches.put(batch)

    def scores(self) -> MoleculeScores:
        """Scores of all molecules, when the last of them is evaluated; raises what `evaluate` raises."""
        self._batches.put(None)
        return self._scores.result()

    def close(self) -> None:
        """End the thread and its workers; molecules that are not evaluated yet are left out."""
        self._closed = True
        self._batches.put(None)
        self._executor.shutdown()

    def _arriving(self) -> Iterator[Structure]:
        while (batch := self._batches.get()) is not None:
            for structure in structures_of(batch):
                if self._closed:
                    raise MolflowError("the evaluation was closed")
                yield structure
