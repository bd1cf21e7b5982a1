"""Laws of reading over all formats: written records are read back, and damage loses only the record that it hits."""

import gzip
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rdkit import Chem

from molflow.chem import SYMBOLS, Structure, bonded_mol, iter_records, symbol
from molflow.errors import MolflowError

QUICK = settings(
    derandomize=True, database=None, deadline=None, max_examples=150, suppress_health_check=list(HealthCheck)
)


# ---- formats: the text of one molecule -------------------------------------------------------------------------------


def mol_block(structure, v3000=False):
    n = len(structure.atomic_numbers)
    chain = np.array([(i, i + 1, 1) for i in range(n - 1)]).reshape(-1, 3)
    mol = bonded_mol(*structure[:2], chain)
    mol.SetProp("_Name", "2")  # a title that could be the count of an XYZ
    fields = "> <note>\nM  END of nothing\n  3  2  0  0  0  0  0  0  0  0999 V2000\n\n>  <size>\n3\n\n"
    return f"{Chem.MolToMolBlock(mol, kekulize=False, forceV3000=v3000)}{fields}$$$$\n"


def xyz(structure):
    atoms = zip(structure.atomic_numbers.tolist(), structure.positions.tolist(), strict=True)
    lines = [f"{symbol(z)} {x:.8f} {y:.8f} {w:.8f}" for z, (x, y, w) in atoms]
    return "\n".join([str(len(lines)), "17", *lines, ""])


def extended_xyz(structure):
    atoms = zip(structure.atomic_numbers.tolist(), structure.positions.tolist(), strict=True)
    lines = [f"{symbol(z)} 0.5 {x:.8f} {y:.8f} {w:.8f} -1 -2 -3" for z, (x, y, w) in atoms]
    comment = 'Lattice="9 0 0 0 9 0 0 0 9" Properties=species:S:1:charge:R:1:pos:R:3:forces:R:3 energy=-1.5 pbc="F F F"'
    return "\n".join([str(len(lines)), comment, *lines, ""])


FORMATS = {
    "V2000": (".sdf", mol_block, 5.1e-5),
    "V3000": (".mol", lambda structure: mol_block(structure, v3000=True), 5.1e-7),
    "XYZ": (".xyz", xyz, 5.1e-9),
    "extended XYZ": (".extxyz", extended_xyz, 5.1e-9),
}
by_format = pytest.mark.parametrize("name", FORMATS)


def molecules(n, seed=0, smallest=3):
    """Random molecules of different sizes, so that each can be recognised."""
    generator = np.random.default_rng(seed)
    return [
        Structure(generator.normal(size=(size, 3)) * 3, generator.integers(1, 10, size))
        for size in range(smallest, smallest + n)
    ]


def blocks(name, structures):
    return [FORMATS[name][1](structure) for structure in structures]


