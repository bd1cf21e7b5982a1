"""Scores of molecules that are still being made: a thread evaluates the batches that have arrived."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import Full, Queue

from molflow.batch import MoleculeBatch, structures_of
from molflow.chem.structure import Structure
from molflow.errors import MolflowError
from molflow.evaluation.molecules import evaluate
from molflow.evaluation.options import EvaluationOptions
from molflow.evaluation.scores import MoleculeScores
from molflow.files import Closing

_AHEAD = 4  # batches that may wait; it bounds the memory
_LOOKS_AGAIN = 0.2  # seconds


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
        self._batches: Queue[MoleculeBatch | None] = Queue(_AHEAD)
        self._closed = False
        self._executor = ThreadPoolExecutor(1, "evaluation")
        self._scores = self._executor.submit(evaluate, self._arriving(), options=options)

    def add(self, batch: MoleculeBatch) -> None:
        """Evaluate these molecules too, soon; waits while several batches are not evaluated yet."""
        self._put(batch)

    def scores(self) -> MoleculeScores:
        """Scores of all molecules, when the last of them is evaluated; raises what `evaluate` raises."""
        self._put(None)
        return self._scores.result()

    def close(self) -> None:
        """End the thread and its workers; molecules that are not evaluated yet are left out."""
        self._closed = True
        self._put(None)
        self._executor.shutdown()

    def _put(self, batch: MoleculeBatch | None) -> None:
        """Hand over a batch, unless the evaluation has failed, which `scores` tells."""
        while not self._scores.done():
            try:
                return self._batches.put(batch, timeout=_LOOKS_AGAIN)
            except Full:
                continue
        return None

    def _arriving(self) -> Iterator[Structure]:
        while (batch := self._batches.get()) is not None:
            for structure in structures_of(batch):
                if self._closed:
                    raise MolflowError("the evaluation was closed")
                yield structure
