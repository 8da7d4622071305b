"""Data and scoring of the tasks in this folder."""

from typing import Any

from datasets import Dataset

TEXTS = ("a short text", "Straße, 東京 and a 🙂 of one line", "the same text", "the same text", "x" * 200)


def words(**metadata: Any) -> dict[str, Dataset]:
    """Return questions with choices of several tokens."""
    question = {"question": "The sky is", "choices": ["blue at noon", "green", "green", " wide"], "answer": 0}
    other = {"question": "Snow is ", "choices": ["white", "été", "東京", "a 🙂"], "answer": 1}
    return {"test": Dataset.from_list([question, other, question])}


def texts(**metadata: Any) -> dict[str, Dataset]:
    """Return whole texts."""
    return {"test": Dataset.from_list([{"text": text} for text in TEXTS])}


def length(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Return the length of an answer."""
    return {"length": len(results[0])}


def lengths(doc: dict[str, Any], results: list[list[str]]) -> dict[str, float]:
    """Return the total length of the answers to one question."""
    return {"length": sum(map(len, results[0]))}
