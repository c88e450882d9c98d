"""The API reference: signatures that name an argument's type as the source does."""

from numpy.typing import ArrayLike
from sphinx.application import Sphinx
from sphinx.util.typing import stringify_annotation

# Python has forgotten this alias by the time a signature is read, and gives the union of many types behind it.
EXPANDED = stringify_annotation(ArrayLike, "smart")


def shorten(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Write ArrayLike in the place of what it stands for; "~" leaves the module out."""
    return signature and signature.replace(EXPANDED, "~numpy.typing.ArrayLike"), returns


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-signature", shorten)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
