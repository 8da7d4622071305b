"""AutoAWQ 0.2.9: the library that introduced the ``awq`` container. No longer developed; llm-compressor adopted it.

It always tries 20 scales, and also clips weights where that lowers the error, as the paper's own code does. It computes
in float16 on CUDA, and in float32 on a CPU, where float16 is slow. It always stores float16.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantize import native, transformers4
from quantize.architecture import Architecture
from quantize.backend import Backend, QuantizeResult, Samples

if TYPE_CHECKING:
    from quantize.methods.awq import Config

PACKAGES = ("awq", "transformers", "torch")
ROWS = 64
"""Output features that its kernels process together."""


def awq(config: "Config", architecture: Architecture, source: Path, target: Path, samples: Samples) -> QuantizeResult:
    """Run AWQ and write the ``awq`` container, version ``gemm``.

    Raises:
        ValueError: the library or the container does not support the config.
    """
    group_size = native.check_awq(config, architecture)
    stages, left = native.inner_layers(source, config.ignore)
    check_names([name for stage in stages for name in stage], left)
    check_rows(architecture)
    from awq.models._config import AwqConfig
    from awq.models.auto import AWQ_CAUSAL_LM_MODEL_MAP

    model = transformers4.load(source)
    kind = model.config.model_type
    if kind not in AWQ_CAUSAL_LM_MODEL_MAP:
        raise ValueError(f"AutoAWQ 0.2.9 does not know model_type {kind}: use quant.backend=llmcompressor")
    library = AWQ_CAUSAL_LM_MODEL_MAP[kind]
    wrapped = library(model, kind, is_quantized=False, config=model.config, quant_config=AwqConfig(), processor=None)
    wrapped.modules_to_not_convert = left or None
    length = max(map(len, samples))
    try:
        wrapped.quantize(
            quant_config={"zero_point": True, "q_group_size": group_size, "w_bit": 4, "version": "GEMM"},
            calib_data=[list(ids) for ids in samples],
            max_calib_samples=len(samples),
            max_calib_seq_len=length,
            quantizer_cls=restoring_quantizer(),
        )
    except AssertionError as error:
        if "zero dimension" not in str(error):
            raise
        expert = str(error).partition(" ")[0]
        raise ValueError(
            f"no calibration token reached {expert}, but AutoAWQ needs some for every expert: "
            "raise quant.calibration.n_samples, or use quant.backend=llmcompressor"
        ) from error
    native.save_float16(target, model.state_dict(), tied=bool(model.config.tie_word_embeddings))
    quantization = {
        "quant_method": "awq",
        "bits": 4,
        "group_size": group_size,
        "zero_point": True,
        "version": "gemm",
        "modules_to_not_convert": left or None,
    }
    native.finish(source, target, quantization, dtype=native.FLOAT16)
    tokens = sum(map(len, samples))
    used = tokens // length * length
    if all(len(ids) == length for ids in samples):
        return QuantizeResult()
    return QuantizeResult(
        notes=(f"AutoAWQ joins samples and splits them every {length} tokens: {used} of {tokens} were used",)
    )


def restoring_quantizer() -> Any:
    """Return the library's quantizer, made to restore the weights that it changes while it tries scales.

    It saves them as ``weight.cpu()``, which is not a copy on a CPU: every tried scale would remain in the weights.
    """
    from awq.quantize.quantizer import AwqQuantizer

    class Careful(AwqQuantizer):  # type: ignore[misc]
        """AutoAWQ's quantizer."""

        def _compute_best_scale(self, *args: Any, **kwargs: Any) -> Any:
            module = kwargs["module2inspect"] if "module2inspect" in kwargs else args[3]
            saved = {name: value.clone() for name, value in module.state_dict().items()}
            module.state_dict = lambda: saved
            try:
                return super()._compute_best_scale(*args, **kwargs)
            finally:
                del module.state_dict

    return Careful


def check_names(quantized: list[str], ignored: list[str]) -> None:
    """Check that layers can be left in 16 bits, because the library and its engines match parts of names.

    Raises:
        ValueError: the name of a layer to leave is part of the name of a layer to quantize.
    """
    both = [(part, name) for part in ignored for name in quantized if part in name]
    if both:
        part, name = both[0]
        raise ValueError(f"AutoAWQ cannot leave {part} in 16 bits and quantize {name}: use quant.backend=llmcompressor")


def check_rows(architecture: Architecture) -> None:
    """Check that the library can split every layer into blocks of output features, as it does to clip weights.

    Raises:
        ValueError: it cannot split a layer.
    """
    for name, (rows, _) in architecture.linear_shapes().items():
        if rows % ROWS:
            raise ValueError(
                f"AutoAWQ needs a multiple of {ROWS} output features, and {name} has {rows}: "
                "use quant.backend=llmcompressor"
            )


BACKEND = Backend("autoawq", PACKAGES, {"awq": awq})
