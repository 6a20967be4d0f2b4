"""The output folder of a run: one run at a time, never over another run's files. Loads no torch."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loralith.errors import LoralithError
from loralith.files import check_output_folder

PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
CHECKPOINT = "run.ckpt"
REPORT = "report.json"
PICTURE = "samples.png"
HTML = "report.html"
TOKEN = "token.safetensors"
SCALES = "scales.safetensors"
BOUNDARY = "boundary"
"""Folder of Hollowed Net's boundary tensors."""
PIPELINE_CHECKPOINT = "pipeline.ckpt"
TEXTUAL_INVERSION = "learned_embeds.safetensors"
KOHYA_FILE = "lora_kohya.safetensors"
CACHE = "cache"
"""Folder of a pipeline's latents and text embeddings; it may be there before the run."""
OF_PIPELINES = (PIPELINE_CHECKPOINT, TEXTUAL_INVERSION, KOHYA_FILE, CACHE)
FILES = (PEFT_FILE, PEFT_CONFIG, DIFFUSERS_FILE, PICTURE, HTML, REPORT, CHECKPOINT, TOKEN, SCALES, BOUNDARY, *OF_PIPELINES)


class FolderError(LoralithError):
    """An output folder that another run, finished or not, has written to, or that is none."""


def check_folder(folder: Path, *, resume: bool) -> None:
    """Raises FolderError unless a run may write to `folder`: absent or empty, or with its own files where it is resumed; FileError where
    nothing can be written there."""
    if not folder.exists() and not folder.is_symlink():
        if resume:
            raise FolderError(f"there is nothing to resume: {folder} does not exist; start the run without --resume")
        check_output_folder(folder)
        return
    if not folder.is_dir():
        raise FolderError(f"output {folder} is a file; give a new or empty folder")
    check_output_folder(folder)
    names = sorted(path.name for path in folder.iterdir() if not path.name.endswith(".part"))
    foreign = [name for name in names if name not in FILES]
    if foreign:
        raise FolderError(f"output {folder} holds files that are not this command's ({foreign[0]}); give a new or empty folder")
    names = [name for name in names if name != CACHE]
    checkpoint = next((name for name in names if name in (CHECKPOINT, PIPELINE_CHECKPOINT)), None)
    if resume:
        if checkpoint is None and REPORT not in names:
            raise FolderError(f"there is no checkpoint to resume from in {folder}; start the run without --resume")
        return
    if REPORT in names:
        raise FolderError(f"output {folder} holds a finished run ({REPORT}); give another folder")
    if checkpoint is not None:
        raise FolderError(f"output {folder} holds an unfinished run ({checkpoint}); go on with --resume or give another folder")
    if names:
        raise FolderError(f"output {folder} holds another run's {names[0]}; give a new or empty folder")


def clear_folders(*folders: Path) -> None:
    """Removes an earlier run's files from the folders, so that other runs may write there.

    Raises FolderError and FileError, before anything is removed, for a folder with other files in it and for what is none.
    """
    for folder in folders:
        check_output_folder(folder)
        for path in sorted(folder.iterdir()) if folder.exists() else ():
            if path.name not in FILES and not path.name.endswith(".part"):
                raise FolderError(f"output {folder} holds files that are not this command's ({path.name}); give another folder")
    for path in [path for folder in folders if folder.exists() for path in folder.iterdir()]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Creates the folder, keeps other runs out of it until the end, and clears what a killed one left half-written.

    Raises FolderError where another process holds it. The lock goes with the process, however that ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise FolderError(f"another run is writing to {folder}; wait for it or give another folder") from error
        for path in folder.glob(".*.part"):
            path.unlink(missing_ok=True)
        yield
    finally:
        os.close(handle)
