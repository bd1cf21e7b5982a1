"""Three argon atoms by a calculator of ASE (extra `ase`), for `--energy argon:energy`. Any calculator will do."""

from ase import Atoms
from ase.calculators.lj import LennardJones

from molflow.energies import AseEnergy

atoms = Atoms("Ar3", positions=[[0, 0, 0], [3.8, 0, 0], [0, 3.8, 0]])
atoms.calc = LennardJones(sigma=3.4, epsilon=0.0104, rc=1000.0)  # angstrom, eV
energy = AseEnergy(atoms, temperature=30)
