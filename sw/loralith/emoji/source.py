"""The packages that serve the pictures and their names, fetched once by the npm client and checked by hash.

Nothing else of the emoji pipeline reads the network: training reads the archives, and what is trained needs none of them.
"""

import base64
import gzip
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loralith.errors import LoralithError

FETCH_TIMEOUT = 600.0
"""Seconds for one package (74 MB at most)."""


class SourceError(LoralithError):
    """A package that is missing, altered or cannot be fetched."""


@dataclass(frozen=True)
class Package:
    """A pinned npm package; `integrity` is the SHA-512 of its archive in base 64."""

    name: str
    version: str
    integrity: str

    @property
    def archive(self) -> str:
        """The archive's file name, as the npm client gives it."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


NOTO = Package(
    "emoji-datasource-google",
    "16.0.0",
    "ZRexfzs7MVoLnmzZmNsO4TKhnAJp5D++Vm6PpUpH/jEQQlemp3l88CjZ+DoZ2faM9R4QxZkOPJCoT8DlPhfQ3A==",
)
"""Noto's emoji as PNG files of 64 x 64 pixels (Apache-2.0) and a table of all emoji (MIT)."""
TWEMOJI = Package(
    "emoji-datasource-twitter",
    "16.0.0",
    "7F+uCuHH+7Qnrc15P5tnbvKkg9E6tlzi4MnT2uW1RlN4pLYTza6cP/dstIfSDMtpjFLWuZewWg8jBbuL2eyELQ==",
)
"""The same emoji drawn by others (Twemoji, CC-BY-4.0): what the measuring encoder learns from."""
NAMES = Package(
    "emojibase-data",
    "17.0.0",
    "Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
)
"""Unicode CLDR's short names (MIT)."""
PACKAGES = (NOTO, TWEMOJI, NAMES)


def integrity(content: bytes) -> str:
    """SHA-512 in base 64, as npm's lock files write it."""
    return base64.b64encode(hashlib.sha512(content).digest()).decode()


def check_package(package: Package, folder: Path) -> Path:
    """The package's archive in ``folder``. Raises SourceError where it is missing or altered, with what would do."""
    path = folder / package.archive
    try:
        found = integrity(path.read_bytes())
    except OSError as error:
        raise SourceError(
            f"{path} is missing: the pictures come from the npm package {package.name} {package.version}; "
            "run `loralith emoji fetch`, which needs npm and its registry, or put the archive there"
        ) from error
    if found != package.integrity:
        raise SourceError(f"{path} is not {package.name} {package.version}: its SHA-512 is {found}, not {package.integrity}; remove it")
    return path


def fetch(folder: Path, packages: tuple[Package, ...] = PACKAGES) -> list[Path]:
    """Fetches what ``folder`` lacks and checks everything; the archives. Raises SourceError."""
    paths = []
    for package in packages:
        if not (folder / package.archive).exists():
            _pack(package, folder)
        paths.append(check_package(package, folder))
    return paths


def _pack(package: Package, folder: Path) -> None:
    npm = shutil.which("npm")
    wanted = f"{package.name}@{package.version}"
    if npm is None:
        raise SourceError(f"npm is missing, which fetches {wanted}; install npm, or put its archive {package.archive} into {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    command = [npm, "pack", wanted, "--silent", "--ignore-scripts", "--pack-destination", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_TIMEOUT, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as error:
        raise SourceError(f"npm has not fetched {wanted} within {FETCH_TIMEOUT:.0f} s; try again") from error
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise SourceError(f"npm cannot fetch {wanted}: {said}")


class Archive:
    """Reads members of a package's archive by their path inside it."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._members = {member.name.removeprefix("package/"): member for member in tar.getmembers()}

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def read(self, name: str) -> bytes:
        member = self._members.get(name)
        file = self._tar.extractfile(member) if member else None
        if file is None:
            raise SourceError(f"{self._tar.name} holds no {name}")
        return file.read()

    def read_json(self, name: str) -> Any:
        return json.loads(self.read(name))


@contextmanager
def opened(package: Package, folder: Path) -> Iterator[Archive]:
    """The package's archive, its hash checked. Raises SourceError."""
    unpacked = gzip.decompress(check_package(package, folder).read_bytes())  # at once: the members are read in another order
    with tarfile.open(fileobj=io.BytesIO(unpacked), name=package.archive) as tar:
        yield Archive(tar)
