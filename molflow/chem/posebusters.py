"""PoseBusters' checks of a single molecule: bond lengths and angles, clashes, flatness, internal energy and others.

The thresholds are those of its configuration "mol". Lengths, angles and clashes concern heavy atoms only.

Source: M. Buttenschoen, G. M. Morris, C. M. Deane, Chem. Sci. 15 (2024) 3130.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from molflow.extras import import_extra

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rdkit import Chem

PROTOCOL = 'PoseBusters (Chem. Sci. 15 (2024) 3130), configuration "mol" without the internal energy'


def checks(mol: Chem.Mol, *, energy: bool = False) -> dict[str, bool | None]:
    """Whether a sanitised molecule with hydrogens and a conformer passes each check; None if a check cannot be made.

    The internal energy by UFF must not exceed 100 times the mean of 50 conformers, which PoseBusters embeds with a
    fixed seed, so results are reproducible. Water, methane and others whose lowest energy is 0 fail unless they are at
    that minimum. If RDKit cannot embed all 50, as for some small fused rings, there is no result, which takes tens of
    seconds to find out.

    Args:
        mol: the molecule; it is not changed.
        energy: also check the internal energy, which takes far longer than all other checks and is not in `PROTOCOL`.

    Raises:
        MolflowError: PoseBusters is not installed.
    """
    from rdkit import Chem

    posebusters = _posebusters(energy)
    with _silence():
        table = posebusters.bust([Chem.Mol(mol)])
    made = table.notna().iloc[0]
    return {name: bool(passed) if made[name] else None for name, passed in table.iloc[0].items()}


def failed_checks(mol: Chem.Mol, *, energy: bool = False) -> tuple[str, ...]:
    """The names of the `checks` that a molecule fails, as in PoseBusters' tables.

    Raises:
        MolflowError: PoseBusters is not installed.
    """
    return tuple(name for name, passed in checks(mol, energy=energy).items() if passed is False)


def check_installed() -> None:
    """Raise MolflowError unless PoseBusters is installed."""
    _posebusters(False)


@cache
def _posebusters(energy: bool) -> Any:
    package = import_extra("posebusters", "posebusters", "checking by PoseBusters")
    made = package.PoseBusters(config="mol" if energy else "mol_fast")
    modules = [module for module in made.config["modules"] if module.get("chosen_binary_test_output")]
    for module in modules:  # the energy is listed a second time, without an outcome
        if module["function"] == "energy_ratio":
            module["parameters"]["num_threads"] = 1
    made.config["modules"] = modules
    return made


@contextmanager
def _silence() -> Iterator[None]:
    """Silence PoseBusters and RDKit, then restore RDKit's log channels, since PoseBusters enables all of them."""
    from rdkit import rdBase

    channels = dict(line.split(":") for line in rdBase.LogStatus().splitlines())
    loggers = [logging.getLogger(name) for name in ("posebusters", "rdkit")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for channel, status in channels.items():
            if status != "enabled":
                rdBase.DisableLog(channel)
