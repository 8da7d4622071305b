"""Names and meanings of the statuses of results and of the problems of items."""

from bench.messages.message import Message, msg
from bench.records.record import Problem, Status

STATUS: dict[Status, Message] = {
    "ok": msg("status.ok"),
    "emulated": msg("status.emulated"),
    "invalid": msg("status.invalid"),
    "not_supported": msg("status.not_supported"),
    "failed": msg("status.failed"),
}
STATUS_MEANING: dict[Status, Message] = {
    "ok": msg("status.ok.meaning"),
    "emulated": msg("status.emulated.meaning"),
    "invalid": msg("status.invalid.meaning"),
    "not_supported": msg("status.not_supported.meaning"),
    "failed": msg("status.failed.meaning"),
}
PROBLEM: dict[Problem, Message] = {
    "truncated": msg("problem.truncated"),
    "empty": msg("problem.empty"),
    "unfinished": msg("problem.unfinished"),
    "over_long": msg("problem.over_long"),
}
PROBLEM_SENTENCE: dict[Problem, Message] = {
    "truncated": msg("problem.truncated.meaning"),
    "empty": msg("problem.empty.meaning"),
    "unfinished": msg("problem.unfinished.meaning"),
    "over_long": msg("problem.over_long.meaning"),
}
