"""Loss by removing the hydrogens of QM9 and placing them again, by molflow and, to compare, by RDKit.

    python experiments/hydrogens.py [--molecules 130831] [--sample 5000] [--json FILE]
    python experiments/hydrogens.py --environment [--molecules 130831]

All molecules are scored for stability before and after. A random sample is also scored for validity, for canonical
SMILES that stay equal, and for the distance between each hydrogen and its new place; hydrogens of one atom are matched
so that the sum of squares is least. The distances include torsions that are free anyway (OH, CH3).

With --environment the molecules become points with environment types and come back as a model would make them. The
figures are the stability before and after, and the share whose bonds are those that the types say.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rdkit import Chem
from tqdm import tqdm

from molflow.batch import MoleculeBatch
from molflow.chem import Structure, bond_orders, bonded_mol, canonical_smiles, stability, to_rdkit
from molflow.chem.build import bond_list
from molflow.data import MoleculeSet, load_qm9
from molflow.distributions import CompositionModel
from molflow.evaluation import evaluate
from molflow.flows.domains import ComposedMoleculeDomain, code_name, type_codes
from molflow.geometry import project

BATCH_SIZE = 1000


def rdkit_hydrogens(batch: MoleculeBatch) -> MoleculeBatch:
    """As `MoleculeBatch.with_hydrogens`, by RDKit's AddHs."""
    assert batch.hydrogens is not None
    orders = bond_orders(batch.positions, batch.atomic_numbers, batch.mask).numpy()
    x, z = batch.positions.numpy(), batch.atomic_numbers.numpy()
    structures = []
    for i, n in enumerate(batch.n_atoms.tolist()):
        mol = bonded_mol(x[i, :n], z[i, :n], bond_list(orders[i, :n, :n]))
        for atom, count in zip(mol.GetAtoms(), batch.hydrogens[i, :n].tolist(), strict=True):
            atom.SetNumExplicitHs(count)
        mol.UpdatePropertyCache(strict=False)
        Chem.FastFindRings(mol)
        Chem.SetConjugation(mol)
        Chem.SetHybridization(mol)
        full = Chem.AddHs(mol, explicitOnly=True, addCoords=True).GetConformer().GetPositions()
        structures.append(Structure(full, np.append(z[i, :n], np.ones(len(full) - n, dtype=np.int64))))
    return MoleculeBatch.from_structures(structures)


PLACERS: dict[str, Callable[[MoleculeBatch], MoleculeBatch]] = {
    "molflow": MoleculeBatch.with_hydrogens,
    "rdkit": rdkit_hydrogens,
}


def batches(molecules: MoleculeSet) -> list[MoleculeBatch]:
    n = len(molecules)
    return [molecules.batch(slice(start, start + BATCH_SIZE)) for start in range(0, n, BATCH_SIZE)]


def stable(parts: list[MoleculeBatch]) -> np.ndarray:
    """Stability of every molecule (M,); united atoms are counted without placing their hydrogens."""
    return np.concatenate([stability(b.positions, b.atomic_numbers, b.mask, b.hydrogens)[1].numpy() for b in parts])


def failed(before: Structure, after: Structure) -> bool:
    same = np.array_equal(np.sort(before.atomic_numbers), np.sort(after.atomic_numbers))
    return not same or not np.isfinite(after.positions).all()


def smiles(structure: Structure) -> str | None:
    mol = to_rdkit(*structure)
    return None if mol is None else canonical_smiles(mol)


def displacements(before: Structure, after: Structure) -> list[float]:
    """Distance between each hydrogen and its new place, Å."""
    heavy, hydrogen = before.atomic_numbers > 1, before.atomic_numbers == 1
    old, new = before.positions[hydrogen].astype(float), after.positions[heavy.sum() :].astype(float)
    owner = np.linalg.norm(old[:, None] - before.positions[heavy], axis=-1).argmin(1)
    new_owner = np.sort(owner)  # they were added in the order of the atoms that carry them
    result = []
    for atom in np.unique(owner):
        mine, placed = old[owner == atom], new[new_owner == atom]
        matches = [np.linalg.norm(mine[list(p)] - placed, axis=-1) for p in itertools.permutations(range(len(mine)))]
        result += min(matches, key=lambda d: float(np.square(d).sum())).tolist()
    return result


