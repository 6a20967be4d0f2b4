"""Files that the user names: read as UTF-8 text, checked before the work begins, written whole or not at all. Standard library only."""

from __future__ import annotations

import codecs
import json
import os
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["FileError", "check_output", "check_output_folder", "named", "read_json", "read_text", "write_bytes", "write_json", "write_text"]

PROBE_BYTES = 1 << 16
"""Written and removed again where an output will stand: a full disk is told before the work."""

OTHER_ENCODINGS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # before UTF-16, whose mark is the first half of it
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
STREAMS = ("/dev/", "/proc/")
"""What lies below is written through even where it leads to a regular file: /dev/stdout after a shell's redirection."""


class FileError(OSError):
    """A file that cannot be read or written; `reason` says why, without the file's name."""

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason or message


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


# Reading.


def read_text(path: Path) -> str:
    """A text in UTF-8, without its byte order mark where it has one. Raises FileError; UTF-16 and UTF-32 are named."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FileError(f"{path} cannot be read: {_reason(error)}", _reason(error)) from error
    for mark, name in OTHER_ENCODINGS.items():
        if content.startswith(mark):
            reason = f"it is {name} text; save it as UTF-8"
            raise FileError(f"{path} cannot be read: {reason}", reason)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        reason = f"it is not UTF-8 text, because of byte 0x{content[error.start]:02x} at {error.start}; save it as UTF-8"
        raise FileError(f"{path} cannot be read: {reason}", reason) from None


def read_json(path: Path) -> Any:
    """A JSON value. Raises FileError."""
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path} cannot be read: it is not JSON: {error}", f"it is not JSON: {error}") from None


# Checks before the work begins.


def named(stem: Path, *suffixes: str) -> list[Path]:
    """STEM with each suffix. What STEM ends in stays (`v1.2`), apart from one of these suffixes."""
    if not stem.name:
        raise FileError(f"output {stem} is a folder; give the beginning of a file's name")
    plain = stem.with_suffix("") if stem.suffix in suffixes else stem
    return [plain.with_name(plain.name + suffix) for suffix in suffixes]


def check_output(path: Path, inputs: Iterable[Path] = ()) -> None:
    """Raises FileError unless `write_bytes` can write `path`: for a folder, one of the files that are read, a socket, and a place where
    nothing can be written. Changes nothing; the folder need not exist."""
    if not path.name:
        raise FileError(f"output {path} is a folder; give the name of a file")
    for source in inputs:
        if _same(path, source):
            raise FileError(f"output {path} is what this command reads ({source}); give another name")
    found = _stat(path)
    if found is not None:
        if stat.S_ISDIR(found.st_mode):
            raise FileError(f"output {path} is a folder; give the name of a file")
        if stat.S_ISSOCK(found.st_mode):
            raise FileError(f"output {path} is a socket; give the name of a file")
        if not os.access(path, os.W_OK):
            raise FileError(f"output {path} cannot be written: permission denied")
        if not _replaceable(path, found):
            return
    _probe(_target(path).parent, path)


def check_output_folder(folder: Path) -> None:
    """Raises FileError unless files can be written to `folder`, which need not exist. Changes nothing."""
    found = _stat(folder)
    if found is not None and not stat.S_ISDIR(found.st_mode):
        raise FileError(f"output {folder} is a file; give the name of a folder")
    if found is None and folder.is_symlink():
        raise FileError(f"output {folder} is a link to {os.readlink(folder)}, which does not exist")
    _probe(folder, folder)


def _stat(path: Path) -> os.stat_result | None:
    """What the path leads to, links followed; None where there is nothing."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise FileError(f"output {path} cannot be written: {_reason(error)}") from error


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return os.path.realpath(one) == os.path.realpath(other)


def _target(path: Path) -> Path:
    """Where the content goes: a link stays one, and what it leads to is replaced."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _replaceable(path: Path, found: os.stat_result) -> bool:
    """Whether a rename may put another file in its place; a device or a pipe is written through."""
    return stat.S_ISREG(found.st_mode) and not os.path.abspath(path).startswith(STREAMS)


def _probe(folder: Path, output: Path) -> None:
    """Writes and removes a file in the folder, or in the nearest one above it that exists."""
    while _stat(folder) is None:
        if folder == folder.parent:
            break
        folder = folder.parent
    if not folder.is_dir():
        raise FileError(f"output {output} cannot be written: {folder} is not a folder")
    part = _part(folder / "probe")
    try:
        _create(part, bytes(PROBE_BYTES))
    except OSError as error:
        raise FileError(f"output {output} cannot be written to {folder}: {_reason(error)}") from error
    finally:
        part.unlink(missing_ok=True)


# Writing.


def write_bytes(content: bytes, path: Path) -> None:
    """Makes `content` the file's, all or nothing: after an error or a kill the old content is there. Makes the folder.

    A link is followed; a device or a pipe is written through. A file keeps its permissions. Raises FileError.
    """
    try:
        found = _stat(path)
        if found is not None and not _replaceable(path, found):
            with path.open("wb") as file:
                file.write(content)
            return
        target = _target(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = _part(target)
        try:
            _create(part, content)
            if found is not None:
                part.chmod(stat.S_IMODE(found.st_mode))
            os.replace(part, target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    except BrokenPipeError:
        raise
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"{path} cannot be written: {_reason(error)}", _reason(error)) from error


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name[:64]}.{secrets.token_hex(4)}.part")


def _create(path: Path, content: bytes) -> None:
    """A new file on the disk, with the permissions that the process's mask leaves."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_text(text: str, path: Path) -> None:
    """`write_bytes` of the text in UTF-8."""
    write_bytes(text.encode(), path)


def write_json(value: Any, path: Path, indent: int | None = 2) -> None:
    """`write_bytes` of JSON; NaN and infinity are refused (ValueError), since JSON has none."""
    write_text(json.dumps(value, indent=indent, allow_nan=False) + "\n", path)
