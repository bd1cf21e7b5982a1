"""A room imports only rooms listed above it (DESIGN section 2), and chemistry libraries are loaded only when used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import molflow

# "molflow" is __init__.py, the facade: only the command line may go through it.
ROOMS = [
    "errors", "extras", "files", "checksums", "interrupts", "progress", "memory", "threads", "workers", "units",
    "registry", "config", "geometry", "chem", "plot", "batch", "testing", "nn", "distributions", "volume", "energies",
    "flows", "pretrained", "data", "templates", "evaluation", "training", "report", "sbi", "molflow", "cli", "__main__",
]  # fmt: skip
FORBIDDEN = {"evaluation": {"flows", "training", "nn", "pretrained"}}  # it takes arrays and callables, never a model

PACKAGE = Path(molflow.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path):
    name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "molflow" if name == "__init__" else name


def imported_rooms(source):
    """Rooms named by any import statement, in functions and under TYPE_CHECKING as well."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for parts in (name.split(".") for name in names):
            if parts[0] == "molflow":
                yield parts[1] if parts[1:] and parts[1] in ROOMS else "molflow"


def violations(room, source):
    allowed = {room, *ROOMS[: ROOMS.index(room)]} - FORBIDDEN.get(room, set())
    return set(imported_rooms(source)) - allowed


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_rooms_above_it(path):
    assert violations(room_of(path), path.read_text(encoding="utf-8")) == set()


def test_a_violation_is_seen():
    assert violations("nn", "def f():\n    from molflow.flows import Flow") == {"flows"}
    assert violations("geometry", "import molflow.nn.egnn") == {"nn"}
    assert violations("chem", "from molflow import flows, errors") == {"flows"}
    assert violations("evaluation", "from molflow.training import load") == {"training"}
    assert violations("training", "from molflow import __version__") == {"molflow"}
    assert violations("flows", "from molflow.flows.base import Flow\nimport torch") == set()


@pytest.mark.slow
def test_sampling_loads_no_chemistry_library():
    script = """
import sys
import molflow.training
from molflow.flows import FreeFormConfig
from molflow.flows.domains import MoleculesConfig
from molflow.nn import EGNNConfig

tiny = EGNNConfig(hidden=4, n_blocks=1)
domain = MoleculesConfig(types=("C", "CH3"), representation="united-atom", atom_counts=(0, 0, 1))
flow = FreeFormConfig(domain=domain, encoder=tiny, decoder=tiny).build()
assert len(flow.sample(2, seed=0)) == 2
import molflow.evaluation
heavy = {"rdkit", "e3nn", "torch_geometric", "torchdiffeq", "scipy.stats", "scipy.optimize", "sklearn", "zuko"}
print(sorted(heavy & set(sys.modules)))
"""
    assert output_of(script) == "[]"


def test_the_package_alone_loads_nothing():
    script = "import sys, molflow; print(sorted({'torch', 'numpy', 'sklearn', 'zuko'} & set(sys.modules)))"
    assert output_of(script) == "[]"


@pytest.mark.slow
def test_only_a_network_of_tensor_products_loads_e3nn():
    script = """
import sys
from molflow.flows import FreeFormConfig
from molflow.flows.domains import ParticlesConfig
from molflow.nn import TensorProductConfig

network = TensorProductConfig()
FreeFormConfig(domain=ParticlesConfig(n_particles=3, dim=3), encoder=network, decoder=network)
print("e3nn" in sys.modules)
network.build(0)
print("e3nn" in sys.modules)
"""
    assert output_of(script).split() == ["False", "True"]


def output_of(script):
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.strip()
