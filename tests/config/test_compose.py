import re
from pathlib import Path

import pytest

from bench.config.compose import GROUPS, compose_job, jobs, names, with_plus
from bench.errors import ConfigError, NotPossibleError
from bench.paths import config_dir
from bench.plan.stages import check
from quantize.method import choose_group_size
from tests.support.model_folders import sharded

BASE = ["+model=smollm2-135m", "session=test"]


WHERE_FROM = ("local", "hub")
"""Models that are described by their checkpoint."""


MODELS = [name for name in names("model") if name not in WHERE_FROM]
SHAPED_DIFFERENTLY = ("smollm2-135m", "tiny-qwen3", "tiny-qwen3-moe", "qwen3-8b", "qwen3-235b-a22b")


@pytest.mark.parametrize(
    ("model", "quant"),
    [
        *((model, quant) for model in SHAPED_DIFFERENTLY for quant in names("quant")),
        *((model, "fp8-block") for model in MODELS if model not in SHAPED_DIFFERENTLY),
    ],
)
def test_every_model_composes_with_every_quantization(model: str, quant: str) -> None:
    spec = compose_job([f"+model={model}", f"quant={quant}", "session=test"])
    assert (spec.variant.model, spec.variant.quant) == (model, quant)
    if (model, quant) == ("smollm2-135m", "fp8-block"):
        with pytest.raises(NotPossibleError, match="576 x 576, not a whole number of 128 x 128 blocks; use quant=fp8"):
            check(spec)
    else:
        check(spec)


def test_a_folder_describes_itself(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "my-model")
    spec = compose_job(["+model=local", f"model.source.path={folder}", "quant=fp8", "session=test"])
    assert spec.variant.model == spec.model.name == "my-model"
    assert spec.model.architecture.layers >= 1
    with pytest.raises(ConfigError, match="no such folder"):
        compose_job(["+model=local", "model.source.path=/no/such", "session=test"])
    with pytest.raises(ConfigError, match=r"missing value: model\.source\.path"):
        compose_job(["+model=local", "session=test"])


def test_releases_are_named_in_three_ways(tmp_path: Path) -> None:
    def release(model: str, *overrides: str) -> dict[str, object] | None:
        source = compose_job([f"+model={model}", *overrides, "session=test"]).release
        return source.fields() if source else None

    assert release("qwen3-8b", "quant=fp8") is None
    assert release("qwen3-8b", "quant=fp8", "quant.source=official")["repo"] == "Qwen/Qwen3-8B-FP8"
    named = release("qwen3-8b", "quant=awq-int4", "quant.source=Someone/Else@v2")
    assert (named["kind"], named["repo"], named["revision"]) == ("hub", "Someone/Else", "v2")
    assert release("qwen3-8b", "quant=awq-int4", f"quant.source={tmp_path}")["path"] == str(tmp_path)
    with pytest.raises(
        ConfigError, match=r"no release of qwen3-8b in nvfp4 is known \(known: awq-int4, fp8, fp8-block"
    ):
        release("qwen3-8b", "quant=nvfp4", "quant.source=official")
    with pytest.raises(ConfigError, match="expected made, official"):
        release("qwen3-8b", "quant=nvfp4", "quant.source=offical")


def test_own_code_needs_a_commit() -> None:
    trusting = ["+model=hub", "model.source.repo=A/B", "model.source.trust_remote_code=true", "session=test"]
    with pytest.raises(ConfigError, match="pin the commit"):
        compose_job(trusting)


def test_a_group_size_falls_back_only_where_that_is_allowed() -> None:
    spec = compose_job([*BASE, "quant=rtn-int4", "quant.group_size=128", "quant.group_size_fallback=[96,null]"])
    assert choose_group_size(128, (96, None), spec.model.architecture) == 96
    assert choose_group_size(128, (None,), spec.model.architecture) is None
    check(spec)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["quant=gptq-int4", "quant.backend=autoawq"], "use one of auto-gptq, gptqmodel, llmcompressor"),
        (["quant=rtn-int4", "quant.backend=gptqmodel"], "does not implement this method"),
        (["quant=gptq-int4", "quant.act_order=group"], "has dropped act_order=group"),
        (["quant=awq-int4", "quant.backend=autoawq", "quant.bits=8"], "stores 4 bits, not 8"),
    ],
)
def test_an_option_that_a_backend_lacks_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(NotPossibleError, match=message):
        check(compose_job([*BASE, *overrides]))


