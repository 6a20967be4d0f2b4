"""Going on with a run from what its folder holds: its settings, and a longer end."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from loralith.formats.checkpoint import Checkpoint, CheckpointError, load_checkpoint, read_header
from loralith.formats.run_folder import CHECKPOINT
from loralith.methods.options import OPTIONS
from loralith.methods.settings import EvaluationSettings, FinetuneSettings

__all__ = ["checkpoint_to_resume", "settings_record", "stored_settings"]

PATHS = ("data", "model", "start_from")


def settings_record(settings: FinetuneSettings) -> dict[str, Any]:
    """All settings but the folder, as JSON values; paths are absolute, so that the run goes on from any working folder."""
    record = asdict(settings)
    del record["output"]
    for name in PATHS:
        record[name] = None if record[name] is None else str(Path(record[name]).absolute())
    return record | {"targets": list(settings.targets)}


def stored_settings(folder: Path) -> tuple[FinetuneSettings, dict[str, Any]] | None:
    """The settings of the run in ``folder``, and their identity; None where there is no checkpoint, or one from before they were kept.

    Raises CheckpointError for a checkpoint that cannot be read, SettingsError for settings that this version refuses.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    header = read_header(path)
    record: Mapping[str, Any] | None = header["extra"].get("settings")
    if record is None:
        return None
    fields: dict[str, Any] = dict(record) | {"targets": tuple(record["targets"])}
    fields |= {name: Path(record[name]) for name in PATHS if record[name] is not None}
    fields["options"] = OPTIONS[record["method"]](**record["options"])
    fields["evaluation"] = EvaluationSettings(**record["evaluation"])
    return FinetuneSettings(output=folder, **fields), header["settings"]


def checkpoint_to_resume(settings: FinetuneSettings, identity: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint in the settings' folder, of a run whose settings are these but for the number of steps.

    Every draw and the learning rate depend on the step alone, so that a longer run begins with the bits of the shorter one; where the
    method prepares more for a longer run, it does not. Raises CheckpointError for another run, for fewer steps than are done and for
    steps that the method would have prepared otherwise.
    """
    checkpoint = load_checkpoint(settings.output / CHECKPOINT, identity, may_differ=("steps",))
    if settings.steps < checkpoint.step:
        raise CheckpointError(f"{checkpoint.step} steps are done in {settings.output}; --steps must be at least that, not {settings.steps}")
    options = settings.options
    assert options is not None
    there, here = (options.prepared(steps, settings.batch) for steps in (checkpoint.settings["steps"], settings.steps))
    if there != here:
        raise CheckpointError(
            f"a {settings.method} run of {checkpoint.settings['steps']} steps prepares {there} batches before its first step and one of "
            f"{settings.steps} steps {here}, so that its first steps are other ones; start a new run with --steps {settings.steps}"
        )
    return checkpoint
