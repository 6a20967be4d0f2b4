"""The backend of the step compiler: a step graph as command lists. docs/step_backend.md tells how."""