@pytest.mark.parametrize("group", [group for group in GROUPS if group not in ("model", "quant")])
def test_every_other_name_composes(group: str) -> None:
    for name in names(group):
        where = ["engine.url=http://127.0.0.1:8000"] if name == "attach" else []
        where += ["plan=true"] if group == "hardware" else []
        assert compose_job(with_plus([*BASE, f"{group}={name}", *where]))


@pytest.mark.parametrize("group", GROUPS)
def test_a_config_calls_itself_by_its_file_name(group: str) -> None:
    """The configs of a group have all a name or none."""
    files = {name: (config_dir() / group / f"{name}.yaml").read_text() for name in names(group)}
    named = {name: re.findall(r"^name: (.+)$", text, re.MULTILINE) for name, text in files.items()}
    assert named == {name: [name] for name in files} or not any(named.values())


def test_model_works_without_plus() -> None:
    assert with_plus(["-m", "model=a,b", "quant=fp8", "+model=c"]) == ["-m", "+model=a,b", "quant=fp8", "+model=c"]


def test_a_sweep_is_every_combination() -> None:
    sweep = jobs(["+model=a,b", "quant=bf16,fp8", "seed=1"], multirun=True)
    assert sweep == [[f"+model={m}", f"quant={q}", "seed=1"] for m in "ab" for q in ("bf16", "fp8")]


def test_a_sweep_needs_the_flag() -> None:
    with pytest.raises(ConfigError, match="need -m"):
        jobs(["quant=bf16,fp8"], multirun=False)


def test_a_list_is_not_a_sweep() -> None:
    assert jobs(["workload.input_lens=[1,2]"], multirun=False) == [["workload.input_lens=[1,2]"]]


WRONG = {
    "quant=fp9": "did you mean 'fp8'",
    "+model=smolm2-135m": "did you mean 'smollm2-135m'",
    "engine=sglan": f"did you mean 'sglang'? Known: {', '.join(names('engine'))}",
    "workload.trails=3": "did you mean 'trials'",
    "trials=3": "no such field",
    "workload.trials=many": "workload.trials: input should be a valid integer",
    "workload.trials=0": "workload.trials: input should be greater than 0",
    "workload.input_lens=[0]": "workload.input_lens.0: input should be greater than 0",
    "engine.dtype=float99": "engine.dtype: input should be 'auto'",
    "accuracy.limit=-1": "accuracy.limit: input should be greater than 0",
    "accuracy.margin=1": "accuracy.margin: 1 would accept any loss; write accuracy.margin=1pp (or 0.01)",
    "accuracy.margin=2.0": "accuracy.margin: 2.0 would accept any loss; write accuracy.margin=2pp (or 0.02)",
    "accuracy.margin=0.99": "accuracy.margin: 0.99 is out of range: a margin is more than 0 and at most 50 pp",
    "accuracy.margin=80pp": "accuracy.margin: 80pp is out of range",
    "accuracy.margin=some": "accuracy.margin: some is not a margin; write accuracy.margin=1pp (or 0.01)",
    "accuracy.margin=true": "accuracy.margin: input should be less than or equal to 0.5",
    "quant.method=gtpq": "no module 'gtpq' in quantize.methods; did you mean 'gptq'",
    "+quant._target_=os.system": "never name code to run",
    "workload.trials.foo=1": "workload.trials.foo",
    "workload=[": "cannot read the command",
    "seed=": "seed",
    "report_dir=x": "did you mean 'reports_dir'",
}


@pytest.mark.parametrize("override", WRONG)
def test_a_wrong_override_is_reported_in_one_line(override: str) -> None:
    base = [] if "model=" in override else ["+model=smollm2-135m"]
    with pytest.raises(ConfigError) as caught:
        compose_job(*jobs([*base, override, "session=test"], multirun=False))
    message = str(caught.value)
    assert WRONG[override] in message
    assert "\n" not in message


