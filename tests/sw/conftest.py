"""What tests of the driver share: devices, and a diffusion model that is small enough to train in tests."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers.model_board import Terminal
from loralith import open_device
from loralith.device.device import Device


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


@pytest.fixture(scope="session")
def emoji_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the archives of `loralith.emoji.source`, in small: twelve emoji, two of them held out, one with skin tones."""
    import io
    import json
    import tarfile

    from PIL import Image, ImageDraw

    from loralith.emoji.source import NAMES, NOTO, TWEMOJI

    drawn = {
        "1f34e": ("red apple", "food-fruit", (220, 40, 40)),
        "1f34f": ("green apple", "food-fruit", (60, 180, 60)),
        "1f431": ("cat face", "animal-mammal", (240, 180, 60)),
        "1f436": ("dog face", "animal-mammal", (160, 110, 60)),
        "1f697": ("automobile", "transport-ground", (200, 60, 60)),
        "2b50": ("star", "sky & weather", (250, 210, 60)),
        "1f511": ("key", "lock", (230, 200, 80)),
        "1f4d5": ("closed book", "book-paper", (180, 40, 60)),
        "1f44b": ("waving hand", "hand-fingers-open", (250, 210, 100)),
        "1f1eb-1f1f7": ("flag France", "country-flag", (40, 60, 200)),
        "1f916": ("robot", "face-costume", (150, 160, 180)),
        "1f989": ("owl", "animal-bird", (120, 90, 60)),
    }

    def picture(colour: tuple[int, int, int], shape: str) -> bytes:
        image = Image.new("RGBA", (64, 64))
        getattr(ImageDraw.Draw(image), shape)((8, 12, 56, 52), fill=colour)
        file = io.BytesIO()
        image.save(file, "PNG")
        return file.getvalue()

    def write(path: Path, members: dict[str, bytes]) -> None:
        with tarfile.open(path, "w:gz") as tar:
            for name, content in members.items():
                info = tarfile.TarInfo(f"package/{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))

    folder = tmp_path_factory.mktemp("emoji")
    for package, vendor, shape in ((NOTO, "google", "ellipse"), (TWEMOJI, "twitter", "rectangle")):
        table, members = [], {}
        for code, (name, subcategory, colour) in drawn.items():
            entry = {"name": name.upper(), "unified": code.upper(), "image": f"{code}.png", "short_names": [name.replace(" ", "_")]}
            entry |= {"category": "some", "subcategory": subcategory, "has_img_google": True, "has_img_twitter": True}
            members[f"img/{vendor}/64/{code}.png"] = picture(colour, shape)
            if code == "1f44b":
                tone = {"image": f"{code}-1f3ff.png", "has_img_google": True, "has_img_twitter": True}
                members[f"img/{vendor}/64/{code}-1f3ff.png"] = picture((90, 60, 40), shape)
                entry["skin_variations"] = {"1F3FF": tone}
            table.append(entry)
        write(folder / package.archive, {"emoji.json": json.dumps(table).encode(), **members})
    labels = [{"hexcode": code.upper(), "label": name} for code, (name, _, _) in drawn.items()]
    write(folder / NAMES.archive, {"en/compact.json": json.dumps(labels).encode()})
    return folder


@pytest.fixture
def emoji_folder(emoji_packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for `loralith emoji` with the small archives, which for this test are the pinned ones."""
    from dataclasses import replace

    from loralith.emoji import catalogue, source

    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "source").symlink_to(emoji_packages)
    for name in ("NOTO", "TWEMOJI", "NAMES"):
        package = getattr(source, name)
        small = replace(package, integrity=source.integrity((emoji_packages / package.archive).read_bytes()))
        monkeypatch.setattr(source, name, small)
        monkeypatch.setattr(catalogue, name, small)
    return tmp_path / "state"


@pytest.fixture
def terminal() -> Iterator[Callable[[Callable[[bytes], bytes]], str]]:
    """Opens a pseudo terminal for a function that answers; closed at the end."""
    opened: list[Terminal] = []

    def make(receive: Callable[[bytes], bytes]) -> str:
        opened.append(Terminal(receive))
        return opened[-1].path

    yield make
    for one in opened:
        one.close()
