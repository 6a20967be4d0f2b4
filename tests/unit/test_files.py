"""Files that a person names: what is refused before the work, and that a file is written whole, where it was asked for, or not at all."""

import os
import socket
import stat
import threading
from pathlib import Path

import pytest

from loralith.files import FileError, check_output, check_output_folder, named, read_json, read_text, write_bytes, write_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_new_file_comes_with_its_folders_and_the_usual_permissions(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.txt"
    check_output(path)
    assert names(tmp_path) == []
    mask = os.umask(0o027)
    try:
        write_text("new", path)
    finally:
        os.umask(mask)
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert names(path.parent) == ["x.txt"]


def test_a_replaced_file_keeps_its_permissions(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")
    (tmp_path / "x").chmod(0o600)
    write_bytes(b"new", tmp_path / "x")
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o600
    assert (tmp_path / "x").read_text() == "new"


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for target in ("there/old", "there/absent"):
        link = tmp_path / target.replace("/", "-")
        link.symlink_to(target)
        check_output(link)
        write_bytes(b"new", link)
        assert link.is_symlink()
        assert (tmp_path / target).read_text() == "new"
    assert names(tmp_path / "there") == ["absent", "old"]


def test_a_pipe_and_a_device_are_written_through(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    check_output(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    write_bytes(b"new", pipe)
    reader.join(timeout=30)
    assert got == [b"new"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    check_output(Path("/dev/null"))
    write_bytes(b"new", Path("/dev/null"))
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with pytest.raises(FileError, match="/dev/full cannot be written: No space left on device"):
        write_bytes(b"new", Path("/dev/full"))


def test_a_redirected_stdout_is_written_through(tmp_path: Path) -> None:
    """/dev/stdout may lead to a regular file, which a rename would take from under the shell."""
    with (tmp_path / "out").open("wb") as file:
        path = Path(f"/proc/self/fd/{file.fileno()}")
        check_output(path)
        inode = (tmp_path / "out").stat().st_ino
        write_bytes(b"new", path)
    assert (tmp_path / "out").read_bytes() == b"new"
    assert (tmp_path / "out").stat().st_ino == inode


@pytest.mark.parametrize("fault", ["fsync", "replace", "open"])
def test_a_failed_write_leaves_the_old_content(tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bytes(b"old", tmp_path / "x")

    def fail(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, fault, fail)
    with pytest.raises(FileError, match=r"x cannot be written: No space left on device"):
        write_bytes(b"new", tmp_path / "x")
    monkeypatch.undo()
    assert (tmp_path / "x").read_text() == "old"
    assert names(tmp_path) == ["x"]


def test_outputs_are_checked_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(tmp_path)  # the name of a socket must be short
        listener.bind("socket")
    for output, message in (
        ("folder", "folder is a folder; give the name of a file"),
        ("file/x", "cannot be written: .*file is not a folder"),
        ("socket", "socket is a socket"),
        ("file", "file is what this command reads"),
        ("link", "link is what this command reads"),
        ("folder/../file", "file is what this command reads"),
    ):
        with pytest.raises(FileError, match=message):
            check_output(tmp_path / output, [tmp_path / "file"])
    for output, message in (("file", "file is a file; give the name of a folder"), ("file/x", "file is not a folder")):
        with pytest.raises(FileError, match=message):
            check_output_folder(tmp_path / output)
    with pytest.raises(FileError, match="is a folder"):
        check_output(Path(""))
    assert names(tmp_path) == ["file", "folder", "link", "socket"]


def test_a_place_where_nothing_can_be_written_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root every folder can be written, so that the system's answers are put in its mouth."""

    def refuse(*_arguments: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "open", refuse)
    for check in (check_output, check_output_folder):
        with pytest.raises(FileError, match=r"output .* cannot be written to .*: Read-only file system"):
            check(tmp_path / "a" / "x")
    monkeypatch.undo()
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(FileError, match="Read-only"):
        check_output(tmp_path / "x")
    assert names(tmp_path) == []
    with pytest.raises(FileError, match="File name too long"):
        check_output(tmp_path / ("x" * 300))


def test_a_stem_keeps_its_dots(tmp_path: Path) -> None:
    found = [path.name for stem in ("v1.2", "plain", "x.json", "x.md") for path in named(tmp_path / stem, ".json", ".md")]
    assert found == ["v1.2.json", "v1.2.md", "plain.json", "plain.md", "x.json", "x.md", "x.json", "x.md"]
    with pytest.raises(FileError, match="is a folder"):
        named(Path("."), ".json")


def test_text_may_have_a_byte_order_mark_and_other_encodings_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for encoding in ("utf-8", "utf-8-sig"):
        path.write_text('{"a": "é"}', encoding=encoding)
        assert read_json(path) == {"a": "é"}
    for encoding, name in (("utf-16", "UTF-16"), ("utf-32", "UTF-32")):
        path.write_text("{}", encoding=encoding)
        with pytest.raises(FileError, match=rf"x\.json cannot be read: it is {name} text; save it as UTF-8"):
            read_text(path)
    path.write_bytes(b'{"a": "\xe9"}')
    with pytest.raises(FileError, match=r"it is not UTF-8 text, because of byte 0xe9 at 7"):
        read_text(path)
    for content in ("{", "[" * 100_000):
        path.write_text(content)
        with pytest.raises(FileError, match=r"x\.json cannot be read: it is not JSON"):
            read_json(path)
    with pytest.raises(FileError, match=r"absent cannot be read: No such file"):
        read_text(tmp_path / "absent")
    with pytest.raises(FileError, match=r"cannot be read: Is a directory"):
        read_text(tmp_path)


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json({"loss": float("nan")}, tmp_path / "x.json")
    assert names(tmp_path) == []
