"""Resolve and import livt with each Python that is allowed, and with the oldest packages that pyproject.toml allows.

    python tests/matrix.py              resolves: what pip would install, in seconds to minutes; nothing is installed
    python tests/matrix.py --install    installs into environments that are deleted, and imports every module: gigabytes

A Python that is not installed is said and passed over. Not part of ``make test``: it asks the package index.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
OLDEST = PYTHONS[0]  # which alone has all of the oldest packages
_TEXT: dict[str, Any] = {"capture_output": True, "text": True}
IMPORT = """
import importlib, pkgutil, livt
for module in pkgutil.walk_packages(livt.__path__, "livt."):
    if not module.name.startswith("livt.companion") and module.name != "livt.__main__":
        importlib.import_module(module.name)
from livt.__main__ import main
raise SystemExit(main(["finetune", "smoke", "--device", "cpu", "--quiet", "--runs", "runs"]))
"""


def oldest(requirements: list[str]) -> list[str]:
    """Return each requirement pinned to its lower bound; one without a bound is left to pip.

    >>> oldest(["numpy>=1.26", "torchvision", "jupyter-book>=1.0.4,<2"])
    ['numpy==1.26', 'torchvision', 'jupyter-book==1.0.4']
    """
    pinned = []
    for requirement in requirements:
        found = re.match(r"([\w.-]+)>=([\w.]+)", requirement)
        pinned.append(f"{found[1]}=={found[2]}" if found else requirement)
    return pinned


def pythons() -> Iterator[tuple[str, str | None]]:
    """Yield each version, and the command that starts it, or None where it is not installed."""
    for version in PYTHONS:
        command = shutil.which(f"python{version}")
        works = command and subprocess.run([command, "-c", ""], capture_output=True).returncode == 0
        yield version, command if works else None


def tried(python: str, requirements: list[str], install: bool, index: list[str]) -> str:
    """Return what went wrong, or ""."""
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder) / "venv"
        subprocess.run([python, "-m", "venv", environment], check=True, capture_output=True)
        own = environment / "bin" / "python"
        pip = [own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *index]
        subprocess.run([*pip, "--upgrade", "pip"], check=True, capture_output=True)
        if not install:
            report = Path(folder) / "report.json"
            done = subprocess.run(
                [*pip, "--dry-run", "--only-binary", ":all:", "--report", report, *requirements], **_TEXT
            )
            if done.returncode == 0:
                parts = (item["metadata"] for item in json.loads(report.read_text())["install"])
                chosen = {part["name"].lower(): part["version"] for part in parts}
                shown = (f"{name} {chosen[name]}" for name in ("torch", "timm", "numpy") if name in chosen)
                print(f"  {len(chosen)} packages, among them {', '.join(shown)}")
        else:
            done = subprocess.run([*pip, *requirements, str(ROOT)], **_TEXT)
            if done.returncode == 0:
                done = subprocess.run([own, "-c", IMPORT], cwd=folder, **_TEXT)
    return "" if done.returncode == 0 else (done.stderr.strip() or done.stdout.strip()).splitlines()[-1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--install", action="store_true", help="install and import, beside resolving")
    parser.add_argument("--index-url", help="the package index, such as PyTorch's own of CPU builds")
    parser.add_argument("--extra-index-url", help="one more package index")
    options = parser.parse_args()
    index = [part for name in ("index_url", "extra_index_url") if (url := getattr(options, name))
             for part in (f"--{name.replace('_', '-')}", url)]  # fmt: skip
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    failed = 0
    for version, command in pythons():
        if command is None:
            print(f"Python {version}: not installed, passed over")
            continue
        cases = {"newest": wanted} | ({"oldest": oldest(wanted)} if version == OLDEST else {})
        for name, requirements in cases.items():
            print(f"Python {version}, {name} packages", flush=True)
            problem = tried(command, requirements, options.install, index)
            print(f"  {problem or 'well'}", flush=True)
            failed += bool(problem)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
