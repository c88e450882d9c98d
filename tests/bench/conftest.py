"""Times side by side, and after pytest-benchmark's tables what they come to."""

import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from importlib.util import find_spec
from statistics import median

import pytest
import torch

from livt.lab.environment import environment

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
RATIO = "livt is times as fast"
ROWS = pytest.StashKey[dict[str, dict[str, dict[str, float]]]]()


@pytest.fixture
def side_by_side(benchmark) -> Callable[..., None]:
    """Time a step, and before each of its rounds each of some others: a machine whose speed drifts favours none.

    ``label`` makes of a name ("livt" for the step itself) and its seconds what is said of it: {unit: number}.
    """

    def time_them(
        step: Callable[[], object],
        others: Mapping[str, Callable[[], object]],
        rounds: int,
        label: Callable[[str, float], Mapping[str, float | None]] = lambda name, seconds: {},
    ) -> None:
        times: dict[str, list[float]] = {name: [] for name in others}

        def time_others() -> None:
            for name, other in others.items():
                start = time.perf_counter()
                other()
                times[name].append(time.perf_counter() - start)

        benchmark.pedantic(step, setup=time_others, warmup_rounds=1, rounds=rounds)
        if not benchmark.stats:  # benchmarks are switched off
            return
        ours = list(benchmark.stats.stats.data)
        for name, taken in {"livt": ours, **{name: taken[-rounds:] for name, taken in times.items()}}.items():
            row = {"ms": 1e3 * median(taken), **label(name, median(taken))}
            if name != "livt":
                row[RATIO] = median(b / a for a, b in zip(ours, taken, strict=True))
            benchmark.extra_info[name] = {unit: float(f"{x:.3g}") for unit, x in row.items() if x is not None}

    return time_them


@pytest.fixture(autouse=True)
def keep_rows(request, benchmark):
    """Keep what a benchmark says of its rows until the end."""
    yield
    if benchmark.extra_info:
        request.config.stash.setdefault(ROWS, {})[benchmark.group] = dict(benchmark.extra_info)


def pytest_benchmark_update_json(config, output_json):
    """Keep what the times come to and where they were taken, not each time and the name of the machine."""
    where = environment(DEVICE, wall_time_s=1, images=0, waited_s=0)
    kept = ("commit", "dirty", "packages", "finished", "python", "device", "threads")
    if find_spec("transformers"):
        where["packages"]["transformers"] = version("transformers")
    output_json.clear()
    output_json |= {key: where[key] for key in kept} | {"groups": config.stash.get(ROWS, {})}


def pytest_terminal_summary(terminalreporter, config):
    for group, rows in config.stash.get(ROWS, {}).items():
        terminalreporter.section(group)
        for name, row in rows.items():
            parts = [f"{x:g} {unit}" for unit, x in row.items() if unit != RATIO]
            if RATIO in row:
                parts.append(f"livt is {row[RATIO]:.2f} x as fast")
            terminalreporter.write_line(f"{name:20} {', '.join(parts)}")
