"""The proof that a list is legal (`rules`) and free of races (`touches`, `checker`), from its descriptors alone."""
