"""Pictures of molecules: what is painted, and the view in a browser."""

import io
from pathlib import Path

import numpy as np
import pytest
from browser import needs_chromium, open_in_browser
from PIL import Image

from molflow.batch import MoleculeBatch
from molflow.chem import Structure, read_structures
from molflow.errors import MolflowError
from molflow.plot import MoleculeView

QM9 = list(read_structures(Path(__file__).parents[1] / "fixtures" / "qm9_200.npz"))
WATER = Structure(np.array([[0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48]]), np.array([8, 1, 1]))


def pixels(view):
    return np.asarray(Image.open(io.BytesIO(view.png())).convert("RGB")).astype(int)


def share(image, red, green, blue):
    """Share of the pixels near a colour."""
    return (np.abs(image - [red, green, blue]).max(-1) < 30).mean()


def test_elements_are_painted_in_their_colours_and_inside_the_picture():
    image = pixels(MoleculeView([WATER]))
    assert image.shape == (240, 240, 3)
    assert share(image, 200, 40, 40) > 0.005  # oxygen
    assert share(image, 80, 110, 240) == 0  # no nitrogen
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    assert (border == 255).all()


@pytest.mark.parametrize("number", [1, 4, 5, 12])
def test_molecules_stand_in_rows_of_four(number):
    image = pixels(MoleculeView(QM9[:number]))
    assert image.shape == (240 * -(-number // 4), 240 * min(number, 4), 3)
    for place in range(number):
        row, column = divmod(place, 4)
        assert (image[240 * row : 240 * (row + 1), 240 * column : 240 * (column + 1)] < 250).any()


def test_one_atom_and_atoms_on_one_spot_are_painted():
    for positions in (np.zeros((1, 3)), np.zeros((2, 3))):
        assert (pixels(MoleculeView([Structure(positions, np.full(len(positions), 6))])) < 250).any()


def test_a_batch_shows_one_or_the_first_twelve(tmp_path):
    batch = MoleculeBatch.from_structures(QM9[:20])
    assert repr(batch.view(3)) == repr(MoleculeView(QM9[3:4]))
    assert repr(batch.view(-1)) == repr(MoleculeView(QM9[19:20]))
    assert repr(batch.view()) == repr(MoleculeView(QM9[:12]))
    assert batch.view()._repr_html_() is None
    assert batch.view(0)._repr_html_().startswith("<iframe")
    batch.view().write(tmp_path / "all.png")
    assert (tmp_path / "all.png").read_bytes() == batch.view()._repr_png_()
    with pytest.raises(IndexError, match="no molecule 20 in a batch of 20"):
        batch.view(20)
    with pytest.raises(MolflowError, match="with_hydrogens"):
        batch.united_atom().view(0)


def test_bad_input(tmp_path):
    with pytest.raises(MolflowError, match="1 to 12 molecules, got 0"):
        MoleculeView([])
    with pytest.raises(MolflowError, match=r"accepted are \.png \.html"):
        MoleculeView([WATER]).write(tmp_path / "water.svg")


@needs_chromium
def test_a_browser_shows_the_molecule_in_three_dimensions(tmp_path):
    path = tmp_path / "page.html"
    MoleculeView([QM9[50]]).write(path)
    count = "<script>document.body.dataset.atoms = viewer.selectedAtoms({}).length</script>"
    path.write_text(path.read_text(encoding="utf-8") + count, encoding="utf-8")
    dom, console = open_in_browser(path, tmp_path)
    assert console == []
    assert f'data-atoms="{len(QM9[50].atomic_numbers)}"' in dom
    assert "<canvas" in dom
