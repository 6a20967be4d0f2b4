# What the package resolves on first use, for type checkers.
#
# pyright takes the first folder whose loralith has an __init__ file and looks no further, unless each of the four has one. The others
# have a stub, which Python itself does not read, so that they stay parts of one package at run time.
from loralith.device import open_device as open_device
from loralith.errors import LoralithError as LoralithError

__version__: str

from loralith.mapping.attach_model import attach as attach
from loralith.mapping.attach_model import detach as detach
