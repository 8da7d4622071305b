"""Where in its history a series changed, as Apache Otava finds it (Hunter, arXiv 2301.03034), in its own toolchain.

The gate asks whether tonight is worse than the nights before; this asks, with all nights known, when something changed.
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
"""With fewer there is nothing on either side of a change."""
TIMEOUT_S = 600


class ChangePoint(Frozen):
    """A night with which a series changed."""

    series: str
    night: str
    """The first of the new level."""
    change: float
    """Share: new level / old level - 1, of variant's speed / control's speed."""
    p: float
    """P value of the change."""


def change_points(histories: Mapping[str, Sequence[JudgedNight]]) -> tuple[ChangePoint, ...]:
    """Return every change point, by series and night. Nights that could not be measured are left out.

    Args:
        histories: {name of a series: its nights, oldest first}.

    Raises:
        ToolchainError: the toolchain is not built, or it failed.
    """
    nights = {
        name: [(night.night, night.ratio) for night in judged if night.ratio is not None]
        for name, judged in histories.items()
    }
    asked = {name: [ratio for _, ratio in own] for name, own in nights.items() if len(own) >= LEAST_NIGHTS}
    python = toolchain_interpreter("otava", "--change-points")
    try:
        done = subprocess.run(
            [python, str(SCRIPT)],
            env={**os.environ, **search_path(python)},
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=True,
        )
        found: dict[str, list[tuple[int, float, float]]] = json.loads(done.stdout)
    except subprocess.CalledProcessError as error:
        raise ToolchainError(f"Apache Otava failed: {error.stderr.strip().splitlines()[-1]}") from error
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise ToolchainError(f"Apache Otava gave no answer: {error}") from error
    return tuple(
        ChangePoint(series=name, night=nights[name][index][0], change=percent / 100, p=p)
        for name, points in found.items()
        for index, percent, p in points
    )
