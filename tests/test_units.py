"""Quantities with units: read, converted, and refused."""

import pytest

from molflow.errors import MolflowError
from molflow.units import quantity


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("5.2eV", "eV", 5.2),
        ("1 hartree", "eV", 27.211386),
        ("27.211386 eV", "Ha", 1.0),
        ("75 bohr^3", "bohr^3", 75.0),
        ("1 A^3", "bohr^3", 6.748334),
        ("-0.2", "hartree", -0.2),
        ("1e-3", "1", 1e-3),
        ("6 D", "debye", 6.0),
        ("4.184 J/mol/K", "cal/mol/K", 1.0),
        ("3 kg", "kg", 3.0),
    ],
)
def test_a_quantity_is_converted(text, unit, value):
    assert quantity(text, unit, "it") == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize(
    ("text", "unit", "problem"),
    [
        ("five", "eV", "expected a number"),
        ("5 bohr", "eV", "bohr is not a unit of energy; accepted are eV, meV"),
        ("5 hartre", "eV", "did you mean hartree?"),
        ("5 eV", "1", "has no unit here"),
        ("5 g", "kg", "cannot be converted to kg"),
    ],
)
def test_a_wrong_unit_is_refused(text, unit, problem):
    with pytest.raises(MolflowError, match=problem.replace("?", "\\?")):
        quantity(text, unit, "gap")
