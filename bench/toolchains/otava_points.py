"""Convert {series: values} to {series: [[index, change in percent, p value]]}, as JSON, in the toolchain otava."""

import json
import sys

from otava.series import AnalysisOptions, Metric, Series


def main() -> None:
    """Read standard input, write standard output."""
    changes = {}
    for name, values in json.load(sys.stdin).items():
        series = Series(name, None, list(range(len(values))), {"speed": Metric()}, {"speed": values}, {})
        points = series.analyze(AnalysisOptions()).change_points["speed"]
        changes[name] = [
            [int(point.index), float(point.forward_change_percent()), float(point.pvalue())] for point in points
        ]
    json.dump(changes, sys.stdout)


main()
