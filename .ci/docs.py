"""Build the API reference and the notebooks as pages into site/, and check every link inside: make docs"""

import pkgutil
import re
import shutil
import sys
from html import escape, unescape
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pdoc
from nbconvert import HTMLExporter

import molflow

ROOT = Path(__file__).parents[1]
SITE = ROOT / "site"
NOTEBOOKS = sorted((ROOT / "experiments" / "notebooks").glob("*.ipynb"))


def main() -> None:
    shutil.rmtree(SITE, ignore_errors=True)
    pdoc.render.configure(docformat="google", math=False, search=True)
    pdoc.pdoc("molflow", *modules(), output_directory=SITE)
    (SITE / "notebooks").mkdir()
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        page, _ = HTMLExporter().from_notebook_node(notebook, {"metadata": {"name": path.stem}})
        (SITE / "notebooks" / f"{path.stem}.html").write_text(page, encoding="utf-8")
    (SITE / "index.html").write_text(index(), encoding="utf-8")
    for path in SITE.rglob("*.html"):
        path.write_text(inherited(path.read_text(encoding="utf-8")), encoding="utf-8")
    broken = sorted(broken_links(SITE))
    for page, target in broken:
        sys.stderr.write(f"{page}: no such target: {target}\n")
    sys.exit(bool(broken))


def modules() -> list[str]:
    """Patterns of the modules to leave out, "!molflow.cli"; the public names of the others are loaded."""
    kept = {*dir(molflow), "batch", "errors", "report", "training"}
    names = [module.name for module in pkgutil.iter_modules(molflow.__path__)]
    for name in kept.intersection(names):
        module = import_module(f"molflow.{name}")
        for public in getattr(module, "__all__", ()):  # pdoc reads the dictionary of a module, which lacks lazy names
            setattr(module, public, getattr(module, public))
    return [f"!molflow.{name}" for name in names if name not in kept]


def index() -> str:
    """The page that leads to all others."""
    links = "".join(f'<li><a href="notebooks/{path.stem}.html">{title(path)}</a></li>\n' for path in NOTEBOOKS)
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>molflow</title></head>
<body style="font: 16px/1.5 system-ui, sans-serif; max-width: 40em; margin: 3em auto">
<h1>molflow</h1>
<p><a href="molflow.html">API reference</a></p>
<h2>Notebooks</h2>
<ol>
{links}</ol>
</body>
</html>
"""


def title(path: Path) -> str:
    """The first heading of a notebook."""
    heading: str = nbformat.read(path, as_version=4).cells[0].source.splitlines()[0]
    return escape(heading.removeprefix("# "))


def inherited(page: str) -> str:
    """A page whose links to inherited members, which pdoc does not repeat, lead to the class that has them."""
    anchors = set(re.findall(r'\bid="([^"]+)"', page))

    def target(link: re.Match[str]) -> str:
        name, owner = link[1], link[1].rpartition(".")[0]
        return f'href="#{owner}"' if name not in anchors and owner in anchors else link[0]

    return re.sub(r'href="#([\w.]+)"', target, page)


def broken_links(site: Path) -> set[tuple[str, str]]:
    """Pages with links to files or anchors of the site that do not exist."""
    scripts = re.compile("<script.*?</script>", re.DOTALL)
    pages = {path: scripts.sub("", path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    anchors = {path: set(map(unescape, re.findall(r'\b(?:id|name)="([^"]+)"', text))) for path, text in pages.items()}
    broken = set()
    for path, text in pages.items():
        for target in map(unescape, re.findall(r'<a [^>]*href="([^"]+)"', text)):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            fragment = unquote(parts.fragment)
            if there not in anchors or (fragment and fragment not in anchors[there]):
                broken.add((str(path.relative_to(site)), target))
    return broken


if __name__ == "__main__":
    main()
