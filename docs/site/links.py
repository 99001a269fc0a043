"""A hook of mkdocs: files outside `docs/` have no page, so links to them become their names."""

import re

OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+([^)#]+)(?:#[^)]*)?\)")


def on_page_markdown(markdown, *, page, config, files):
    """Replace links that lead out of the site."""
    depth = page.file.src_uri.count("/")

    def shown(found):
        text, path = found[1], found[2]
        if found[0].count("../") <= depth:  # still inside the site
            return found[0]
        return text if text == path else f"{text} (`{path}`)"

    return OUTSIDE.sub(shown, markdown)
