"""Fine-tunes that are killed at random points and resumed; `loralith soak --kills` runs them.

- `killed_run`: a fine-tune in a process of its own that gets SIGKILL, and what it leaves.
- `campaign`: many of them, compared with runs that nobody kills.
- `kills_report`: the counts as a page.
"""
