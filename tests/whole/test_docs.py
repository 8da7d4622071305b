"""The docs describe everything that exists, and nothing else."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from bench.cli import COMMANDS, usage
from bench.commands import published
from bench.config.compose import GROUPS, compose_job, jobs, names, with_plus
from bench.paths import config_dir
from bench.report.rows import COLUMNS
from tests.support.model_folders import sharded
from tests.support.paths import ROOT
from tests.support.program import Cli

README = (ROOT / "README.md").read_text()
DOCS = {path.name: path.read_text() for path in (ROOT / "docs").glob("*.md")}
RUNS = re.compile(r"^(?:python -m bench\.run|quantbench run) ([^…\n#]+)", re.MULTILINE)
COMMANDS_IN_DOCS = [line for text in (README, *DOCS.values()) for line in RUNS.findall(text)]


@pytest.mark.parametrize("line", COMMANDS_IN_DOCS)
def test_every_command_in_the_docs_composes(line: str, tmp_path: Path) -> None:
    # The reader's folder is replaced by an existing one, and a model on the hub by one with known shapes.
    sharded(tmp_path / "my-model")
    words = line.replace("/data/my-model", str(tmp_path / "my-model")).split()
    words = [word.replace("+model=hub", "+model=qwen3-8b") for word in words if "source.repo=" not in word]
    for job in jobs(with_plus([word for word in words if word != "-m"]), multirun="-m" in words):
        assert compose_job([*job, "session=test"])


def test_nothing_in_the_readme_is_unfinished_or_missing() -> None:
    assert not re.findall(r"TODO|FIXME|MACHINE|DEMO_MINUTES", README)
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), link


def test_the_docs_show_the_benchmarks_last_results() -> None:
    shown = re.findall(r"<!-- bench (\w+) -->\n(.*?)<!-- end -->", "\n".join(DOCS.values()), re.DOTALL)
    assert shown
    for name, result in shown:
        last = (ROOT / "benchmarks" / "last" / f"{name}.md").read_text()
        assert last == f"# {name}\n\n{result}"


def test_every_link_in_the_docs_leads_somewhere() -> None:
    for text in DOCS.values():
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (ROOT / "docs" / link).exists(), link


def test_every_quantization_and_its_own_fields_are_documented() -> None:
    page = DOCS["quantization.md"]
    for name in names("quant"):
        assert f"`{name}`" in page
    configs = [
        compose_job(["+model=tiny-qwen3", f"quant={name}", "session=test"]).quant.method.config.model_dump()
        for name in names("quant")
    ]
    fields = {field for config in configs for field in config} | {"source"}
    assert set(re.findall(r"`quant\.(\w+)", page)) <= fields


def test_every_group_and_name_is_in_the_readme() -> None:
    assert {path.name for path in config_dir().iterdir() if path.is_dir()} == set(GROUPS)
    for group in GROUPS:
        row = re.search(rf"^\| `{group}` \|(.+)$", README, re.MULTILINE)
        assert row, f"{group} is not in the README's table"
        assert [name for name in names(group) if f"`{name}`" not in row[1]] == []


def test_every_field_named_in_the_readme_exists() -> None:
    spec = compose_job(["+model=smollm2-135m", "quant=gptq-int4", "session=test"])
    for part in ("workload", "accuracy"):
        for field in re.findall(rf"`{part}\.(\w+)`", README):
            assert hasattr(getattr(spec, part), field)


def test_every_make_target_in_the_readme_exists() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = re.findall(r"(?:^|`)make ([\w-]+)", README + (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert named
    assert set(named) - set(targets) == set()


def test_every_subcommand_is_in_the_usage_and_has_help(cli: Cli) -> None:
    for name in COMMANDS:
        assert name in usage()
        done = cli(name, "--help", module="bench.cli")
        assert done.returncode == 0, done.stderr
    help_text = cli("export", "--help", module="bench.cli").stdout
    assert [column for column in COLUMNS if column not in help_text] == []


def test_the_chinese_readme_has_the_same_commands_and_names() -> None:
    chinese = (ROOT / "README.zh-CN.md").read_text()
    blocks = re.compile(r"^```\n(.*?)^```", re.DOTALL | re.MULTILINE)
    assert blocks.findall(chinese) == blocks.findall(README)
    for group in GROUPS:
        row = re.search(rf"^\| `{group}` \|(.+)$", chinese, re.MULTILINE)
        assert row, f"{group} is not in the table of README.zh-CN.md"
        assert [name for name in names(group) if f"`{name}`" not in row[1]] == []
    for link in re.findall(r"\]\(([^)#:]+)\)", chinese):
        assert (ROOT / link).exists(), link


def test_the_page_on_published_figures_has_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert published.main(["qwen3-8b", "--engine", "sglang"]) == 0
    printed = [re.split(r"\s*│\s*", line.strip("│ ")) for line in capsys.readouterr().out.splitlines() if "│" in line]
    shown = re.findall(
        r"^\| (BF16|FP8|AWQ-INT4) \| (\S+) \| (\S+ ms) \| (\S+ %) \|$", DOCS["published.md"], re.MULTILINE
    )
    assert len(shown) == 3
    for label, speed, tpot, mbu in shown:
        assert any({label, "1", speed, tpot, mbu} <= set(row) for row in printed), label


def test_the_nightly_workflows_commands_compose() -> None:
    """The commands are expanded as in a shell, with the variables' defaults."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "nightly.yml").read_text())
    known = {"$MODEL": "qwen3-8b", "$QUANTS": "fp8,gptq-int4", "$HOME": "/home/x", "$PWD": "/tmp"}
    composed = 0
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            for name, value in known.items():
                step["run"] = step.get("run", "").replace(name, value)
            words = shlex.split(step["run"])
            if "bench.run" in words:
                arguments = words[words.index("bench.run") + 1 :]
                for overrides in jobs(
                    with_plus([word for word in arguments if word != "-m"]), multirun="-m" in arguments
                ):
                    assert compose_job([*overrides, "session=test"])
                    composed += 1
    assert composed == 3
