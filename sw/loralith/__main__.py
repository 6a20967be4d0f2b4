"""`python -m loralith`, for where the console script is not on PATH."""

from loralith.cli import main

raise SystemExit(main())
