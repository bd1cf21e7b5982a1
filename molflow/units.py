"""Units of quantities with which samples are asked for, and conversions between them."""

import difflib
import re

from molflow.errors import MolflowError

_UNITS: dict[str, dict[str, float]] = {
    "energy": {
        "eV": 1.0,
        "meV": 1e-3,
        "hartree": 27.211386245988,
        "kcal/mol": 0.0433641042,
        "kJ/mol": 0.0103642697,
        "cm^-1": 1.239841984e-4,
    },
    "length": {"angstrom": 1.0, "bohr": 0.529177210903, "nm": 10.0, "pm": 0.01},
    "area": {"angstrom^2": 1.0, "bohr^2": 0.280028520539},
    "volume": {"angstrom^3": 1.0, "bohr^3": 0.148184711472},
    "dipole": {"debye": 1.0, "e*bohr": 2.541746473},
    "heat capacity": {"cal/mol/K": 1.0, "J/mol/K": 1 / 4.184},
    "frequency": {"GHz": 1.0, "MHz": 1e-3},
    "mass": {"Da": 1.0, "g/mol": 1.0},
}
"""Kinds of quantities: unit -> its size in the first unit of the kind (CODATA 2018)."""

_ALIASES = {
    "Ha": "hartree", "Eh": "hartree", "au": "hartree", "Å": "angstrom", "A": "angstrom", "a0": "bohr", "D": "debye",
    "Debye": "debye", "a0^3": "bohr^3", "Å^3": "angstrom^3", "A^3": "angstrom^3", "a0^2": "bohr^2",
    "Å^2": "angstrom^2", "A^2": "angstrom^2", "ev": "eV", "amu": "Da",
}  # fmt: skip
_QUANTITY = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(.*?)\s*")
_NONE = ("", "1")  # no unit


def quantity(text: str, unit: str, name: str) -> float:
    """Read a number with or without a unit, in another unit.

    Args:
        text: such as "5.2 eV", "75bohr^3" or "0.2"; a number alone is in `unit`.
        unit: of the result; "" or "1" for numbers without unit.
        name: of the quantity, for messages.

    Raises:
        MolflowError: not a number with a unit, an unknown unit, or one of another kind.

    Example:
        >>> round(quantity("5.2 eV", "hartree", "gap"), 4), quantity("75", "bohr^3", "polarizability")
        (0.1911, 75.0)
    """
    found = _QUANTITY.fullmatch(text)
    if found is None:
        raise MolflowError(f"{name}={text}: expected a number, with its unit if need be, such as {name}=1.5{unit}")
    value, given = float(found[1]), _ALIASES.get(found[2], found[2])
    own = _ALIASES.get(unit, unit)
    if given in _NONE or given == own:
        return value
    if own in _NONE:
        raise MolflowError(f"{name}={text}: {name} has no unit here")
    kind = next((kind for kind, units in _UNITS.items() if own in units), None)
    accepted = _UNITS[kind] if kind else {own: 1.0}
    if given not in accepted:
        every = [name for units in _UNITS.values() for name in units]
        near = [] if given in every else difflib.get_close_matches(given, accepted, n=1)
        meant = f"; did you mean {near[0]}?" if near else f"; accepted are {', '.join(accepted)}"
        what = f"is not a unit of {kind}" if kind else f"cannot be converted to {own}"
        raise MolflowError(f"{name}={text}: {given} {what}{meant}")
    return value * accepted[given] / accepted[own]
