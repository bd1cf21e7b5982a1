"""molflow data: prepare a data set and print a summary of it."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from molflow.cli.options import Json, known_data_set, refuse
from molflow.cli.output import check_json, console, show, show_lines, write_json

if TYPE_CHECKING:
    from molflow.energies import System


def data(
    name: Annotated[str, typer.Argument(help="The data set.", callback=known_data_set)],
    source: Annotated[
        Literal["wheel", "pyg"] | None,
        typer.Option(help="QM9: the qm9pack wheel (the default), or PyTorch Geometric's download."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Prepare it again.")] = False,
    json: Json = None,
) -> None:
    """Prepare a data set and keep it in the cache: molecules from their source, systems of particles by MCMC."""
    from molflow.data import DATASETS

    chosen = DATASETS[name]
    if "source" not in chosen.model_fields:
        refuse(f"is not an option of {name}", source=source)
    check_json(json)
    data_set = chosen.model_validate({} if source is None else {"source": source})
    data_set.prepare(force=force, progress=True)
    record = data_set.describe()
    system = chosen.system()
    if system is None:
        show([record], json)
    else:
        _show_chains(record, system)
        write_json(json, record)


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
