"""Change points of a series, by Apache Otava (Hunter, arXiv 2301.03034) in its own toolchain.

The gate compares tonight with the nights before it; this looks back over all nights and dates each change.
"""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.errors import ToolchainError
from bench.nightly.course import JudgedNight
from bench.toolchains.toolchain import toolchain_interpreter
from quantize.key import Frozen
from quantize.search_path import search_path

SCRIPT = Path(__file__).resolve().parents[1] / "toolchains" / "otava_points.py"
LEAST_NIGHTS = 4
"""Minimum number of nights of a series, so that there are some on both sides of a change."""
TIMEOUT_S = 600


class ChangePoint(Frozen):
    """A night at which a series changed."""

    series: str
    night: str
    """The first night of the new level."""
    change: float
    """New level / old level - 1, of the ratio variant's speed / control's speed."""
    p: float
    """P value of the change."""


def change_points(histories: Mapping[str, Sequence[JudgedNight]]) -> tuple[ChangePoint, ...]:
    """Return every change point, by series and night. Nights without a value are skipped.

    Args:
        histories: {series: its nights, oldest first}.

    Raises:
        ToolchainError: the toolchain is not built, or Otava failed.
    """
    nights = {
        name: [(night.night, night.ratio) for night in judged if night.ratio is not None]
        for name, judged in histories.items()
    }
    series = {name: [ratio for _, ratio in own] for name, own in nights.items() if len(own) >= LEAST_NIGHTS}
    python = toolchain_interpreter("otava", "--change-points")
    try:
        process = subprocess.run(
            [python, str(SCRIPT)],
            env={**os.environ, **search_path(python)},
            input=json.dumps(series),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=True,
        )
        points_of: dict[str, list[tuple[int, float, float]]] = json.loads(process.stdout)
    except subprocess.CalledProcessError as error:
        raise ToolchainError(f"Apache Otava failed: {error.stderr.strip().splitlines()[-1]}") from error
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise ToolchainError(f"Apache Otava returned no result: {error}") from error
    return tuple(
        ChangePoint(series=name, night=nights[name][index][0], change=percent / 100, p=p)
        for name, points in points_of.items()
        for index, percent, p in points
    )
