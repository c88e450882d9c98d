"""The foot of every page: version, licence, how to cite, and where the source is; and the folder of templates.

The one address comes from ``repository: url`` in ``_config.yml``; without it the foot names the README instead.
"""

from importlib.metadata import metadata
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config

import livt

TEMPLATES = Path(__file__).resolve().parent / "templates"


def configure(app: Sphinx, config: Config) -> None:
    config.version = config.release = livt.__version__
    config.myst_substitutions = {**config.myst_substitutions, "version": livt.__version__}
    config.templates_path = [*config.templates_path, str(TEMPLATES)]


def add_context(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    context["livt_version"] = livt.__version__
    context["livt_licence"] = metadata("livt")["License-Expression"]
    context["livt_repository"] = app.config.html_theme_options.get("repository_url") or ""


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("config-inited", configure, priority=100)  # before MyST reads its substitutions
    app.connect("html-page-context", add_context)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
