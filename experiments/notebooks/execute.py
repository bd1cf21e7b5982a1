"""Execute the notebooks of this folder and keep what they show: python experiments/notebooks/execute.py [NAME ...]"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def execute(path: Path, folder: Path, parameters: str | None = None) -> Any:
    """The notebook after its cells have run in a folder.

    Args:
        path: of the notebook.
        folder: where its cells run and leave their files.
        parameters: assignments in place of those of the cell with the tag "parameters".

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    if parameters is not None:
        (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
        cell.source = parameters
    NotebookClient(notebook, timeout=3600, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day
        if cell.cell_type == "code":
            cell.outputs = [kept(output) for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


def kept(output: Any) -> Any:
    """An output without its HTML where it is a picture as well: a molecule that turns takes 0.7 MB."""
    if "image/png" in output.get("data", {}):
        output["data"].pop("text/html", None)
    return output


def main() -> None:
    chosen = [path for path in NOTEBOOKS if not sys.argv[1:] or path.stem in sys.argv[1:]]
    for path in chosen:
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(execute(path, Path(folder)), path)


if __name__ == "__main__":
    main()
