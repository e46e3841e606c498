"""Files, folders and other entries of /dev/shm, by all the ways in which they come and go.

a file is written beside and renamed
a file is moved in
a file is moved out
a file goes by many names
a file without a name gets one
a temporary file comes and goes
a temporary file is removed by hand
a database has siblings
a file is mapped
a file stays mapped without a name
an array is mapped
a folder has content
temporary files are here
a socket is bound here
an abstract socket has a name like a path
a pipe has a name here
a link leads nowhere
a link leads to a file
a path is made of bytes
a path is relative to a descriptor
a path is relative to here
a file is opened that cannot be made
a name is used again and again
a name is used for another kind
a name passes from file to file
a segment is attached many times
a segment is unlinked before it is closed
a segment without a name stays mapped
a file is made and removed by many
"""

from __future__ import annotations

import mmap
import os
import shutil
import socket
import sqlite3
import subprocess
import tempfile
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Iterator

import pytest

from tests.plugin.innocent.parts import SHM, Pool, is_there, new_name, new_path


@pytest.fixture
def path() -> Iterator[str]:
    path = new_path("file")
    yield path
    if os.path.lexists(path):  # a test may skip
        os.unlink(path)


def write(path: object, text: str = "text") -> None:
    with open(path, "w", encoding="utf-8") as file:  # type: ignore[call-overload]
        file.write(text)


def test_a_file_is_written_beside_and_renamed(path: str) -> None:
    for number in range(3):
        write(f"{path}.part", str(number))
        os.replace(f"{path}.part", path)


def test_a_file_is_moved_in(path: str, tmp_path: Path) -> None:
    write(tmp_path / "file")
    shutil.move(str(tmp_path / "file"), path)


def test_a_file_is_moved_out(tmp_path: Path) -> None:
    outside = new_path("out")
    write(outside)
    shutil.move(outside, str(tmp_path / "file"))


def test_a_file_goes_by_many_names() -> None:
    first, second, third = (new_path("name") for _ in range(3))
    write(first)
    os.link(first, second)
    os.rename(second, third)
    os.unlink(first)
    os.unlink(third)


def test_a_file_without_a_name_gets_one(path: str) -> None:
    folder = os.open(SHM, os.O_RDONLY | os.O_DIRECTORY)
    fd = os.open(SHM, os.O_TMPFILE | os.O_RDWR, 0o600)
    # Python follows the link only for a source that is relative to a folder, which an absolute path ignores.
    os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=folder, follow_symlinks=True)
    os.close(fd)
    os.close(folder)
    assert os.path.exists(path)


def test_a_temporary_file_comes_and_goes() -> None:
    with tempfile.NamedTemporaryFile(dir=SHM) as file, tempfile.TemporaryFile(dir=SHM):
        assert os.path.exists(file.name)


def test_a_temporary_file_is_removed_by_hand() -> None:
    fd, path = tempfile.mkstemp(dir=SHM)
    os.close(fd)
    os.unlink(path)


def test_a_database_has_siblings(path: str) -> None:
    database = sqlite3.connect(path)
    database.execute("pragma journal_mode=wal")
    database.execute("create table things (name text)")
    database.commit()
    assert os.path.exists(f"{path}-wal")
    assert os.path.exists(f"{path}-shm")
    database.close()


def test_a_file_is_mapped(path: str) -> None:
    with open(path, "w+b") as file:
        file.truncate(8192)
        with mmap.mmap(file.fileno(), 8192) as memory:
            memory[:4] = b"text"


def test_a_file_stays_mapped_without_a_name() -> None:
    path = new_path("mapped")
    with open(path, "w+b") as file:
        file.truncate(4096)
        memory = mmap.mmap(file.fileno(), 4096)
    os.unlink(path)
    memory[0] = 1


def test_an_array_is_mapped(path: str) -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.memmap(path, dtype="float64", mode="w+", shape=(100,))
    array[:] = 1.5
    array.flush()
    del array


