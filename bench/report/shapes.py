"""Shapes and loads in words, the same in every table and caption."""

from bench import format as fmt
from bench.messages.message import Message, msg
from bench.speed.shapes import Shape


def load_words(shape: Shape) -> Message:
    """Return a load, e.g. ``concurrency 4`` or ``2.5 requests/s``."""
    if shape.request_rate_per_s is not None:
        return msg("load.rate", rate=f"{shape.request_rate_per_s:g}")
    return msg("load.at_once", requests=str(shape.concurrency))


def shape_words(shape: Shape) -> Message:
    """Return a shape, e.g. ``256 tokens in, 32 out, concurrency 4``."""
    return msg("shape.whole", n=shape.input_len, output=fmt.count(shape.output_len), load=load_words(shape))


def short_words(shape: Shape) -> Message:
    """Return a shape in fewer words, e.g. ``256 in, 32 out, concurrency 4``."""
    length, output = fmt.count(shape.input_len), fmt.count(shape.output_len)
    return msg("shape.short", input=length, output=output, load=load_words(shape))
