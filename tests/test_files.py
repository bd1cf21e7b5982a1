"""Files are written whole or not at all, and a check beforehand tells whether they can be written."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from molflow.errors import MolflowError
from molflow.files import LARGEST_JSON, atomic_path, check_writable, locked, read_json, sweep


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
    assert steps[:2] == [("fsync", written, 3), ("replace", written, str(path))]
    assert [(name, inode) for name, inode, _ in steps[2:]] == [("fsync", tmp_path.stat().st_ino)]  # its new name


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail_half_way():
        with atomic_path(str(path)) as temporary:
            temporary.write_text("half")
            raise error

    named = MolflowError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(named) as caught:
        fail_half_way()
    assert str(caught.value) in ("", f"{path}: cannot be written (No space left on device)")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_two_writers_do_not_share_a_temporary_file(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_path(path) as first, atomic_path(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # the outer block ends last


def write(path, text="new"):
    with atomic_path(path) as temporary:
        temporary.write_text(text)


def test_a_link_stays_and_its_file_is_replaced(tmp_path):
    (tmp_path / "a").mkdir()
    real, none = tmp_path / "a" / "real", tmp_path / "a" / "none"
    real.write_text("old")
    for link, target, found in [("link", "a/real", real), ("second", "link", real), ("dangling", "a/none", none)]:
        (tmp_path / link).symlink_to(target)
        check_writable(tmp_path / link)
        write(tmp_path / link, link)
        assert (tmp_path / link).is_symlink()
        assert found.read_text() == link
    assert sorted(os.listdir(tmp_path / "a")) == ["none", "real"]


def test_a_device_and_a_pipe_are_written_and_stay(tmp_path):
    with pytest.raises(MolflowError, match=r"/dev/full: cannot be written \(No space left on device\)"):
        write("/dev/full")
    write("/dev/null")
    assert all(Path(name).is_char_device() for name in ("/dev/full", "/dev/null"))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    check_writable(pipe)  # opens nothing, or it would wait for a reader
    with ThreadPoolExecutor() as pool:
        read = pool.submit(pipe.read_text)
        write(pipe)
        assert read.result(60) == "new"
    assert pipe.is_fifo()


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/proc/self/fd/1", "link"])
@pytest.mark.parametrize("mode", ["w", "a"])
def test_standard_output_is_written(tmp_path, name, mode):
    """Also where it is a regular file, to which other output goes as well."""
    (tmp_path / "link").symlink_to("/dev/stdout")
    path = tmp_path / name if name == "link" else Path(name)
    before = os.dup(1)
    try:
        with (tmp_path / "out").open(mode) as file:
            os.dup2(file.fileno(), 1)
            os.write(1, b"a table\n")
            check_writable(path)
            write(path, "content\n")
            os.write(1, b"the end\n")
    finally:
        os.dup2(before, 1)
        os.close(before)
    assert (tmp_path / "out").read_text() == "a table\ncontent\nthe end\n"
    assert (tmp_path / "link").is_symlink()


KILLED = """
import os, signal, sys
from molflow.files import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_files_of_killed_programs_are_swept(tmp_path):
    for name in ("a[1].txt", "b.txt"):
        subprocess.run([sys.executable, "-c", KILLED, tmp_path / name], check=False)
    assert len(os.listdir(tmp_path)) == 2
    with atomic_path(tmp_path / "b.txt") as temporary:
        temporary.write_text("new")
        write(tmp_path / "a[1].txt")
        assert sorted(os.listdir(tmp_path)) == sorted([temporary.name, "a[1].txt"])
        sweep(tmp_path)
        assert temporary.exists()  # it is in use
    assert sorted(os.listdir(tmp_path)) == ["a[1].txt", "b.txt"]


def test_a_folder_is_locked_until_its_program_ends(tmp_path):
    program = "import sys, time; from pathlib import Path; from molflow.files import locked\n"
    program += "with locked(Path(sys.argv[1]), 'trains'): print('locked', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"locked\n"
        with pytest.raises(MolflowError, match="another program trains there"), locked(tmp_path, "trains"):
            pass
        process.kill()
    with locked(tmp_path, "trains"):
        pass


DAMAGED_JSON = {
    "deep": (b"[" * 100_000, "nested too deeply"),
    "huge": (b" " * (LARGEST_JSON + 1), "larger than 16 MiB"),
    "a number of many digits": (b"1" * 5000, "not JSON: "),
    "cut": (b'{"a": ', "not JSON: "),
    "bytes": (b"\xff\xfe", "not JSON: "),
}


@pytest.mark.parametrize("kind", DAMAGED_JSON)
def test_damaged_json(tmp_path, kind):
    content, message = DAMAGED_JSON[kind]
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(MolflowError, match=message) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(MolflowError, match=r"a\.json: cannot be read: not a file"):
        read_json(tmp_path / "a.json")


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
