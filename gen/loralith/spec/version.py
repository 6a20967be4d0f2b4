"""The interface's version: it changes whenever command set, registers or numbers do."""

VERSION = (0, 3, 0)
