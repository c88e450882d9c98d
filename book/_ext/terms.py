"""Link the first use of each glossary term in a chapter to the glossary.

What a chapter links by hand, with the role ``term``, stays; that term gets no second link there. Nothing is linked
inside code, formulae, headings, links, tables' heads or results of cells, and nothing in the glossary itself.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.config import Config

GLOSSARY = "glossary"
# Words with another meaning too: meant as the term where one of these stands before.
NOUNS = ("experiment", "record", "run", "start")
DETERMINER = r"(?:a|an|the|this|that|these|those|each|every|one|of)\s+"
CLOSED = (
    nodes.literal,
    nodes.literal_block,
    nodes.math,
    nodes.math_block,
    nodes.reference,
    nodes.title,
    nodes.caption,
    nodes.raw,
    nodes.footnote_reference,
    nodes.thead,
    addnodes.pending_xref,
    addnodes.desc,
)


def terms_of(text: str) -> list[str]:
    """Return the terms of a glossary's Markdown source, longest first, so that "k-NN probe" goes before "probe".

    >>> terms_of("```{glossary}\\nrun\\n    What it leaves.\\n\\nrun store\\n    A folder.\\n```")
    ['run store', 'run']
    """
    (block,) = re.findall(r"(?ms)^```\{glossary\}\n(.*?)^```", text)
    return sorted(re.findall(r"(?m)^(\S.*)$", block), key=len, reverse=True)


def pattern(term: str) -> re.Pattern[str]:
    """Return what matches a term in running text, as its group 1: an acronym as it is, a word in any case or plural."""
    if term != term.lower():
        return re.compile(rf"(?<![\w-])({re.escape(term)})(?![\w-])")
    words = r"\s+".join(map(re.escape, term.split()))
    before = DETERMINER if term in NOUNS else ""
    return re.compile(rf"(?i)(?<![\w-]){before}({words}s?)(?![\w-])")


def link_terms(document: nodes.document, terms: Iterable[str]) -> None:
    """Put a reference to the glossary at the first use of each term in a document that has none."""
    by_hand = {
        node["reftarget"].lower() for node in document.findall(addnodes.pending_xref) if node.get("reftype") == "term"
    }
    for term in terms:
        if term.lower() in by_hand:
            continue
        matches = pattern(term)
        for text in list(document.findall(nodes.Text)):
            found = None if closed(text) else matches.search(text.astext())
            if found:
                replace(text, found, term)
                break


def closed(node: nodes.Node) -> bool:
    """Return whether a text must not be linked where it stands."""
    while (node := node.parent) is not None:
        if isinstance(node, CLOSED) or "cell_output" in getattr(node, "attributes", {}).get("classes", []):
            return True
    return False


def replace(text: nodes.Text, found: re.Match[str], term: str) -> None:
    whole, (begin, end) = text.astext(), found.span(1)
    reference = addnodes.pending_xref(
        "",
        nodes.inline("", whole[begin:end], classes=["xref", "std", "std-term"]),
        refdomain="std",
        reftype="term",
        reftarget=term,
        refexplicit=True,
        refwarn=True,
    )
    parts = [nodes.Text(whole[:begin]), reference, nodes.Text(whole[end:])]
    text.parent.replace(text, [part for part in parts if part.astext()])


def read_terms(app: Sphinx, config: Config) -> None:
    config.livt_terms = terms_of((Path(app.srcdir) / f"{GLOSSARY}.md").read_text(encoding="utf-8"))


def on_read(app: Sphinx, document: nodes.document) -> None:
    if app.env.docname != GLOSSARY:
        link_terms(document, app.config.livt_terms)
        for node in document.findall(addnodes.pending_xref):
            node.setdefault("refdoc", app.env.docname)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_config_value("livt_terms", [], "env")
    app.connect("config-inited", read_terms)
    app.connect("doctree-read", on_read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
