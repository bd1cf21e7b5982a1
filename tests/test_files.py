"""Files are written whole or not at all, and a check beforehand tells whether they can be written."""

import os

import pytest

from molflow.errors import MolflowError
from molflow.files import atomic_path, check_writable


def test_a_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert temporary.parent == tmp_path  # one file system, so the move is atomic
        assert not path.exists()
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_content_is_on_the_disk_before_the_file_appears(tmp_path, monkeypatch):
    path, steps = tmp_path / "a.txt", []

    def fsync(descriptor):
        steps.append(("fsync", os.fstat(descriptor).st_ino, os.fstat(descriptor).st_size))
        flush(descriptor)

    def replace(source, target):
        steps.append(("replace", os.stat(source).st_ino, str(target)))
        move(source, target)

    flush, move = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        written = temporary.stat().st_ino
    assert steps == [("fsync", written, 3), ("replace", written, str(path))]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail_half_way():
        with atomic_path(str(path)) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)):
        fail_half_way()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_two_writers_do_not_share_a_temporary_file(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_path(path) as first, atomic_path(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # the outer block ends last


def test_checking_makes_parents_but_no_file(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    check_writable(path)
    assert path.parent.is_dir()
    assert os.listdir(path.parent) == []


def test_checking_leaves_a_file_as_it_is(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    check_writable(path)
    assert path.read_text() == "old"


@pytest.mark.parametrize("place", ["file/a.txt", "file/folder/a.txt", "folder", "/proc/a.txt", "/dev/null/a.txt"])
def test_places_that_cannot_be_written(tmp_path, place):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(MolflowError, match="expected") as caught:
        check_writable(tmp_path / place)
    assert str(caught.value).startswith(f"{tmp_path / place}: ")
    assert "\n" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_permissions_count(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(MolflowError, match="Permission denied"):
        check_writable(tmp_path / "a.txt")
