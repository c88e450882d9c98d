"""The package as files, for tests of its layout: every module, what it imports, and a copy of it to change."""

import ast
from pathlib import Path

import livt

PACKAGE = Path(livt.__file__).parent


def modules() -> list[str]:
    """Return the dotted names of all modules, those of sub-packages too."""
    parts = (path.relative_to(PACKAGE.parent).with_suffix("").parts for path in PACKAGE.rglob("*.py"))
    return sorted(".".join(p for p in names if p != "__init__") for names in parts)


def module_file(name: str) -> Path:
    path = PACKAGE.joinpath(*name.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def imports(name: str) -> set[str]:
    """Return every name that a module imports, anywhere: of ``from a import b``, both ``a`` and ``a.b``."""
    found = set()
    for node in ast.walk(ast.parse(module_file(name).read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name} imports relatively"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found
