"""One writer: whole or not at all, the mode of the umask, nothing but files replaced, one kind of error."""

import ast
import os
import shutil
import socket
import stat
from pathlib import Path

import pytest

import cai
from cai.models import lottery
from cai.models.common.files import MissingFile, StorageError, TakenPath, write_atomically, write_picture

ROOT = Path(__file__).parents[3]


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_the_mode_is_that_of_the_umask(tmp_path):
    path = write_atomically(tmp_path / "file", b"one")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o600)
    assert write_atomically(str(path), b"two").read_bytes() == b"two"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    policy = cai.extract_policy(cai.infer(lottery())).save(tmp_path / "policy")
    assert stat.S_IMODE(policy.stat().st_mode) == 0o640


def test_a_name_as_long_as_a_file_system_takes(tmp_path):
    assert write_atomically(tmp_path / ("n" * 255), b"x").read_bytes() == b"x"


def test_nothing_is_written_through_a_link(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "link").symlink_to("mine")
    (tmp_path / "loose").symlink_to("nowhere")
    for name in ("link", "loose"):
        with pytest.raises(TakenPath, match=rf"{name}' is a symbolic link to '(mine|nowhere)'"):
            write_atomically(tmp_path / name, b"x")
        assert (tmp_path / name).is_symlink()
    assert (tmp_path / "mine").read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()


def test_a_linked_folder_is_a_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    write_atomically(tmp_path / "link" / "file", b"x")
    assert (tmp_path / "folder" / "file").read_bytes() == b"x"


def test_what_is_no_file_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("folder").mkdir()
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind("socket")
        for name in ("pipe", "socket", "folder", "/dev/null"):
            with pytest.raises(TakenPath, match="cannot be replaced"):
                write_atomically(name, b"x")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_errors_are_of_one_kind_and_name_the_path(tmp_path, monkeypatch):
    made = write_atomically(tmp_path / "not" / "yet" / "file", b"x")
    assert made.read_bytes() == b"x"
    shutil.rmtree(tmp_path / "not")
    with pytest.raises(StorageError, match=r"/n+' cannot be written: File name too long"):
        write_atomically(tmp_path / ("n" * 300), b"x")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for write in (
        lambda path: write_atomically(path, b"x"),
        lambda path: cai.extract_policy(cai.infer(lottery())).save(path),
        lambda path: write_picture(path, cai.plot_values(cai.infer(lottery()))),
    ):
        with pytest.raises(StorageError, match=r"file\.png' cannot be written: No space left on device"):
            write(tmp_path / "file.png")
    assert not list(tmp_path.iterdir())
    assert issubclass(MissingFile, FileNotFoundError)
    assert issubclass(StorageError, OSError)
    assert issubclass(StorageError, ValueError)


def test_pictures_have_the_format_of_their_suffix(tmp_path):
    figure = cai.plot_values(cai.infer(lottery()))
    for suffix, first in ((".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml"), ("", b"\x89PNG")):
        assert write_picture(tmp_path / f"picture{suffix}", figure).read_bytes().startswith(first)
    with pytest.raises(ValueError, match=r"picture\.abc'.*abc"):
        write_picture(tmp_path / "picture.abc", figure)


WRITES = {
    "write_text",
    "write_bytes",
    "savefig",
    "replace",
    "rename",
    "mkstemp",
    "NamedTemporaryFile",
    "to_csv",
    "dump",
}


def test_no_other_file_of_the_library_writes():
    """`savefig` and one pickle go to a buffer, `replace` and `rename` count only as those of os."""
    for path in (path for folder in ("models", "inference", "cai") for path in sorted((ROOT / folder).rglob("*.py"))):
        if path.name == "files.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            last = called.split(".")[-1]
            modes = [str(part.value) for part in ast.walk(node) if isinstance(part, ast.Constant)]
            assert not (called == "open" and {"w", "wb", "x", "xb", "a", "ab"} & set(modes)), f"{path}: {called}"
            if called == "_Pickler(buffer, held).dump":
                continue
            if last in WRITES and (last not in ("replace", "rename") or called.startswith("os.")):
                assert last == "savefig", f"{path}: {called}"
                assert ast.unparse(node.args[0]) in ("file", "buffer"), f"{path}: {called}"


def odd_paths(folder):
    (folder / "file").write_text("mine")
    return {
        folder / "file" / "x": "file' is a file; .* needs a folder",
        folder / "file" / "y" / "x": "file' is a file; .* needs a folder",
        "/proc/x": "'/proc/x'.*: No such file",
        "/dev/full": "'/dev/full' is (a device|no folder)",
        folder / ("n" * 300): "n' cannot be .*: File name too long|n' cannot be made: File name too long",
        "nu\0l": r"nu\\x00l' (is no path of a file|cannot be)|'nu\\x00l'",
    }


@pytest.mark.parametrize("kind", ["model", "answer", "run", "study"])
def test_paths_where_nothing_can_be_written_are_said_with_a_sentence(tmp_path, kind):
    model = cai.models.bridge(horizon=2)
    write = {
        "model": model.save,
        "answer": cai.infer(model).save,
        "run": lambda path: cai.infer(model, "restricted", folder=path),
        "study": lambda path: cai.compare(model, ["exact"], folder=path, num_rollouts=9),
    }[kind]
    for path, words in odd_paths(tmp_path).items():
        with pytest.raises(StorageError, match=words):
            write(path)
    assert (tmp_path / "file").read_text() == "mine"


def test_paths_where_nothing_can_be_read_are_said_with_a_sentence(tmp_path):
    (tmp_path / "file").write_text("mine")
    for read in (cai.load, cai.resume, cai.models.read_pomdp, cai.models.read_prism):
        for path in (tmp_path, tmp_path / "file" / "x", tmp_path / ("n" * 300), "nu\0l", "/proc/x", tmp_path / "none"):
            with pytest.raises(StorageError) as caught:
                read(path)
            assert repr(str(path))[1:-1].removesuffix("'") in str(caught.value)


def test_an_answer_makes_the_folders_above_it(tmp_path):
    cai.infer(cai.models.bridge(horizon=2)).save(tmp_path / "a" / "b" / "answer")
    assert cai.load(tmp_path / "a" / "b" / "answer").status.ok
