"""What the docs site has besides the pages of docs/: mkdocs calls these functions (`hooks` in mkdocs.yml).

- README.md, CHANGELOG.md, CONTRIBUTING.md and examples/README.md are pages, so that no text is written twice.
- A link from a page to a file of the checkout leads to a page that shows the file. A file that is missing stops the build.
- The API reference has a page for each public package. Its modules lie in four folders under one import name; the docstrings are read from
  one tree, build/api, which has copies of them.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]

FOLDERS = ("sw", "gen", "hw", "verif")
"""Those of the modules under the name `loralith`."""

PAGES = {"README.md": "index.md", "CHANGELOG.md": "changes.md", "CONTRIBUTING.md": "contributing.md", "examples/README.md": "examples.md"}
"""Files outside docs/ that are pages, and the pages' names."""

PACKAGES = {
    "loralith": "the package itself: devices are opened and models attached here",
    "loralith.spec": "configuration, commands, registers and numbers: the one source of all other parts",
    "loralith.device": "devices: the interpreter, the Verilated RTL, boards",
    "loralith.compiler": "command lists: schedules, tokens, storage, the proof, the cycle model",
    "loralith.lora": "the host's numbers of LoRA layers, frozen layers and attention",
    "loralith.mapping": "modules of a torch model on a device",
    "loralith.step": "a whole training step as a graph for the device",
    "loralith.methods": "training methods",
    "loralith.training": "the training loop",
    "loralith.formats": "files: adapters, checkpoints, images, run folders",
    "loralith.reports": "pages of results",
    "loralith.rtl": "the accelerator's blocks in Amaranth",
    "loralith.soc": "what a board has around the accelerator",
    "loralith.verif": "torch reference, bus models, properties, mutants",
}
"""The packages of the API reference, and what each is."""

LINK = re.compile(r"(\]\()([^)#\s:]+)((?:#[^)\s]*)?\))")
FENCES = {".py": "python", ".toml": "toml", ".md": "markdown", ".json": "json", ".ipynb": "json", ".sh": "sh", ".yml": "yaml"}


def on_startup(command: str, dirty: bool) -> None:
    """Copy the modules before any plugin is configured: the reader of docstrings drops a folder that is not there by then."""
    _copy_modules()


def on_config(config: MkDocsConfig) -> None:
    """Copy the modules again, as `mkdocs serve` needs after a change, and list the packages in the navigation."""
    _copy_modules()
    for entry in config.nav or []:
        if "API" in entry:
            entry["API"] = [{name: f"api/{name}.md"} for name in PACKAGES]


def _copy_modules() -> None:
    """Copy the modules of the four folders into one tree."""
    tree = ROOT / "build" / "api"
    # Nothing that another build may be reading goes away: files are replaced whole, and only where they differ.
    wanted = {path.relative_to(ROOT / folder): path for folder in FOLDERS for path in (ROOT / folder / "loralith").rglob("*.py")}
    contents = {name: path.read_bytes() for name, path in wanted.items()}
    # Some folders have no __init__.py, and would be no package to the reader of docstrings.
    contents |= {
        folder / "__init__.py": b"" for name in wanted for folder in name.parents if folder.name and folder / "__init__.py" not in wanted
    }
    for name, content in contents.items():
        copy = tree / name
        if not copy.is_file() or copy.read_bytes() != content:
            copy.parent.mkdir(parents=True, exist_ok=True)
            new = copy.with_suffix(f".{os.getpid()}")
            new.write_bytes(content)
            new.replace(copy)
    for path in tree.rglob("*.py"):
        if path.relative_to(tree) not in contents:
            path.unlink(missing_ok=True)


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages that docs/ does not hold."""
    for path, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / path).read_text(encoding="utf-8")))
    for name, says in PACKAGES.items():
        files.append(File.generated(config, f"api/{name}.md", content=_api_page(name, says)))
    shown = set()
    for file in [*files.documentation_pages()]:
        shown.update(path for path in map(_shown, _links(file)) if path)
    for path in sorted(shown):
        text = (ROOT / path).read_text(encoding="utf-8")
        fence = FENCES.get(Path(path).suffix, "text")
        file = File.generated(config, f"source/{path}.md", content=f"# {path}\n\n````{fence}\n{text}\n````\n")
        file.inclusion = _not_in_nav()
        files.append(file)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links that leave docs/ lead to the pages made for them."""

    def replaced(match: re.Match[str]) -> str:
        target = _target(page.file, match[2])
        if target is None:
            return match[0]
        name = _page_of(target)
        return f"{match[1]}{posixpath.relpath(name, posixpath.dirname(page.file.src_uri) or '.')}{match[3]}"

    return markdown if page.file.src_uri.startswith("source/") else LINK.sub(replaced, markdown)


def _api_page(name: str, says: str) -> str:
    if name == "loralith":
        return f"# {name}\n\n{says[0].upper()}{says[1:]}.\n\n::: {name}\n    options:\n      show_submodules: false\n"
    return f"# {name}\n\n{says[0].upper()}{says[1:]}.\n\n::: {name}\n"


def _links(file: File) -> list[str]:
    """Where the links of a page lead, from the checkout's root."""
    return [target for target in (_target(file, match[2]) for match in LINK.finditer(file.content_string)) if target]


def _target(file: File, link: str) -> str | None:
    """The file of the checkout that a relative link leads to; None for an address, or a missing file, of which mkdocs warns."""
    source = {page: path for path, page in PAGES.items()}.get(file.src_uri, f"docs/{file.src_uri}")
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    if target.startswith(".."):
        raise PluginError(f"{source}: the link {link} leaves the checkout")
    return target if (ROOT / target).is_file() else None


def _page_of(target: str) -> str:
    """The page or file of the site that shows a file of the checkout."""
    if target in PAGES:
        return PAGES[target]
    return target.removeprefix("docs/") if target.startswith("docs/") else f"source/{target}.md"


def _shown(target: str) -> str | None:
    return None if target in PAGES or target.startswith("docs/") else target


def _not_in_nav() -> Any:
    from mkdocs.structure.files import InclusionLevel

    return InclusionLevel.NOT_IN_NAV
