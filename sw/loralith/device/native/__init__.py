"""The native model: the Verilated machine with its clock and memory in C++, as a shared library.

`build.build(config)` gives the library, from a cache where it has been built before; `library.Library` calls it.
"""