def scores(structures: list[Structure], sample: np.ndarray) -> dict[str, Any]:
    every, some = evaluate(structures, scope="stability"), evaluate([structures[i] for i in sample])
    return {
        "atom_stability": every.atom_stability,
        "molecule_stability": every.molecule_stability,
        "sample_validity": some.validity,
        "sample_connected_validity": some.connected_validity,
    }


def environment_round_trip(molecules: MoleculeSet) -> None:
    """Molecules -> points and environment types -> molecules; prints what stays."""
    start = time.perf_counter()
    united = molecules.united_atom()
    codes = type_codes(
        torch.from_numpy(united.atomic_numbers),
        torch.from_numpy(united.hydrogens),
        torch.from_numpy(united.heavy_bonds()),
    )
    types = [code_name(code) for code in codes.unique().tolist()]
    print(f"{len(types)} types in {time.perf_counter() - start:.1f} s: {' '.join(types)}")  # noqa: T201
    domain = ComposedMoleculeDomain(types, "environment", 1.15, CompositionModel(len(types)))
    before, after, realised = [], [], []
    for batch in tqdm(batches(molecules), desc="there and back"):
        data = domain.represented(batch)
        points = project(data.positions, data.mask) / domain.scale
        made = domain.molecules(points, domain.types_of(data).clamp(min=0), data.mask)
        before.append(batch.stability()[1])
        after.append(made.stability()[1])
        realised.append(made.realised())
    old, new, same = map(torch.cat, (before, after, realised))
    print(f"stable before {old.double().mean():.4%}, after {new.double().mean():.4%}")  # noqa: T201
    print(f"lost {int((old & ~new).sum())}, gained {int((new & ~old).sum())}, realised {same.double().mean():.4%}")  # noqa: T201


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--molecules", type=int)
    parser.add_argument("--environment", action="store_true", help="the round trip through environment types")
    parser.add_argument("--sample", type=int, default=5000)
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "hydrogens.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    molecules = load_qm9("all").subset(slice(arguments.molecules))
    if arguments.environment:
        environment_round_trip(molecules)
        return
    start = time.perf_counter()
    united = molecules.united_atom()
    record: dict[str, Any] = {"n_molecules": len(molecules), "united_seconds": time.perf_counter() - start}
    before, parts = list(molecules.structures()), batches(united)
    was_stable, by_shortcut = stable(batches(molecules)), stable(parts)
    sample = np.random.default_rng(0).permutation(len(before))[: arguments.sample]
    old_smiles = [smiles(before[i]) for i in sample]
    record |= {"sample": len(sample), "batch_size": BATCH_SIZE, "threads": 1, "before": scores(before, sample)}

    for name, place in PLACERS.items():
        start = time.perf_counter()
        full = [place(part) for part in tqdm(parts, desc=name)]
        seconds = time.perf_counter() - start
        after, is_stable = [structure for part in full for structure in part.structures()], stable(full)
        kept = [a == smiles(after[i]) for i, a in zip(sample, old_smiles, strict=True) if a is not None]
        moved = [d for i in sample for d in displacements(before[i], after[i])]
        record[name] = scores(after, sample) | {
            "failed": sum(map(failed, before, after)),
            "stable_lost": int((was_stable & ~is_stable).sum()),
            "stable_gained": int((~was_stable & is_stable).sum()),
            "differs_from_shortcut": int((by_shortcut != is_stable).sum()),
            "sample_valid_before": len(kept),
            "sample_valid_before_same_smiles": sum(kept),
            "displacement_median": float(np.median(moved)),
            "displacement_90_percent": float(np.quantile(moved, 0.9)),
            "ms_per_molecule": 1e3 * seconds / len(before),
        }

    arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    for key in record["molflow"]:
        figures = "".join(f"{record[name].get(key, float('nan')):>12.6g}" for name in ("before", *PLACERS))
        print(f"{key:34}{figures}")  # noqa: T201
    print(f"columns: before, {', '.join(PLACERS)}; {len(before)} molecules, sample of {len(sample)}")  # noqa: T201


if __name__ == "__main__":
    main()