def read(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    records = list(iter_records(path))
    check(records, path)
    return records


def check(records, path):
    assert [record.number for record in records] == list(range(1, len(records) + 1))
    assert all((record.structure is None) != (record.error is None) for record in records)
    assert all(record.source == str(path) and "\n" not in (record.error or "") for record in records)
    starts = [record.line for record in records]
    assert None in starts or starts == sorted(set(starts))


def same(a, b, tolerance):
    return np.array_equal(a.atomic_numbers, b.atomic_numbers) and np.allclose(a.positions, b.positions, 0, tolerance)


def known(records, structures, tolerance):
    """The place of each record among the structures; None if it is none of them."""
    return [
        next((k for k, structure in enumerate(structures) if same(record.structure, structure, tolerance)), None)
        for record in records
        if record.structure is not None
    ]


# ---- written records are read back -----------------------------------------------------------------------------------

SHAPES = {
    "as it is": lambda text: text.encode(),
    "gzipped": lambda text: gzip.compress(text.encode()),
    "gzipped in parts": lambda text: gzip.compress(text[:100].encode()) + gzip.compress(text[100:].encode()),
    "Windows": lambda text: b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(),
    "old Macintosh": lambda text: text.replace("\n", "\r").encode(),
    "trailing blanks": lambda text: (text.replace("\n", "  \t\n") + "\n \n\n\n\n\n\n").encode(),
    "no end of the last line": lambda text: text.removesuffix("\n").encode(),
}


@by_format
@pytest.mark.parametrize("shape", SHAPES)
def test_every_record_is_found_with_its_line(tmp_path, name, shape):
    suffix, _, tolerance = FORMATS[name]
    empty = Structure(np.zeros((0, 3)), np.zeros(0, dtype=int))
    heavy = Structure(np.array([[-123.4567, 0, 999.5], [0, 1, 2]]), np.array([len(SYMBOLS), 17]))
    structures = [*molecules(5), empty, *molecules(1, smallest=1), heavy]
    texts = blocks(name, structures)
    path = tmp_path / f"a{suffix}{'.gz' if 'gzip' in shape else ''}"
    records = read(path, SHAPES[shape]("".join(texts)))
    assert [record.error for record in records] == [None] * len(structures)
    assert all(same(record.structure, s, tolerance) for record, s in zip(records, structures, strict=True))
    sizes = [text.count("\n") for text in texts]
    assert [record.line for record in records] == [1 + sum(sizes[:k]) for k in range(len(sizes))]
    assert all(record.structure.positions.dtype == np.float64 for record in records)


@by_format
def test_large_molecules(tmp_path, name):
    structures = molecules(2, smallest=5000)
    if name == "V2000":  # RDKit writes V3000 from 1,000 atoms on
        structures = molecules(2, smallest=998)
    records = read(tmp_path / f"a{FORMATS[name][0]}", "".join(blocks(name, structures)))
    assert known(records, structures, FORMATS[name][2]) == [0, 1]


def test_large_molecules_and_coordinates_as_rdkit_writes_them(tmp_path):
    far = Structure(np.array([[1e5, -1e5, 0.25], [0, 0, 0]]), np.array([1, 1]))
    structures = [*molecules(1, smallest=5000), far]
    assert known(read(tmp_path / "a.sdf", "".join(blocks("V2000", structures))), structures, 5.1e-5) == [0, 1]


# ---- damage ----------------------------------------------------------------------------------------------------------

JUNK = "~ junk ~\n"
CHANGES = {
    "deleted": lambda lines, k: lines[:k] + lines[k + 1 :],
    "replaced": lambda lines, k: [*lines[:k], JUNK, *lines[k + 1 :]],
    "inserted": lambda lines, k: [*lines[:k], JUNK, *lines[k:]],
    "doubled": lambda lines, k: [*lines[:k], lines[k], *lines[k:]],
    "blank": lambda lines, k: [*lines[:k], "\n", *lines[k + 1 :]],
    "half": lambda lines, k: [*lines[:k], lines[k][: len(lines[k]) // 2] + "\n", *lines[k + 1 :]],
    "cut from there": lambda lines, k: lines[:k],
    "cut until there": lambda lines, k: lines[k:],
}


@by_format
@pytest.mark.parametrize("change", CHANGES)
def test_a_damaged_line_loses_only_its_record(tmp_path, name, change):
    suffix, _, tolerance = FORMATS[name]
    structures = molecules(5)
    texts = blocks(name, structures)
    lines = texts[2].splitlines(keepends=True)
    for k in range(1, len(lines)):
        damaged = [*texts[:2], *CHANGES[change](lines, k), *texts[3:]]
        records = read(tmp_path / f"a{suffix}", "".join(damaged))
        found = known(records, structures, tolerance)
        others = [0, 1, 3, 4]
        if change == "cut until there" and "XYZ" in name and k > 1:
            others.remove(1)  # atoms without a head above them follow it, so that its count looks wrong
        if name == "extended XYZ" and change in ("replaced", "blank") and k == 1:
            found.remove(None)  # without the names of its columns it is another molecule
        assert [place for place in found if place != 2] == others, (k, records)
        assert len(others) < len(records) <= 6, (k, records)


@by_format
def test_a_damaged_byte_loses_two_records_at_most(tmp_path, name):
    suffix, _, tolerance = FORMATS[name]
    structures = molecules(5)
    good = "".join(blocks(name, structures)).encode()
    generator = np.random.default_rng(0)
    for place in generator.integers(0, len(good), 150):
        damaged = bytearray(good)
        damaged[place] = generator.integers(256)
        found = known(read(tmp_path / f"a{suffix}", bytes(damaged)), structures, tolerance)
        assert len({*found} - {None}) >= 3, (place, damaged[place])


@by_format
def test_a_damaged_archive_keeps_earlier_records(tmp_path, name):
    suffix, _, tolerance = FORMATS[name]
    path = tmp_path / f"a{suffix}.gz"
    structures = molecules(100, seed=1)
    good = gzip.compress("".join(blocks(name, structures)).encode())
    for damaged, cause in [
        (good[: len(good) // 2], "Compressed file ended before the end-of-stream marker was reached"),
        (good[:-6], "Compressed file ended before the end-of-stream marker was reached"),
        (good[:-8] + bytes(8), "CRC check failed"),
        (good + b"junk", "Not a gzipped file"),
    ]:
        *whole, last = read(path, damaged)
        assert known(whole, structures, tolerance) == list(range(len(whole)))
        assert len(whole) > 60
        assert last.error.startswith(f"line {last.line}: cannot be read further ({cause}")
    middle = len(good) * 3 // 4
    *whole, last = read(path, good[:middle] + b"\xff" * 99 + good[middle:])  # the rest unzips to something else
    assert known(whole, structures, tolerance)[:60] == list(range(60))
    assert last.error.startswith(f"line {last.line}: cannot be read further (")


FROM_ITS_START = [lambda good: good[:9], lambda good: good[:30], lambda good: b"\x1f\x8b\x08" + good[9:]]


@pytest.mark.parametrize("damage", FROM_ITS_START)
def test_an_archive_that_is_damaged_from_its_start(tmp_path, damage):
    path = tmp_path / "a.xyz.gz"
    path.write_bytes(damage(gzip.compress("".join(blocks("XYZ", molecules(5))).encode())))
    with pytest.raises(MolflowError, match=r"a\.xyz\.gz: (cannot be read|line 1: cannot be read further) \(.+\)"):
        list(iter_records(path))


def survives(path, content):
    """Any content gives records or an error of one line."""
    try:
        return read(path, content)
    except MolflowError as error:
        message = str(error)
    assert message.startswith(str(path))
    assert "\n" not in message
    return []


WORDS = st.sampled_from([
    "$$$$", "M  END", "M  V30 ", "BEGIN CTAB", "BEGIN ATOM", "COUNTS 1 0", "END ATOM", "V2000", "V3000", "> <a>", "-",
    "1", "0", "999999999999", "-1", "  1  0", "C", "Xx", "0.5", "nan", "1e30", "1e999", "1_0", "C 0 0 0", "Properties=",
    "species:S:1:pos:R:3", " ", "\t", "\n", "\r", "\n\n", "\0", "\x85", "\u2028", "\ufeff", "٣", "²", "\x1f\x8b", "PK",
])  # fmt: skip
SUFFIXES = st.sampled_from([".sdf", ".xyz", ".mol", ".extxyz", ".sdf.gz", ".npz"])


@QUICK
@given(suffix=SUFFIXES, content=st.one_of(st.binary(max_size=300), st.lists(WORDS).map(lambda w: "".join(w).encode())))
def test_anything_is_read_or_refused(tmp_path_factory, suffix, content):
    folder = tmp_path_factory.getbasetemp()
    survives(folder / f"fuzz{suffix}", content)
    survives(folder / f"zipped{suffix}", gzip.compress(content))


@QUICK
@given(name=st.sampled_from(sorted(FORMATS)), data=st.data())
def test_a_shuffled_file_gives_no_more_records_than_it_has_lines(tmp_path_factory, name, data):
    """Drop, move, duplicate and change lines of a file."""
    lines = "".join(blocks(name, molecules(3))).splitlines()
    order = data.draw(st.lists(st.integers(0, len(lines) - 1), max_size=60))
    changes = data.draw(st.dictionaries(st.integers(0, 59), WORDS, max_size=3))
    text = "\n".join(changes.get(place, lines[k]) for place, k in enumerate(order))
    records = survives(tmp_path_factory.getbasetemp() / f"shuffled{FORMATS[name][0]}", text)
    assert len(records) <= text.count("\n") + text.count("\r") + 1


# ---- memory ----------------------------------------------------------------------------------------------------------


def peak_memory(path):
    """Peak memory of reading in MB, and the number of records."""
    tracemalloc.start()
    try:
        n = sum(1 for _ in iter_records(path))
        return tracemalloc.get_traced_memory()[1] / 1e6, n
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["V2000", "XYZ"])
def test_memory_does_not_grow_with_the_number_of_molecules(tmp_path, name):
    suffix, write, _ = FORMATS[name]
    path = tmp_path / f"a{suffix}.gz"
    one = write(molecules(1, smallest=1)[0]).encode()
    path.write_bytes(b"".join([gzip.compress(one * 1000)] * 20))
    peak, n = peak_memory(path)
    assert n == 20_000
    assert peak < 1


@pytest.mark.parametrize("suffix", [".sdf", ".xyz"])
@pytest.mark.parametrize("junk", [b"x" * (1 << 20), b"C 0 0 0 " * 100 + b"\n"], ids=["one line", "no count"])
def test_memory_does_not_grow_with_junk(tmp_path, suffix, junk):
    path = tmp_path / f"a{suffix}.gz"
    path.write_bytes(gzip.compress(junk * (10_000_000 // len(junk))))
    peak, n = peak_memory(path)
    assert n == 1
    assert peak < 2
