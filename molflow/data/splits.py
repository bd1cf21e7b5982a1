"""Random splits of molecules that keep groups, such as those of one scaffold, together."""

import numpy as np


def drawn_folds(groups: list[str], folds: list[int], share: float, seed: int) -> np.ndarray:
    """Put whole groups, in random order, into each fold until it has its share; the rest is for training (0).

    A group is a scaffold, or one molecule. Large groups stay in training, so that no fold is one scaffold.
    """
    names, members = np.unique(groups, return_inverse=True)
    sizes = np.bincount(members, minlength=len(names))
    of_group = np.zeros(len(names), dtype=np.int8)
    order = [g for g in np.random.RandomState(seed).permutation(len(names)) if sizes[g] <= max(1, share * len(groups))]
    for fold in folds:
        wanted = max(1, round(share * len(groups))) if len(groups) > len(folds) else 0
        taken = 0
        while order and taken < wanted:
            group = order.pop()
            of_group[group], taken = fold, taken + sizes[group]
    found: np.ndarray = of_group[members]
    return found
