"""Files about the project agree with each other."""

import re
import tomllib
from pathlib import Path

import pytest

import molflow

ROOT = Path(__file__).parents[1]
TEXT = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in ("environment.yml", "constraints.txt", "Makefile", "CITATION.cff", "CHANGELOG.md")
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIREMENTS = [
    *PROJECT["dependencies"],
    *(each for extra in PROJECT["optional-dependencies"].values() for each in extra),
]
PINNED = dict(re.findall(r"^([\w.-]+)==(.+)$", TEXT["constraints.txt"], re.MULTILINE))


def test_versions():
    version = molflow.__version__
    assert PROJECT["version"] == version
    assert f"\nversion: {version}\n" in TEXT["CITATION.cff"]
    assert f"\n## [{version}]" in TEXT["CHANGELOG.md"]


def test_the_conda_environment_installs_what_make_installs():
    torch, extras = (
        re.search(pattern, TEXT["environment.yml"])[1] for pattern in (r"torch==(\S+)", r"--editable \.\[(.+)\]")
    )
    assert torch == PINNED["torch"]
    assert f"EXTRAS := {extras}\n" in TEXT["Makefile"]


@pytest.mark.parametrize("requirement", REQUIREMENTS)
def test_every_requirement_has_a_lower_bound_and_a_tested_version(requirement):
    name, relation, bound = re.fullmatch(r"([\w-]+)(>=|==)([\d.]+)", requirement).groups()
    tested = [int(part) for part in re.findall(r"\d+", PINNED[name])]
    bound = [int(part) for part in bound.split(".")]
    assert tested >= bound


def test_types_are_shipped():
    assert (Path(molflow.__file__).parent / "py.typed").exists()