def test_a_folder_has_content() -> None:
    folder = Path(new_path("folder"))
    (folder / "deep" / "deeper").mkdir(parents=True)
    write(folder / "deep" / "deeper" / "file")
    os.symlink("deep", folder / "link")
    shutil.copytree(str(folder), f"{folder}-copy", symlinks=True)
    shutil.rmtree(str(folder))
    shutil.rmtree(f"{folder}-copy")


def test_temporary_files_are_here(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = new_path("tmpdir")
    os.mkdir(folder)
    monkeypatch.setenv("TMPDIR", folder)
    monkeypatch.setattr(tempfile, "tempdir", None)
    with tempfile.NamedTemporaryFile() as file, tempfile.TemporaryDirectory():
        assert file.name.startswith(folder)
        subprocess.run(["sh", "-c", "mktemp"], check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(folder)


def test_a_socket_is_bound_here(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)


def test_an_abstract_socket_has_a_name_like_a_path() -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0" + new_path("abstract"))


def test_a_pipe_has_a_name_here(path: str) -> None:
    os.mkfifo(path)


def test_a_link_leads_nowhere(path: str) -> None:
    os.symlink("nowhere", path)


def test_a_link_leads_to_a_file(path: str) -> None:
    target = new_path("target")
    write(target)
    os.symlink(target, path)
    os.unlink(target)


def test_a_path_is_made_of_bytes() -> None:
    path = os.fsencode(new_path("bytes")) + b"-\xff"
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    os.unlink(path)


def test_a_path_is_relative_to_a_descriptor() -> None:
    name = new_name("relative")
    folder = os.open(SHM, os.O_RDONLY | os.O_DIRECTORY)
    os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=folder))
    os.mkdir(f"{name}-folder", dir_fd=folder)
    os.rmdir(f"{name}-folder", dir_fd=folder)
    os.rename(name, f"{name}-2", src_dir_fd=folder, dst_dir_fd=folder)
    os.unlink(f"{name}-2", dir_fd=folder)
    os.close(folder)


def test_a_path_is_relative_to_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(SHM)
    name = new_name("here")
    write(name)
    write(os.path.join("..", "shm", f"{name}-2"))
    os.unlink(name)
    os.unlink(f"{name}-2")


def test_a_file_is_opened_that_cannot_be_made() -> None:
    with pytest.raises(FileNotFoundError):
        write(new_path("missing") + "/file")
    with pytest.raises(IsADirectoryError):
        write(SHM)


@pytest.mark.parametrize("number", range(4))
def test_a_name_is_used_again_and_again(worker_id_name: str, number: int) -> None:
    segment = SharedMemory(worker_id_name, create=True, size=number + 1)
    segment.close()
    segment.unlink()


@pytest.mark.parametrize("number", range(3))
def test_a_name_is_used_for_another_kind(worker_id_name: str, number: int) -> None:
    path = os.path.join(SHM, f"{worker_id_name}-kinds")
    write(path)
    os.unlink(path)
    os.mkdir(path)
    os.rmdir(path)
    SharedMemory(os.path.basename(path), create=True, size=10).unlink()


def test_a_name_passes_from_file_to_file(path: str) -> None:
    for number in range(20):
        write(path, str(number))
        os.unlink(path)
    write(path)


def test_a_segment_is_attached_many_times() -> None:
    pool = Pool()
    name = pool.grow().name
    for _ in range(50):
        SharedMemory(name).close()
    pool.close()
    assert not is_there(name)


def test_a_segment_is_unlinked_before_it_is_closed() -> None:
    segment = SharedMemory(create=True, size=100)
    segment.unlink()
    segment.buf[0] = 1
    segment.close()


def test_a_segment_without_a_name_stays_mapped() -> None:
    fd = os.memfd_create("innocent")
    os.ftruncate(fd, 4096)
    with mmap.mmap(fd, 4096) as memory:
        memory[0] = 1
    os.close(fd)


def test_a_file_is_made_and_removed_by_many() -> None:
    for _ in range(300):
        segment = SharedMemory(create=True, size=1)
        segment.close()
        segment.unlink()
