"""Ship the icons that the pages use, not the theme's whole set: one and a half megabytes on every page without this.

The theme has its icons twice: as a script that puts a drawing in the place of each, and as fonts. Here the script goes,
and the fonts keep the used glyphs and stand in the style sheet itself.
"""

import io
import re
from base64 import b64encode
from collections.abc import Iterable
from pathlib import Path

import pydata_sphinx_theme
from fontTools import subset
from fontTools.ttLib import TTFont
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

THEME = Path(pydata_sphinx_theme.__file__).parent / "theme" / "pydata_sphinx_theme" / "static"
STYLE = "styles/pydata-sphinx-theme.css"
FONTS = "vendor/fontawesome/webfonts"
SCRIPT = re.compile(r'\s*<script[^>]*src="[^"]*/fontawesome\.js[^"]*"[^>]*></script>')
CLASS = re.compile(r"\bfa-[a-z0-9-]+")
RULE = re.compile(r'((?:\.fa-[\w-]+:{1,2}before,?)+)\{content:"([^"]*)"\}')
FACE = re.compile(r"@font-face\{[^{}]*webfonts/(fa-\w+-\d+)\.woff2[^{}]*\}")
# A code point of the private use area, as it is or escaped.
PRIVATE = re.compile(r'(?<=["\'])(?:\\([ef][0-9a-f]{3})\s?|([\ue000-\uf8ff]))(?=["\'])', re.IGNORECASE)
# What an element that takes its icon from a font has as a class. The theme's own boxes use the first by style alone.
KINDS = {
    "fa-solid-900": {"fa-solid", "fas"},
    "fa-regular-400": {"fa-regular", "far"},
    "fa-brands-400": {"fa-brands", "fab"},
}


def reduced(style: str, used: Iterable[str], fonts: Path) -> str:
    """Return the theme's style sheet with the rules and glyphs of its own boxes and of the icons ``used``, by class.

    Raises ExtensionError for an icon that is used and not in the theme.
    """
    used = set(used)
    points: set[int] = set()

    def keep(rule: re.Match[str]) -> str:
        names = set(CLASS.findall(rule[1])) & used
        if names:
            known.update(names)
            points.update(code_points(rule[0]))
        return rule[0] if names else ""

    known: set[str] = set()
    style = RULE.sub(keep, style)
    points |= code_points(style)
    modifiers = set(CLASS.findall(style)) | set().union(*KINDS.values())
    if missing := sorted(used - known - modifiers):
        raise ExtensionError(f"the theme has no icon {', '.join(missing)}")

    def inline(face: re.Match[str]) -> str:
        if face[1] != "fa-solid-900" and not KINDS[face[1]] & used:
            return ""
        data = b64encode(glyphs(fonts / f"{face[1]}.ttf", points)).decode()
        return re.sub(r"src:[^}]*", f'src:url(data:font/woff;base64,{data}) format("woff")', face[0])

    return FACE.sub(inline, style)


def code_points(style: str) -> set[int]:
    return {int(code, 16) if code else ord(char) for code, char in PRIVATE.findall(style)}


def glyphs(font: Path, points: Iterable[int]) -> bytes:
    """Return a font as WOFF, with the glyphs of some code points alone."""
    options = subset.Options(flavor="woff", hinting=False, notdef_outline=True)
    whole = TTFont(font)
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=[*points])
    subsetter.subset(whole)
    whole.flavor = "woff"
    buffer = io.BytesIO()
    whole.save(buffer)
    return buffer.getvalue()


def ship(app: Sphinx, error: Exception | None) -> None:
    """Take the script out of the finished pages and write the reduced style sheet."""
    if error or app.builder.name not in ("html", "singlehtml"):
        return
    out = Path(app.outdir)
    static = out / "_static"
    used: set[str] = set()
    for page in out.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        for attribute in re.findall(r'class="([^"]*\bfa-[^"]*)"', text):
            used |= set(CLASS.findall(attribute)) | (set(attribute.split()) & set().union(*KINDS.values()))
        if SCRIPT.search(text):
            page.write_text(SCRIPT.sub("", text), encoding="utf-8")
    for script in static.rglob("*.js"):
        if script.name != "fontawesome.js":
            used |= set(CLASS.findall(script.read_text(encoding="utf-8")))
    style = (THEME / STYLE).read_text(encoding="utf-8")
    (static / STYLE).write_text(reduced(style, used, THEME / FONTS), encoding="utf-8")
    for path in [static / "scripts" / "fontawesome.js", *(static / FONTS).glob("fa-*"), *static.rglob("*.map")]:
        path.unlink(missing_ok=True)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("build-finished", ship)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
