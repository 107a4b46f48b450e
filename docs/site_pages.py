"""A hook of mkdocs: pages that lie outside docs/ (README.md is the index), and links between them and docs/."""

import re
from os.path import normpath, relpath
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
OUTSIDE = {  # path in the repository -> path in the site's sources
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "results/README.md": "results.md",
    "results/JUDGED_AGAIN.md": "judged-again.md",
    "results/LEADERBOARD.md": "leaderboard.md",
    "results/budgets.svg": "images/budgets.svg",
}
SOURCES = {site: repository for repository, site in OUTSIDE.items()}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
FENCE = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages and images that lie outside docs/."""
    for repository, site in OUTSIDE.items():
        files.append(File.generated(config, site, abs_src_path=str(ROOT / repository)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrite links that leave docs/ or enter it; one to a file that is not part of the site becomes its text."""
    site = page.file.src_uri
    source = SOURCES.get(site, f"docs/{site}")

    def rewritten(link: re.Match[str]) -> str:
        image, text, target = link.groups()
        path, mark, anchor = target.partition("#")
        if not path or ":" in path:
            return link[0]
        repository = normpath(PurePosixPath(source).parent / path)
        found = OUTSIDE.get(repository, repository.removeprefix("docs/") if repository.startswith("docs/") else None)
        if found and (ROOT / repository).is_file():
            return f"{image}[{text}]({relpath(found, PurePosixPath(site).parent)}{mark}{anchor})"
        return text if (ROOT / repository).exists() else link[0]

    parts = FENCE.split(markdown)
    return "".join(part if part.startswith("```") else LINK.sub(rewritten, part) for part in parts)
