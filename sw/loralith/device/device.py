"""What every device offers: memory, command lists and counters from `ListDevice`, and exact INT8 products on top."""

from __future__ import annotations

import numpy as np

from loralith.device.device_errors import DeviceError
from loralith.device.list_device import SIMULATED_BYTES, ListDevice
from loralith.device.products import cheaper_transposed, product
from loralith.spec.numerics import K_LIMIT

__all__ = ["SIMULATED_BYTES", "Device"]


class Device(ListDevice):
    """One accelerator, its memory and its products; see `ListDevice` for what a backend implements."""

    def matmul(self, left: np.ndarray, right: np.ndarray, timeout: float = 60.0) -> np.ndarray:
        """The exact product of int8 [M, K] and int8 [K, N] as int32 [M, N]; -128 is allowed, and so is any M and N.

        Of the product and its transpose the one that takes fewer cycles of the array is computed.

        Raises DeviceError, before anything on the device changes, for another type or shape and for K over 131071, whose sums may
        not fit in INT32. Operands and result are in device memory only while it runs.
        """
        for name, array in (("left", left), ("right", right)):
            if not isinstance(array, np.ndarray) or array.dtype != np.int8:
                raise DeviceError(f"{name} must be a numpy array of int8, not {getattr(array, 'dtype', type(array).__name__)}")
            if array.ndim != 2:
                raise DeviceError(f"{name} must have two dimensions, not shape {array.shape}")
        if left.shape[1] != right.shape[0]:
            raise DeviceError(f"left [M, K] and right [K, N] must share K, not {left.shape} and {right.shape}")
        if left.shape[1] > K_LIMIT:
            raise DeviceError(f"K must be at most {K_LIMIT} for an exact INT32 sum, not {left.shape[1]}: split it and add on the host")
        if 0 in left.shape + right.shape:
            return np.zeros((left.shape[0], right.shape[1]), np.int32)
        (M, K), N = left.shape, right.shape[1]
        if cheaper_transposed(M, N, K, self.config):
            # The host transposes both operands, so that the plan may fold the right one and no load transposes it.
            return np.ascontiguousarray(product(self, right.T[None], left.T[None], timeout=timeout)[0].T)
        return product(self, left[None], right[None], timeout=timeout)[0]
