"""What commands share: their options, how they refuse some of them, and the flow they work with."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from molflow.errors import MolflowError

if TYPE_CHECKING:
    from molflow.energies import System
    from molflow.flows import Flow

# typer carries its own copy of click in some versions, so click's name is reached through typer's.
UsageError: Any = typer.BadParameter.__bases__[0]

DataSet = Literal["qm9", "dw4", "lj13", "lj13-unordered", "lj55", "lj55-unordered"]
"""QM9 and the keys of `molflow.energies.ENERGIES`; written out, so that --help need not load torch."""

Model = Annotated[str, typer.Option("--model", "-m", help="A shipped model (see `molflow models`) or a folder.")]
Json = Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Samples made at a time.")]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Molecules: processes that run RDKit; by default one for each core.")
]
Evaluations = Annotated[
    int | None,
    typer.Option(
        "--evaluations", "-k", min=1, help="Network evaluations a sample; by default those the model was made for."
    ),
]


@dataclass(frozen=True)
class Draw:
    """What is asked of a flow."""

    model: str
    n: int
    batch_size: int
    device: str
    evaluations: int | None = None
    seed: int = 0
    temperature: float = 1.0
    density: bool = True

    @property
    def label(self) -> str:
        """The model, and the evaluations that were asked for."""
        return self.model if self.evaluations is None else f"{self.model}@{self.evaluations}"

    def evaluations_of(self, flow: "Flow") -> int | None:
        """Those asked for, or else the flow's own; None where it decides as it goes."""
        return self.evaluations or flow.n_evaluations


def refuse(why: str, **options: Any) -> None:
    """Raise a usage error for the first of these options that was given: --NAME why."""
    for name, value in options.items():
        if value not in (None, False):
            raise UsageError(f"--{name.replace('_', '-')} {why}")


def named(text: str) -> tuple[str, int | None]:
    """A model, and the evaluations of its network if it is written NAME@K."""
    if not text.strip():
        raise UsageError("--models has an empty name")
    name, _, k = text.strip().rpartition("@")
    return (name, int(k)) if name and k.isdecimal() and int(k) else (text.strip(), None)


def load_flow(model: str, device: str, evaluations: int | None = None) -> "Flow":
    """The flow of a model by name or folder; a device or a number of evaluations that it cannot use is an error."""
    import torch

    from molflow.pretrained import load_named

    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise typer.BadParameter(f"unknown device {device!r}; expected cpu, cuda or cuda:N") from error
    if chosen.type not in ("cpu", "cuda"):
        raise typer.BadParameter(f"device {device!r} is not supported; expected cpu, cuda or cuda:N")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise MolflowError(f"--device {device}: torch finds {torch.cuda.device_count()} CUDA devices here")
    flow = load_named(model, chosen)
    if (evaluations or 1) > 1 and not flow.takes_evaluations:
        raise MolflowError(f"{model}: made for one evaluation of the network, cannot use {evaluations}")
    return flow


def system_of(model: str) -> "System | None":
    """The system that a model was trained on, if it is a known one."""
    from molflow.energies import ENERGIES, get_system
    from molflow.pretrained import folder_of
    from molflow.training.checkpoint import read_config

    name = read_config(folder_of(model)).data.name
    return get_system(name) if name in ENERGIES else None


def of_particles(flow: "Flow") -> bool:
    """Whether a flow makes particles and not molecules."""
    from molflow.flows import ParticleDomain

    return isinstance(flow.domain, ParticleDomain)
