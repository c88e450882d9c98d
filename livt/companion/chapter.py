"""What a chapter begins with: its parameters, checked."""

import ast
import contextlib
from collections.abc import MutableMapping
from types import SimpleNamespace
from typing import Any


def check_parameters(namespace: MutableMapping[str, Any], **allowed: Any) -> SimpleNamespace:
    """Return a notebook's parameters, checked; call it in the cell behind ``parameters`` with ``globals()``.

    ``allowed`` gives, for each parameter, a type (``int``, not negative; ``float``; ``str``), ``list[int]`` or a tuple
    of choices. A string is read as a literal where another type is asked for, as papermill's ``-p seeds '[0, 1]'``
    gives a string. Raises ValueError for a parameter that is unknown (a plain value in the namespace that is not
    allowed, when the cell first runs), ill-typed or not among the choices, naming what is allowed.
    """
    literals = (bool, int, float, str, list, tuple, dict, type(None))
    given = {k for k, v in namespace.items() if isinstance(v, literals) and not k.startswith("_")} - {"In", "Out"}
    unknown = sorted(given - allowed.keys()) if "_parameters_checked" not in namespace else []
    if unknown:
        raise ValueError(f"unknown parameter {', '.join(unknown)}; this notebook takes {', '.join(allowed)}")
    namespace["_parameters_checked"] = True  # the cell may run again, when the notebook has values of its own
    return SimpleNamespace(**{name: _check_parameter(name, namespace[name], kind) for name, kind in allowed.items()})


def _check_parameter(name: str, value: Any, kind: Any) -> Any:
    if isinstance(kind, tuple):
        if value not in kind:
            raise ValueError(f"parameter {name} = {value!r} is not one of {', '.join(kind)}")
        return value
    if isinstance(value, str) and kind is not str:
        with contextlib.suppress(ValueError, SyntaxError):  # the check below names the type it should have
            value = ast.literal_eval(value)
    if kind == list[int]:
        fits = isinstance(value, list | tuple) and len(value) > 0 and all(type(v) is int and v >= 0 for v in value)
        if not fits or len(set(value)) != len(value):
            raise ValueError(f"parameter {name} must be a list of different whole numbers, like [0, 1], not {value!r}")
        return list(value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind or (kind is int and value < 0):
        raise ValueError(f"parameter {name} must be {kind.__name__}{' from 0' * (kind is int)}, not {value!r}")
    return value
