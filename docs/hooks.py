"""What mkdocs does to each page: links out of docs/ become plain paths, for there is no page."""

from __future__ import annotations

import re
from typing import Any

OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+((?!howto/)[^)#]+)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """Name a file of the repository by its path instead of linking to it."""
    depth = page.file.src_uri.count("/")

    def plain(match: re.Match[str]) -> str:
        climbs = match.group(0).partition("](")[2].count("../")
        if climbs <= depth:
            return match.group(0)
        text, path = match.group(1), match.group(2)
        return f"`{path}`" if text == path else f"{text} (`{path}`)"

    return OUTSIDE.sub(plain, markdown)
