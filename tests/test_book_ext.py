"""book/_ext: links to the glossary, sections for the search, icons."""

import inspect
import io
import re
import sys
from base64 import b64decode
from pathlib import Path

import pytest
from docutils import nodes
from docutils.utils import new_document
from fontTools.ttLib import TTFont
from sphinx import addnodes
from sphinx.errors import ExtensionError
from sphinx.util.inspect import stringify_signature

from livt import losses

BOOK = Path(__file__).parents[1] / "book"
sys.path.insert(0, str(BOOK / "_ext"))

import api  # noqa: E402
import icons  # noqa: E402
import sections  # noqa: E402
import terms  # noqa: E402

sys.path.remove(str(BOOK / "_ext"))


# ------------------------------------------------------------------------------------------------- glossary links


def page(*children):
    document = new_document("page")
    document += nodes.section("", nodes.title("", "The prior of a run"), *children)
    return document


def links(document):
    return [(node["reftarget"], node.astext()) for node in document.findall(addnodes.pending_xref)]


def paragraph(text, *more):
    return nodes.paragraph("", "", nodes.Text(text), *more)


def test_the_terms_are_those_of_the_glossary():
    found = terms.terms_of((BOOK / "glossary.md").read_text())
    assert {"Bal-BCE", "ECE", "run", "run store", "k-NN probe"} <= set(found)
    assert found.index("run store") < found.index("run")


def test_the_first_use_is_linked_and_no_other():
    document = page(paragraph("A prior. Two priors. "), paragraph("The prior again."))
    terms.link_terms(document, ["prior"])
    assert links(document) == [("prior", "prior")]
    assert document.astext().count("prior") == 4, "no text is lost"


@pytest.mark.parametrize(
    ("text", "term", "linked"),
    [
        ("Shot groups differ.", "shot groups", "Shot groups"),
        ("Both arms are trained.", "arm", "arms"),
        ("The alarm and the farm.", "arm", None),
        ("It has an ECE of 5.", "ECE", "ECE"),
        ("A piece and a preceding one.", "ECE", None),
        ("The loss Bal-BCE wins.", "BCE", None),
        ("Notebooks run here; each run counts.", "run", "run"),
        ("They start from zero.", "start", None),
        ("What the run store holds.", "run store", "run store"),
        ("A run\nstore.", "run store", "run\nstore"),
    ],
)
def test_a_term_is_a_word_of_its_own(text, term, linked):
    document = page(paragraph(text))
    terms.link_terms(document, [term])
    assert links(document) == ([(term, linked)] if linked else [])


def test_longer_terms_go_first():
    document = page(paragraph("The run store. Each run."))
    terms.link_terms(document, ["run store", "run"])
    assert links(document) == [("run store", "run store"), ("run", "run")]


@pytest.mark.parametrize(
    "closed",
    [
        nodes.paragraph("", "", nodes.literal("", "prior")),
        nodes.literal_block("", "prior"),
        nodes.paragraph("", "", nodes.math("", "prior")),
        nodes.paragraph("", "", nodes.reference("", "the prior", refuri="story.html")),
        nodes.container("", nodes.paragraph("", "prior"), classes=["cell_output"]),
        nodes.raw("", "<p>prior</p>", format="html"),
    ],
)
def test_code_formulae_headings_links_and_results_are_left_alone(closed):
    document = page(closed, paragraph("The prior."))
    terms.link_terms(document, ["prior"])
    (reference,) = document.findall(addnodes.pending_xref)
    assert reference.parent.astext() == "The prior."


def test_a_link_by_hand_is_the_only_one():
    by_hand = addnodes.pending_xref("", nodes.inline("", "prior"), reftype="term", refdomain="std", reftarget="Prior")
    document = page(paragraph("The prior. "), paragraph("See ", by_hand))
    terms.link_terms(document, ["prior"])
    assert len(links(document)) == 1


# ---------------------------------------------------------------------------------------------------------- search

PAGE = """<html><article class="bd-article">
<section id="top"><h1>The page<a class="headerlink">#</a></h1>
<p>Before <b>all</b>, \\(z_y\\) and \\(\\pi\\) [<a>1</a>].</p>
<section id="inner"><h2>Inner</h2><p>Inside.</p><div class="cell_input">code</div>
<img alt="" src="data:image/png;base64,AAAA"><script>no</script></section>
<dl class="glossary"><dt id="term-arm">arm</dt><dd>One setting.</dd></dl>
<dl class="py function"><dt id="livt.losses.find">livt.losses.find(name)</dt><dd>Return the loss.</dd></dl>
</section></article></html>"""


def test_each_text_is_in_its_innermost_section():
    found = {anchor: (heading, text) for anchor, heading, text in sections.sections(PAGE)}
    assert found == {
        "top": ("The page", "Before all, z_y and pi [1]."),
        "inner": ("Inner", "Inside."),
        "term-arm": ("arm", "One setting."),
        "livt.losses.find": ("livt.losses.find", "livt.losses.find(name) Return the loss."),
    }
    assert list(sections.sections("<html><p>no article</p></html>")) == []


# ----------------------------------------------------------------------------------------------------------- icons


def test_only_used_icons_are_shipped():
    style = (icons.THEME / icons.STYLE).read_text(encoding="utf-8")
    small = icons.reduced(style, {"fa-solid", "fa-bars", "fa-lg"}, icons.THEME / icons.FONTS)
    assert len(small) < len(style)
    assert re.search(r"\.fa-bars:{1,2}before", small)
    assert not re.search(r"\.fa-rocket:{1,2}before", small)
    assert "webfonts" not in small, "nothing is fetched"
    (font,) = re.findall(r"base64,([^)]*)\)", "".join(re.findall(r"@font-face\{[^}]*data:font[^}]*\}", small)))
    glyphs = TTFont(io.BytesIO(b64decode(font))).getBestCmap()
    (bars,) = re.findall(r'fa-bars:{1,2}before[^{]*\{content:"([^"]*)"', style)
    assert (int(bars[1:], 16) if bars.startswith("\\") else ord(bars)) in glyphs
    whole = TTFont(icons.THEME / icons.FONTS / "fa-solid-900.ttf").getBestCmap()
    boxes = icons.code_points(icons.RULE.sub("", style)) & set(whole)
    assert boxes
    assert boxes <= set(glyphs), "the theme's notes and warnings have theirs"


def test_an_icon_that_the_theme_lacks_is_named():
    style = (icons.THEME / icons.STYLE).read_text(encoding="utf-8")
    with pytest.raises(ExtensionError, match="the theme has no icon fa-nonsense"):
        icons.reduced(style, {"fa-solid", "fa-nonsense"}, icons.THEME / icons.FONTS)


# ------------------------------------------------------------------------------------------------------------- API


def test_a_signature_names_the_types_of_the_source():
    signature = stringify_signature(inspect.signature(losses.balanced_bce_bias), unqualified_typehints=True)
    shown, returns = api.shorten(None, "function", "", losses.balanced_bce_bias, None, signature, None)
    assert shown == "(class_counts: ~numpy.typing.ArrayLike) -> ~torch.Tensor"
    assert returns is None
    assert api.shorten(None, "module", "", losses, None, None, None) == (None, None)
