"""A U-Net's configuration of diffusers, read and built, with errors that name the file."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loralith.errors import LoralithError
from loralith.files import FileError, read_json

__all__ = ["UNET", "Source", "build_model", "build_unet", "read_model_config", "read_unet_config"]

UNET = "UNet2DConditionModel"


@dataclass(frozen=True)
class Source:
    """A model's name, its diffusers configuration, the tokens of a U-Net's prompt, the file of the configuration, and diffusers' class."""

    name: str
    config: Mapping[str, Any]
    prompt: int = 77
    file: Path | None = None
    kind: str = UNET


def read_unet_config(path: Path) -> dict[str, Any]:
    """A U-Net's configuration of diffusers. Settings that the U-Net does not have are left out with a warning, as diffusers' loader does.

    Raises LoralithError for a file that cannot be read or is of something else.
    """
    return read_model_config(path, (UNET,))[1]


def read_model_config(path: Path, kinds: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """(class, configuration) of a model of diffusers, one of ``kinds`` of which the first is a U-Net; a file without a class is of that.

    Settings and errors as `read_unet_config` has them.
    """
    import diffusers

    try:
        config = read_json(path)
    except FileError as error:
        raise LoralithError(f"{path} is not a U-Net's configuration: {error.reason}") from None
    if not isinstance(config, dict):
        raise LoralithError(f"{path} is not a U-Net's configuration: it is no JSON object")
    kind = config.get("_class_name", UNET)
    if kind not in kinds:
        raise LoralithError(f"{path} is of a {kind}; a {', '.join(kinds)} is what can be used here")
    known = inspect.signature(getattr(diffusers, kind).__init__).parameters
    settings = {name: value for name, value in config.items() if not name.startswith("_")}
    ignored = [name for name in settings if name not in known]
    if ignored:
        warnings.warn(f"{path}: a {kind} has no {', '.join(ignored)}; ignored, as diffusers does", stacklevel=2)
    return kind, {name: value for name, value in settings.items() if name in known}


def build_unet(config: Mapping[str, Any], source: object) -> Any:
    """The U-Net with torch's first weights, on torch's device of the moment. Raises LoralithError that names ``source`` where diffusers
    cannot build it."""
    return _built(UNET, config, source, "a U-Net")


def build_model(source: Source) -> Any:
    """The same for a model of any class."""
    return _built(source.kind, source.config, source.file or source.name, "a U-Net" if source.kind == UNET else f"a {source.kind}")


def _built(kind: str, config: Mapping[str, Any], source: object, what: str) -> Any:
    import diffusers

    try:
        return getattr(diffusers, kind)(**config)
    except (ArithmeticError, AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise LoralithError(f"{source} does not make {what}: {error}") from error
