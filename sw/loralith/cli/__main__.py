"""`python -m loralith.cli`, for where the console script is not installed."""

from loralith.cli import main

raise SystemExit(main())
