"""``python -m benchmarks.mutants``: judge a sample of mutants and fail if the tests kill too few of them."""

import argparse
import os
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from benchmarks.__main__ import keep
from benchmarks.mutants.cover import read, run_tests
from benchmarks.mutants.judge import Verdict, Worker, copy_tree, judge, population, sample

SEED = 17
COUNT = 300
WANTED = 0.92


def share(verdicts: Sequence[Verdict]) -> float:
    """Return the share of killed mutants among those not shown to be equivalent."""
    count = Counter(verdict.outcome for verdict in verdicts)
    return count["killed"] / ((count["killed"] + count["survived"]) or 1)


def table(verdicts: Sequence[Verdict], n_candidates: int, seed: int, minutes: float) -> str:
    """Return the result: a row per folder, and each mutant that was not killed, with the reason."""
    by_folder: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        by_folder[str(Path(verdict.mutant.file).parent)].append(verdict)
    rows = [*sorted(by_folder.items()), ("**all**", list(verdicts))]
    lines = [
        f"{len(verdicts)} of {n_candidates:,} mutants, drawn with seed {seed}, judged in {minutes:.0f} minutes.",
        "",
        "| modules of | mutants | killed | equivalent | survived | killed, of those not equivalent |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, part in rows:
        count = Counter(verdict.outcome for verdict in part)
        figures = [len(part), count["killed"], count["equivalent"], count["survived"], f"{share(part):.1%}"]
        lines.append(f"| {name} | " + " | ".join(map(str, figures)) + " |")
    for outcome, title in (("survived", "Survivors"), ("equivalent", "Equivalent")):
        listed = [verdict for verdict in verdicts if verdict.outcome == outcome]
        lines += ["", f"{title}: {'' if listed else 'none.'}", ""] if listed else []
        lines += [
            f"- `{verdict.mutant.file}`, `{verdict.mutant.function or 'module'}`: `{verdict.mutant.original}` → "
            f"`{verdict.mutant.mutated}`: {verdict.reason}"
            for verdict in listed
        ]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Judge mutants and return the exit code: 1 if too few of the sample were killed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutants", description=__doc__)
    parser.add_argument("--seed", type=int, default=SEED, help="another seed draws another sample (%(default)s)")
    parser.add_argument("--count", type=int, default=COUNT, help="size of the sample (%(default)s)")
    parser.add_argument("--only", default="*", help="mutate only files that match, such as 'bench/limits/*'")
    parser.add_argument(
        "--coverage", type=Path, help="folder that keeps the run under coverage, and is used if it has one"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="tests run at a time (%(default)s)")
    chosen = parser.parse_args(arguments)
    began = time.monotonic()
    everything = [mutant for mutant in population() if fnmatch(mutant.file, chosen.only)]
    with tempfile.TemporaryDirectory() as folder:
        data = chosen.coverage or Path(folder) / "data"
        data.mkdir(exist_ok=True, parents=True)
        trees = [Path(folder) / f"tree-{number}" for number in range(chosen.processes)]
        for tree in trees:
            copy_tree(tree)
        if not (data / "coverage").exists():
            run_tests(trees[0], data, chosen.processes)
        covering = read(trees[0], data)
        workers = [Worker(tree, data) for tree in trees]
        verdicts: list[Verdict] = []
        for verdict in judge(sample(everything, chosen.seed, chosen.count), covering, workers):
            verdicts.append(verdict)
            mutant = verdict.mutant
            print(
                f"{len(verdicts):3} {verdict.outcome:10} {mutant.file} {mutant.function}: {verdict.reason}", flush=True
            )
            if verdict.outcome == "survived":
                print(f"    - {mutant.original}\n    + {mutant.mutated}", flush=True)
        for worker in workers:
            worker.close()
    minutes = (time.monotonic() - began) / 60
    text = table(verdicts, len(everything), chosen.seed, minutes)
    if chosen == parser.parse_args([]):
        keep("mutants", text)
    print(text)
    return int(share(verdicts) < WANTED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
