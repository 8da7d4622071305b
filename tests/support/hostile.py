"""A record that attacks the report."""

from bench.records.record import Failure, RunRecord, Variant
from quantize.checkpoint import CalibrationFact, FileFact, LayerError
from testkit.manifests import manifest
from testkit.records import cell, environment, record, recorded_spec
from testkit.scores import score

HOSTILE = "</style></title><img src=x onerror=alert(1)>\"'`&{{7*7}}<script>alert(2)</script> url(#a) $x^2$ 量\x07"


def hostile_record() -> RunRecord:
    """Return a record in which every text that is not a status or a number is hostile."""
    facts = manifest("awq-int4")
    bad_score = score("awq-int4", "mini-mmlu", reasons=(HOSTILE,))
    items = tuple(item.model_copy(update={"task": f"{item.task} {HOSTILE}"}) for item in bad_score.items)
    metrics = tuple(metric.model_copy(update={"name": HOSTILE}) for metric in bad_score.metrics)
    items = tuple(item.model_copy(update={"metrics": {HOSTILE.partition(",")[0]: 1.0}}) for item in items)
    return record(
        "awq-int4",
        run_id=HOSTILE,
        session=HOSTILE,
        variant=Variant(model=HOSTILE, quant=HOSTILE),
        key=HOSTILE,
        command=(HOSTILE,),
        spec=recorded_spec(HOSTILE, HOSTILE, engine={HOSTILE: HOSTILE, "dtype": HOSTILE}),
        environment=environment(
            hostname=HOSTILE,
            os=HOSTILE,
            python=HOSTILE,
            cpu=HOSTILE,
            gpus=(HOSTILE,),
            packages={HOSTILE: HOSTILE},
            variables={HOSTILE: HOSTILE},
            git_commit=HOSTILE,
        ),
        engine=HOSTILE,
        engine_info={"version": HOSTILE, "architectures": [HOSTILE]},
        checkpoint=facts.model_copy(
            update={
                "files": {HOSTILE: FileFact(sha256=HOSTILE, bytes=1)},
                "tensors_by_dtype": {HOSTILE: 3},
                "quantization_config": {HOSTILE: {HOSTILE: [HOSTILE]}},
                "provenance": HOSTILE,
                "format": HOSTILE,
                "calibration": CalibrationFact(
                    id=HOSTILE,
                    source=HOSTILE,
                    n_samples=1,
                    max_seq_len=2,
                    n_tokens=2,
                    enable_thinking=True,
                    chat_template_sha256=HOSTILE,
                    sha256=HOSTILE,
                    sample_sha256=(HOSTILE,),
                ),
                "layer_errors": (LayerError(layer=0, name=HOSTILE, relative_error=0.1),),
                "fidelity": facts.fidelity.model_copy(update={"text_id": HOSTILE, "text_sha256": HOSTILE})
                if facts.fidelity
                else None,
                "notes": (HOSTILE,),
                "libraries": {HOSTILE: HOSTILE},
                "created_at": HOSTILE,
            }
        ),
        cells=(cell("awq-int4", 256, reasons=(HOSTILE,)), cell("awq-int4", 1, status="failed", reasons=(HOSTILE,))),
        scores=(
            bad_score.model_copy(
                update={"task": HOSTILE, "metrics": metrics, "items": items, "task_versions": {HOSTILE: HOSTILE}}
            ),
            score("awq-int4", "other", status="invalid", reasons=(HOSTILE,)),
        ),
        failures=(Failure(stage=HOSTILE, message=HOSTILE),),
        stage_durations_s={HOSTILE: 1.0},
        log=(HOSTILE,),
        started_at=HOSTILE,
        finished_at=HOSTILE,
    )
