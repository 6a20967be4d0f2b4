"""Which part of a pipeline is not what its configuration says, for the message of a load that failed."""

from __future__ import annotations

from typing import Any

import torch
from safetensors import safe_open

from loralith.pipeline.model_folder import ModelFolder

__all__ = ["mismatch"]


def mismatch(folder: ModelFolder) -> str:
    """The part and the first weight whose shape is another in its file than its configuration makes; "" where none is found."""
    for part, (library, kind) in folder.parts.items():
        if part == "scheduler" or part.startswith("tokenizer"):
            continue
        try:
            made = _shapes(library, kind, folder.config(part))
        except Exception as error:  # whatever a configuration makes of a class of another project
            return f"{part}/config.json does not make a {kind}: {str(error).strip().splitlines()[0] if str(error) else error!r}"
        for path in folder.weights(part):
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118
                    shape, wanted = list(file.get_slice(name).get_shape()), made.get(name, made.get(name.partition(".")[2]))
                    if wanted is not None and shape != wanted:
                        where = f"{part}/{path.name} has {name} of shape {shape}, and {part}/config.json makes {wanted}"
                        return f"{where}: they are of two models; copy both from one"
    return ""


def _shapes(library: str, kind: str, config: dict[str, Any]) -> dict[str, list[int]]:
    import diffusers
    import transformers

    with torch.device("meta"):
        if library == "diffusers":
            model: Any = getattr(diffusers, kind).from_config(config)
        else:
            own = getattr(transformers, kind)
            model = own(own.config_class.from_dict(config))
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