@pytest.mark.parametrize("text", ["2pp", "2%", "0.02", "2e-2"])
def test_a_margin_is_set_in_points_or_as_a_share(text: str) -> None:
    spec = compose_job([*BASE, f"accuracy.margin={text}", "session=test"])
    assert spec.accuracy.margin == pytest.approx(0.02)


IMPOSSIBLE = {
    (
        "quant=gptq-int4",
        "quant.group_size_fallback=[]",
    ): "group size 128 does not divide the 576 input columns of q_proj",
    ("quant=gptq-int4", "quant.calibration.set=/nowhere.jsonl"): "no such file",
}


@pytest.mark.parametrize("overrides", IMPOSSIBLE)
def test_an_impossible_combination_is_refused_with_the_reason(overrides: tuple[str, ...]) -> None:
    with pytest.raises(NotPossibleError, match=re.escape(IMPOSSIBLE[overrides])):
        check(compose_job([*BASE, *overrides]))


def test_the_advice_of_an_impossible_combination_works() -> None:
    with pytest.raises(NotPossibleError) as caught:
        check(compose_job([*BASE, "quant=gptq-int4", "quant.group_size_fallback=[]"]))
    advice = re.search(r"try (\S+)", str(caught.value))[1]
    check(compose_job([*BASE, "quant=gptq-int4", "quant.group_size_fallback=[]", advice]))


def test_an_unknown_task_is_reported_before_the_run() -> None:
    pytest.importorskip("lm_eval")
    with pytest.raises(ConfigError, match="did you mean 'gsm8k'"):
        check(compose_job([*BASE, "accuracy=none", "accuracy.tasks=[gsm8kk]"]))


def test_a_missing_mirror_is_reported_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a folder"):
        check(compose_job([*BASE, "accuracy=full", f"accuracy.hub_dir={tmp_path}/no"]))
    with pytest.raises(ConfigError, match=r"has no cais/mmlu"):
        check(compose_job([*BASE, "accuracy=full", f"accuracy.hub_dir={tmp_path}"]))


def test_changed_fields_are_part_of_the_variants_name() -> None:
    spec = compose_job([*BASE, "quant=gptq-int4", "quant.group_size=32"])
    assert spec.variant.quant == "gptq-int4[group_size=32]"


def test_calibration_is_part_of_a_calibrated_variants_name_only() -> None:
    more = "calibration.gptq.n_samples=9"
    assert compose_job([*BASE, "quant=gptq-int4", more]).variant.quant == f"gptq-int4[{more}]"
    assert compose_job([*BASE, "quant=bf16", more]).variant.quant == "bf16"


def test_a_whole_group_can_be_swept() -> None:
    assert jobs(["quant=glob(gptq*)"], multirun=True) == [["quant=gptq-int4"], ["quant=gptq-int8"]]


def test_a_folder_of_custom_configs_can_be_added(tmp_path: Path) -> None:
    (tmp_path / "quant").mkdir()
    (tmp_path / "quant" / "mine.yaml").write_text(
        "name: mine\nmethod: fp8\nscheme: dynamic\nmax_kl: 1\nignore: [lm_head]\n"
    )
    spec = compose_job([*BASE, "quant=mine"], [str(tmp_path)])
    assert spec.quant.method.config.model_dump()["ignore"] == ("lm_head",)
    with pytest.raises(ConfigError, match="did you mean 'ignore'"):
        compose_job([*BASE, "quant=mine", "quant.ignroe=[]"], [str(tmp_path)])


def test_fields_may_be_numbers_or_lists() -> None:
    spec = compose_job([*BASE, "workload.input_lens=7", "workload.concurrency=[1,4]", "accuracy.num_fewshot=2"])
    assert spec.workload.input_lens == (7,)
    assert spec.workload.concurrency == (1, 4)
    assert spec.accuracy.fewshot_of("mmlu") == 2
