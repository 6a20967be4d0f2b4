"""Where the pipeline lies that the project ships."""

from pathlib import Path

SHIPPED = Path(__file__).parent / "assets" / "pipeline"
"""Written by `loralith emoji export`; `loralith finetune --model emoji` means it."""
NAME = "emoji"
"""What stands for it on the command line."""
