"""One module per section of the page.

Each has ``ORDER``, an integer that sets its position, and ``section(records) -> Section | None``, which returns None if
the records hold nothing for it. To add a section, add a module.
"""

import importlib
import pkgutil
from collections.abc import Sequence

from bench.records.record import RunRecord
from bench.report.document import Section


def all_sections(records: Sequence[RunRecord]) -> list[Section]:
    """Return the sections that have content for the records, in the order of the page."""
    modules = [importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__)]
    sections = [module.section(records) for module in sorted(modules, key=lambda module: int(module.ORDER))]
    return [section for section in sections if section is not None]
