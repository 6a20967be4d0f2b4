"""What tests of the driver share: devices, and a diffusion model that is small enough to train in tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from loralith import open_device
from loralith.device.base import Device


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for `FinetuneSettings.model`: three rings of 8 to 16 channels, with seeded first values."""
    import torch

    from loralith.diffusion.unet import UNET_CONFIG, assets, new_unet

    folder = tmp_path_factory.mktemp("small") / "model"
    state = torch.get_rng_state()
    torch.manual_seed(0)
    unet = new_unet({**UNET_CONFIG, "block_out_channels": (8, 8, 16), "attention_head_dim": 2, "norm_num_groups": 4})
    torch.set_rng_state(state)
    unet.save_pretrained(folder)
    (folder / "tokens.safetensors").write_bytes((assets() / "unet" / "tokens.safetensors").read_bytes())
    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch on one thread: tensors this small gain nothing from more, and lose much where the machine is busy."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def device() -> Iterator[Device]:
    """The reference device of the smallest configuration."""
    with open_device("reference", "tiny") as opened:
        yield opened


@pytest.fixture(scope="module")
def devices() -> Iterator[tuple[Device, Device]]:
    """The reference device and the RTL of the smallest configuration."""
    with open_device("reference", "tiny") as reference, open_device("verilator", "tiny") as rtl:
        yield reference, rtl
