"""Tokens: what each command touches (`footprint`), what must wait for what (`sync`), and which loads may go ahead (`order`)."""
