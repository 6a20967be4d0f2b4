"""Emitters: what is generated from `loralith.spec` and `loralith.rtl`, and the command line that runs them."""
