"""Stores with one fault each, and for each the check of `kv.testing` that has to find it."""

from broken import atomicity, deadlines, entries, listing, methods, upkeep
from broken.base import BROKEN

__all__ = ["BROKEN", "atomicity", "deadlines", "entries", "listing", "methods", "upkeep"]
