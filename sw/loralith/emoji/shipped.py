"""Where the pipeline lies that the project ships."""

from pathlib import Path

SHIPPED = Path(__file__).parent / "assets" / "pipeline"
"""Written by `loralith emoji export`; `loralith finetune --model emoji` means it."""
NAME = "emoji"
"""What stands for it on the command line."""


def shipped_or_folder(text: str) -> Path:
    """The folder of a pipeline that was asked for by this text: a folder of that name goes before the shipped pipeline."""
    folder = Path(text)
    return SHIPPED if text == NAME and not folder.exists() else folder


def name_of(folder: Path) -> str:
    """What to write for this folder on a command line: the inverse of `shipped_or_folder`."""
    return NAME if folder == SHIPPED else str(folder)
