"""Add to the site what the repository has outside of docs/, and mend links that leave it.

mkdocs calls the functions below (``hooks`` in mkdocs.yml). The methods' cards and the changelog
become pages. A link to another file of the repository leads to the repository where mkdocs.yml has
its address (``repo_url``), and else only names the file. A link to nothing ends a strict build.
"""

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
LOG = logging.getLogger("mkdocs.site_pages")
PAGES = {"strategies/README.md": "methods.md", "CHANGELOG.md": "changelog.md"}
"""Files of the repository that are pages of the site."""

LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
CARD = re.compile(r"^### (\w+)\n", re.MULTILINE)
METHOD = re.compile(r"\[`(\w+)`\]\(\1\.py\)")
TITLE = re.compile(r"\A# .*\n")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are written from files outside of docs/."""
    from mkdocs.structure.files import File

    for source, page in PAGES.items():
        text = (ROOT / source).read_text()
        if page == "methods.md":
            text = methods_page(text)
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Return a page whose links to files of the repository a reader can follow."""
    source = next((s for s, made in PAGES.items() if made == page.file.src_uri), None)
    if source is None:
        source = f"docs/{page.file.src_uri}"
    return mended(markdown, source, page.file.src_uri, config.repo_url)


def methods_page(text: str) -> str:
    """Return the page of the methods: the table, then a card each with a link to its settings."""
    text = TITLE.sub("# Methods\n", text)
    text = METHOD.sub(r"[`\1`](#\1)", text)

    settings = (ROOT / "docs" / "settings.md").read_text()

    def with_settings(card: re.Match[str]) -> str:
        name = card[1]
        links = f"`strategy={name}`"
        if f"### strategy={name}\n" in settings:
            links += f" · [settings](../docs/settings.md#strategy{name})"
        return f"{card[0]}\n{links} · [file]({name}.py)\n"

    return CARD.sub(with_settings, text)


def mended(markdown: str, source: str, page: str, repository: str | None) -> str:
    """Return a page's text with links that hold in the site.

    Args:
        markdown: The text.
        source: The file of the repository that it is from.
        page: The page of the site.
        repository: The repository's address, if it is known.
    """
    folder = posixpath.dirname(source)

    def link(found: re.Match[str]) -> str:
        text, target, anchor = found[1], found[2], found[3] or ""
        path = posixpath.normpath(posixpath.join(folder, target))
        inside = PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else "")
        if inside and (path in PAGES or (ROOT / path).is_file()):
            there = posixpath.relpath(inside, posixpath.dirname(page) or ".")
            return f"[{text}]({there}{anchor})"
        if inside and inside in PAGES.values():
            return found[0]
        if not (ROOT / path).exists():
            LOG.warning("%s: there is no %s", source, path)
        if repository:
            return f"[{text}]({repository.rstrip('/')}/blob/main/{path}{anchor})"
        return text if text.strip("`") in path else f"{text} (`{path}`)"

    outside_of_code = FENCE.split(markdown)[::2]
    code = [*FENCE.findall(markdown), ""]
    return "".join(
        LINK.sub(link, text) + block for text, block in zip(outside_of_code, code, strict=True)
    )
