"""loralith: LoRA adapters trained in INT8 hardware.

The package spans the folders gen/, hw/, verif/ and sw/; `loralith.spec`, `loralith.rtl`, `loralith.verif` and the driver import alike.

Attributes resolved on first use, so that importing `loralith` costs nothing:

- `open_device(name, ...)`: see `loralith.device.open_device`.
- `attach(model, device, ...)`, `detach(model)`: see `loralith.mapping`.
- `LoralithError`: base of every error that the driver raises on purpose.
- `__version__`: the package's version. The interface between driver and hardware has its own, `loralith.spec.version.VERSION`.
"""

from importlib import import_module
from pkgutil import extend_path
from typing import Any

# The other three folders carry no __init__.py; in a checkout each is its own sys.path entry and joins here.
__path__ = extend_path(__path__, __name__)

__version__ = "0.1.0"

_LAZY = {
    "open_device": ("loralith.device", "open_device"),
    "attach": ("loralith.mapping", "attach"),
    "detach": ("loralith.mapping", "detach"),
    "LoralithError": ("loralith.errors", "LoralithError"),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'loralith' has no attribute {name!r}")
    module, attribute = _LAZY[name]
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
