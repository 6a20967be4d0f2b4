"""Points as files, one each: what is finished is never computed again."""

import json
from pathlib import Path
from typing import Any

from loralith.errors import LoralithError
from loralith.files import check_output_folder, write_json
from loralith.formats.checkpoint import describe_difference
from loralith.study.study_settings import StudySettings

SETTINGS_FILE = "settings.json"
BASELINE_FILE = "baseline.json"
OWN_SUFFIXES = (".json", ".csv", ".md", ".png")
"""Of the files that a study writes."""


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise LoralithError(f"{path} cannot be read: {error}; remove it and run the study again") from error


class Store:
    """The folder of a study. Raises LoralithError where it holds points of other settings, naming the ones that differ."""

    def __init__(self, folder: Path, settings: StudySettings) -> None:
        self.folder, self.settings = folder, settings
        check_output_folder(folder)
        own = json.loads(json.dumps(dict(settings.identity())))
        path = folder / SETTINGS_FILE
        if path.exists():
            there = _read(path)
            if there != own:
                raise LoralithError(f"{folder} holds a study of other settings: {describe_difference(there, own)}; give another --output")
        else:
            taken = sorted(path.name for path in folder.glob("*") if path.suffix in OWN_SUFFIXES)
            if taken:
                raise LoralithError(f"{folder} holds files that are no study's ({taken[0]}); give another --output")
            write_json(own, path)

    def path(self, scheme: str, seed: int) -> Path:
        return self.folder / f"{scheme}-{seed}.json"

    def point(self, scheme: str, seed: int) -> dict[str, Any] | None:
        """A finished point, or None."""
        path = self.path(scheme, seed)
        if not path.exists():
            return None
        content = _read(path)
        if content.get("settings") != self.settings.hash:
            raise LoralithError(f"{path} is of settings {content.get('settings')}, not {self.settings.hash}; remove it")
        return content

    def save(self, point: dict[str, Any]) -> None:
        write_json(point, self.path(point["scheme"], point["seed"]))

    @property
    def baseline(self) -> dict[str, Any] | None:
        path = self.folder / BASELINE_FILE
        return _read(path) if path.exists() else None

    def save_baseline(self, content: dict[str, Any]) -> None:
        write_json(content, self.folder / BASELINE_FILE)
