"""Notebooks without Jupyter: the cells of code run in order in one namespace.

    python -P tests/helpers/notebooks.py examples/attach_a_model.ipynb

writes what each cell prints into the file.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

__all__ = ["code_cells", "printed", "run_cells"]


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def printed(cell: dict[str, Any]) -> str:
    """What the file says that a cell printed."""
    return "".join(line for output in cell["outputs"] for line in output["text"])


def run_cells(path: Path) -> list[str]:
    """What each cell of code prints, in order; an error of a cell goes to the caller with the cell's number in its traceback."""
    names: dict[str, Any] = {"__name__": "__main__"}
    outputs = []
    for number, cell in enumerate(code_cells(json.loads(path.read_text(encoding="utf-8"))), 1):
        with contextlib.redirect_stdout(io.StringIO()) as output:
            exec(compile("".join(cell["source"]), f"{path.name}, cell {number}", "exec"), names)
        outputs.append(output.getvalue())
    return outputs


def main() -> None:
    path = Path(sys.argv[1])
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell, text in zip(code_cells(notebook), run_cells(path), strict=True):
        cell["outputs"] = [{"name": "stdout", "output_type": "stream", "text": text.splitlines(keepends=True)}] if text else []
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
