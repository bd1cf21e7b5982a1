"""Files about the project agree with each other."""

import re
import tomllib
from pathlib import Path

import pytest

import molflow
from molflow.extras import PACKAGES

ROOT = Path(__file__).parents[1]
TEXT = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in ("environment.yml", "constraints.txt", "Makefile", "CITATION.cff", "CHANGELOG.md")
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIREMENTS = sum(PROJECT["optional-dependencies"].values(), start=PROJECT["dependencies"])
PINNED = dict(re.findall(r"^([\w.-]+)==(.+)$", TEXT["constraints.txt"], re.MULTILINE))


def test_versions():
    version = molflow.__version__
    assert PROJECT["version"] == version
    assert f"\nversion: {version}\n" in TEXT["CITATION.cff"]
    assert f"\n## [{'Unreleased' if version.endswith('.dev0') else version}]" in TEXT["CHANGELOG.md"]


def test_the_conda_environment_installs_what_make_installs():
    torch, extras = re.search(r"torch==(\S+).*--editable \.\[(.+)\]", TEXT["environment.yml"], re.DOTALL).groups()
    assert torch == PINNED["torch"]
    assert f"EXTRAS := {extras}\n" in TEXT["Makefile"]


@pytest.mark.parametrize("requirement", REQUIREMENTS)
def test_every_requirement_has_a_lower_bound_and_a_tested_version(requirement):
    name, bound = re.fullmatch(r"([\w-]+)[>=]=([\d.]+)", requirement).groups()
    tested = [int(part) for part in re.findall(r"\d+", PINNED[name])]
    bound = [int(part) for part in bound.split(".")]
    assert tested >= bound


def test_messages_know_what_each_extra_installs():
    extras = {extra: re.match(r"[\w-]+", needs[0])[0] for extra, needs in PROJECT["optional-dependencies"].items()}
    assert {extra: name for extra, name in extras.items() if extra not in ("dev", "docs")} == PACKAGES


def test_types_are_shipped():
    assert (Path(molflow.__file__).parent / "py.typed").exists()
