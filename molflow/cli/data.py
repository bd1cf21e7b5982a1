"""molflow data: prepare a data set and print a summary of it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from molflow.cli.options import Json, UsageError, completing, data_set_or_file, refuse, usage
from molflow.cli.output import check_json, console, show, show_lines, write_json
from molflow.data.registry import prepared_names

if TYPE_CHECKING:
    from molflow.energies import System


def data(
    name: Annotated[
        str,
        typer.Argument(
            help="A data set, or a file or folder of your own molecules.",
            callback=data_set_or_file,
            autocompletion=completing(prepared_names),
        ),
    ],
    source: Annotated[
        Literal["wheel", "pyg"] | None,
        typer.Option(help="QM9: the qm9pack wheel (the default), or PyTorch Geometric's download."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="Files: random (the default), scaffold, or a field with train, validation and test."),
    ] = None,
    split_seed: Annotated[int | None, typer.Option(min=0, help="Files: seed of the split and of conformers.")] = None,
    property_: Annotated[
        list[str] | None,
        typer.Option("--property", help="Files: keep a field or column, as NAME=UNIT; unit 1 for none; repeatable."),
    ] = None,
    smiles_column: Annotated[str | None, typer.Option(help="Files: column of a .csv file with SMILES.")] = None,
    fragments: Annotated[
        Literal["drop", "keep", "largest"] | None, typer.Option(help="Files: molecules of several fragments.")
    ] = None,
    add_hydrogens: Annotated[
        bool, typer.Option("--add-hydrogens", help="Files: complete molecules that lack hydrogens.")
    ] = False,
    describe: Annotated[
        bool, typer.Option("--describe", help="Files: also sizes, elements, charges, duplicates and properties.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Prepare it again.")] = False,
    json: Json = None,
) -> None:
    """Prepare a data set and keep it in the cache: molecules from their source, systems of particles by MCMC."""
    from molflow.config import parse
    from molflow.data import DATASETS

    settings = {
        "source": source,
        "split": split,
        "split_seed": split_seed,
        "smiles_column": smiles_column,
        "fragments": fragments,
        "add_hydrogens": add_hydrogens or None,
        "properties": _units(property_ or ()) or None,
    }
    settings = {key: value for key, value in settings.items() if value is not None}
    is_file = name not in DATASETS
    chosen = DATASETS["molecules" if is_file else name]
    for key in settings:
        if key not in chosen.model_fields:
            refuse(f"is not an option of {name}", **{"property" if key == "properties" else key: True})
    if describe and not is_file:
        refuse(f"is not an option of {name}", describe=True)
    check_json(json)
    with usage():
        data_set = parse(chosen, settings | ({"file": name} if is_file else {}), name)
    data_set.prepare(force=force, progress=True)
    record = data_set.describe()
    write_json(json, record)
    if is_file:
        _show_molecules(record, describe)
    elif (system := chosen.system()) is None:
        show([record])
    else:
        _show_chains(record, system)


def _units(words: Sequence[str]) -> dict[str, str]:
    """Names and units of properties."""
    pairs = [word.partition("=") for word in words]
    for word, (name, equals, unit) in zip(words, pairs, strict=True):
        if not (name.strip() and equals and unit.strip()):
            raise UsageError(
                f"--property {word}: expected NAME=UNIT, such as gap=eV, or NAME=1 for a number without unit"
            )
    return {name.strip(): unit.strip() for name, _, unit in pairs}


def _show_molecules(record: dict[str, Any], everything: bool) -> None:
    """Show what a user's file holds, and what was left out."""

    def counted(values: dict[str, Any]) -> str:
        return ", ".join(f"{name} {count:,}" for name, count in values.items()) or "none"

    lines: list[tuple[str, ...]] = [("molecules", f"{record['n_molecules']:,}")]
    lines += [(f"  for {split}", f"{record[f'n_{split}']:,}") for split in ("train", "validation", "test")]
    lines += [("left out", f"{record['n_dropped']:,}")]
    lines += [(f"  {count:,}", reason) for reason, count in list(record["dropped"].items())[:10]]
    if record["rare_elements"]:
        lines.append(("rare elements", counted(record["rare_elements"]), "molecules; too few to learn from"))
    if everything:
        lines += [
            (name, " / ".join(f"{value:g}" for value in values), "smallest / median / largest")
            for name, values in {
                "atoms": record["atoms"],
                "heavy atoms": record["heavy_atoms"],
                **record["properties"],
            }.items()
        ]
        lines += [
            ("atoms of each element", counted(record["elements"])),
            ("molecules of each charge", counted(record["charges"])),
            ("of several fragments", f"{record['n_of_several_fragments']:,}"),
            ("duplicates by SMILES", f"{record['n_duplicates']:,}"),
            ("that share their name with another", f"{record['n_sharing_a_name']:,}"),
        ]
    show_lines(lines)
    if record["n_dropped"]:
        console.print(f"Each molecule that was left out is in {record['dropped_file']}")
    console.print(f"The data are in {record['file']}")


def _show_chains(record: dict[str, Any], system: "System") -> None:
    """Show how well the Markov chains of a system of particles have mixed."""
    from molflow.data import SPLITS
    from molflow.report.tables import number, percent

    known = number(system.mean_energy, system.mean_energy_error)
    console.print(f"{record['name']}: {record['n_particles']} particles in {record['dim']} dimensions")
    show_lines(
        [
            *((f"{split} configurations", f"{record[f'n_{split}']:,}") for split in SPLITS),
            ("moves accepted", ", ".join(map(percent, record["acceptance"]))),
            ("swaps accepted", ", ".join(map(percent, record["swap_acceptance"])) or "-"),
            ("split R-hat of the energy", f"{record['r_hat']:.4f}", "1 when mixed"),
            (
                "mean energy, kT",
                number(record["mean_energy"], record["mean_energy_error"]),
                known and f"known: {known}",
            ),
            ("virial", number(record["virial"], record["virial_error"]), f"exact: {system.energy.dof}"),
        ]
    )
    console.print("Acceptance is for each temperature, and for swaps between neighbouring ones.")
    console.print("± is one standard error, from the means of chains.")
    console.print(f"The data are in {record['file']}")
