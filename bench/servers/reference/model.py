"""Load a Hugging Face checkpoint and run forward passes over sequences of different lengths."""

import itertools
import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging as transformers_logging

from bench.servers.reference import attention
from bench.servers.reference.kv import RaggedCache, SequenceKV
from bench.servers.reference.text import Tokenizer
from quantize.bf16 import has_bf16
from quantize.checkpoint import own_code
from quantize.expanded import Expanded

MEMORY_SHARE = 0.8
"""Share of the memory free after loading that keys and values may take; the rest is for activations. Chosen."""
PASS_TOKENS = 256
"""Fewest new tokens per pass where a batch is split: each pass reads all weights (measured, docs/decisions/0019)."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")

log = logging.getLogger(__name__)


class LoadError(Exception):
    """The checkpoint cannot be served as asked."""


class Model:
    """A causal language model on one device."""

    def __init__(
        self,
        path: Path,
        device: Literal["auto", "cpu", "cuda"],
        dtype: Literal["auto", "bfloat16", "float32"],
        kv_cache_dtype: Literal["auto", "fp8_e4m3"] = "auto",
    ) -> None:
        """Load the checkpoint in folder ``path``.

        Raises:
            LoadError: the machine lacks the device.
            CheckpointError: a quantized checkpoint is damaged or of an unsupported kind.
            OSError, ValueError: transformers cannot load the checkpoint.
        """
        if device == "cuda" and not torch.cuda.is_available():
            raise LoadError("--device cuda: this machine has no CUDA device; use --device cpu")
        available = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(available if device == "auto" else device)
        attention.register()
        transformers_logging.disable_progress_bar()
        self.config: Any = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=own_code(path))
        self.quantization: dict[str, Any] | None = _quantization(path)
        if dtype == "auto" and self.device.type == "cpu" and not has_bf16() and _fits_in_float32(path):
            log.warning("this CPU has no BF16 instructions: computing in float32, which is faster and no less exact")
            dtype = "float32"
        if self.quantization:
            # transformers loads experts of several quantized formats incorrectly, some without an error, and does not
            # round their inputs; quantize.expanded handles both for every format (docs/decisions/0007).
            self._model: Any = Expanded(
                path,
                dtype=torch.float32 if dtype == "float32" else torch.bfloat16,
                attention=attention.NAME,
                device=self.device,
            ).whole()
        else:
            self._model = AutoModelForCausalLM.from_pretrained(
                path,
                dtype=dtype if dtype == "auto" else getattr(torch, dtype),
                attn_implementation=attention.NAME,
                local_files_only=True,
                trust_remote_code=own_code(path),
                use_safetensors=True,
            )
        self._model.to(self.device).eval()
        self.tokenizer = _tokenizer(path)
        self.dtype = str(self._model.dtype).removeprefix("torch.")
        self.vocab_size: int = self._model.get_input_embeddings().num_embeddings
        self.max_positions: int = self.config.max_position_embeddings
        self.eos_ids = _eos_ids(path, self.config, self.tokenizer)
        # Concurrent passes must not change the model: custom code might, and these kinds of positions do.
        rope = (getattr(self.config, "rope_parameters", None) or {}).get("rope_type")
        self._passes = self.device.type == "cpu" and not own_code(path) and rope not in ("dynamic", "longrope")
        self._pool = ThreadPoolExecutor(torch.get_num_threads())
        """Computes passes. Its threads persist, so that libraries keep their state for each thread."""
        self.kv_dtype = torch.float8_e4m3fn if kv_cache_dtype == "fp8_e4m3" else self._model.dtype

    def stretch(self, factor: float, original: int) -> None:
        """Stretch the positions by YaRN, as transformers does when ``config.json`` says so.

        Args:
            factor: new length as a multiple of the original.
            original: positions that the model was trained with.
        """
        config = self._model.config
        config.rope_parameters = {
            "rope_type": "yarn",
            "rope_theta": config.rope_parameters["rope_theta"],
            "factor": factor,
            "original_max_position_embeddings": original,
        }
        self.max_positions = config.max_position_embeddings = round(factor * original)
        decoder = self._model.get_decoder()
        decoder.rotary_emb = type(decoder.rotary_emb)(config).to(self.device)

    def forward(
        self, tokens: Sequence[Sequence[int]], sequences: Sequence[SequenceKV], keep: Sequence[int]
    ) -> tuple[torch.Tensor, ...]:
        """Extend sequences by their next tokens, without padding; on a CPU, many tokens are split into a pass per core.

        Args:
            tokens: the new tokens of each sequence, one or more.
            sequences: the keys and values so far; extended by the new tokens, unchanged if this raises.
            keep: how many of the last new positions of each sequence need logits, one or more.

        Returns:
            For each sequence, logits (keep, vocabulary) in float32.
        """
        threads = torch.get_num_threads()
        shares = even([len(piece) for piece in tokens], threads if self._passes else 1)
        if len(shares) == 1:
            logits = self._forward(tokens, sequences, keep)
        else:
            # Threads that share a matrix product wait for each other after each; those with their own sequences do not.
            each = threads // len(shares)
            with _threads(each):
                passes = [
                    self._pool.submit(
                        self._alone,
                        each,
                        [tokens[place] for place in share],
                        [sequences[place] for place in share],
                        [keep[place] for place in share],
                    )
                    for share in shares
                ]
                wait(passes)
            rows = dict(
                zip(itertools.chain(*shares), itertools.chain(*(future.result() for future in passes)), strict=True)
            )
            logits = tuple(rows[place] for place in range(len(tokens)))
        for sequence, piece in zip(sequences, tokens, strict=True):
            sequence.advance(len(piece))
        return logits

    def _alone(
        self, threads: int, tokens: Sequence[Sequence[int]], sequences: Sequence[SequenceKV], keep: Sequence[int]
    ) -> tuple[torch.Tensor, ...]:
        """Do what `_forward` does, with its own number of threads."""
        torch.set_num_threads(threads)
        return self._forward(tokens, sequences, keep)

    def _forward(
        self, tokens: Sequence[Sequence[int]], sequences: Sequence[SequenceKV], keep: Sequence[int]
    ) -> tuple[torch.Tensor, ...]:
        """Do what `forward` does in one pass, without advancing the sequences."""
        new = [len(piece) for piece in tokens]
        positions = [torch.arange(kv.length, kv.length + n) for kv, n in zip(sequences, new, strict=True)]
        ends = itertools.accumulate(new)
        logit_rows = [torch.arange(end - n, end) for end, n in zip(ends, keep, strict=True)]
        with torch.inference_mode():
            logits: torch.Tensor = (
                self._model(
                    input_ids=torch.tensor([[token for piece in tokens for token in piece]], device=self.device),
                    position_ids=torch.cat(positions)[None].to(self.device),
                    past_key_values=RaggedCache(sequences, new, self.kv_dtype),
                    use_cache=True,
                    logits_to_keep=torch.cat(logit_rows).to(self.device),
                )
                .logits[0]
                .float()
            )
        rows: tuple[torch.Tensor, ...] = logits.split(list(keep))
        return rows

    def kv_bytes_per_token(self) -> int:
        """Return the bytes of keys and values of one position in all layers."""
        probe = SequenceKV(reserve=1)
        self.forward([[0]], [probe], keep=[1])
        return probe.allocated_bytes()

    def kv_capacity(self) -> int:
        """Return how many positions of keys and values fit in the memory that is free now."""
        per_token = self.kv_bytes_per_token()
        if self.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
        else:
            free = psutil.virtual_memory().available
        return int(free * MEMORY_SHARE) // per_token


def even(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Distribute sequences over passes with about equal numbers of new tokens: longest first, to the emptiest pass.

    Returns:
        The indexes into ``lengths`` of each pass; at most ``most`` passes, with `PASS_TOKENS` or more on average.
    """
    parts = max(1, min(most, len(lengths), sum(lengths) // PASS_TOKENS))
    shares: list[list[int]] = [[] for _ in range(parts)]
    loads = [0] * parts
    for place in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        emptiest = loads.index(min(loads))
        loads[emptiest] += lengths[place]
        shares[emptiest].append(place)
    return shares


@contextmanager
def _threads(n: int) -> Iterator[None]:
    """Set torch's thread count to ``n`` within a ``with`` block: OpenMP counts by thread, MKL by process."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fits_in_float32(path: Path) -> bool:
    """Return whether the weights would fit in the available memory at 4 bytes each."""
    stored = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    # 4-bit weights become eight times as large.
    return 8 * stored < psutil.virtual_memory().available


def _tokenizer(path: Path) -> Tokenizer | None:
    """Return the checkpoint's tokenizer, or None if its folder holds none."""
    if not any((path / name).exists() for name in TOKENIZER_FILES):
        log.warning("%s holds no tokenizer: requests must send input_ids, answers carry no text", path)
        return None
    tokenizer: Tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=own_code(path))
    return tokenizer


def _eos_ids(path: Path, config: Any, tokenizer: Tokenizer | None) -> frozenset[int]:
    """Return every token id that ends an answer: those of the generation config, the config and the tokenizer."""
    candidates = [config.eos_token_id, tokenizer and tokenizer.eos_token_id]
    if (path / "generation_config.json").exists():
        candidates.append(GenerationConfig.from_pretrained(path, local_files_only=True).eos_token_id)
    flat = [token for ids in candidates for token in (ids if isinstance(ids, list) else [ids])]
    return frozenset(token for token in flat if token is not None)


def _quantization(path: Path) -> dict[str, Any] | None:
    """Return the quantization config in the checkpoint's own file, or None."""
    config: dict[str, Any] | None = json.loads((path / "config.json").read_bytes()).get("quantization_config")
    return config
