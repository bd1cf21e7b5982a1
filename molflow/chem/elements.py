"""The periodic table: element symbols, atomic numbers and covalent radii.

It is here so that reading a file, naming a wrong element and sampling need no RDKit.
"""

import numpy as np

from molflow.errors import MolflowError

_TABLE = """
H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr
Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu
Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr
Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og
"""

SYMBOLS: tuple[str, ...] = tuple(_TABLE.split())
"""Element symbols in order: `SYMBOLS[z - 1]` has atomic number z, for z from 1 (H) to 118 (Og)."""

_RADII = """
31 28 128 96 84 76 71 66 57 58 166 141 121 111 107 105 102 106 203 176 170 160 152 139 139 132 126 124 132 122 122 120
119 120 120 116 220 195 190 175 164 154 147 146 142 139 145 144 142 139 139 138 139 140 244 215 207 204 203 201 199 198
198 196 194 192 192 189 190 187 187 175 170 162 151 144 141 136 136 132 145 146 148 140 150 150 260 221 215 206 200 196
190 187 180 169
"""

COVALENT_RADII: np.ndarray = np.array([0, *map(int, _RADII.split()), *[169] * 22]) / 100
"""Covalent radii in Å by atomic number, 0 at 0. Elements beyond curium, which have no known one, get curium's.

Source: B. Cordero et al., Dalton Trans. (2008) 2832.
"""

_NUMBERS = {symbol: z for z, symbol in enumerate(SYMBOLS, start=1)}


def atomic_number(symbol: str) -> int:
    """The atomic number of an element symbol, in any capitalisation ("Cl", "CL", "cl").

    Raises MolflowError for a symbol that names no element.

    Example:
        >>> atomic_number("Cl")
        17
    """
    try:
        return _NUMBERS[symbol.capitalize()]
    except KeyError:
        raise MolflowError(f"unknown element {symbol!r}; accepted are the symbols H to Og") from None


def symbol(atomic_number: int) -> str:
    """The symbol of an atomic number from 1 to 118. Raises MolflowError outside that range.

    Args:
        atomic_number: from 1 to 118.

    Example:
        >>> symbol(17)
        'Cl'
    """
    if not 1 <= atomic_number <= len(SYMBOLS):
        raise MolflowError(f"unknown atomic number {atomic_number}; accepted are 1 (H) to {len(SYMBOLS)} (Og)")
    return SYMBOLS[atomic_number - 1]


def formula(atomic_numbers: np.ndarray) -> str:
    """Molecular formula such as ``C2H6O``: carbon, hydrogen, then the other elements by their symbols.

    Args:
        atomic_numbers: (n,), 1 to 118 each.

    Example:
        >>> formula(np.array([8, 6, 6, 1, 1, 1, 1, 1, 1]))
        'C2H6O'
    """
    numbers, counts = np.unique(atomic_numbers, return_counts=True)
    found = {symbol(z): n for z, n in zip(numbers.tolist(), counts.tolist(), strict=True)}
    order = sorted(found, key=lambda element: (element != "C", element != "H", element))
    return "".join(element + (str(found[element]) if found[element] > 1 else "") for element in order)
