# For pyright alone: see sw/loralith/__init__.pyi.
