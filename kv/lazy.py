"""Names of a package that are loaded when they are first asked for, so that importing it loads little."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def lazily(package: dict[str, Any], modules: Mapping[str, str]) -> Callable[[str], object]:
    """Give the `__getattr__` of a package, by its `globals()`, and in which of its modules each name is."""

    def load(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module {package['__name__']!r} has no attribute {name!r}")
        found = package[name] = getattr(import_module(f"{package['__name__']}.{modules[name]}"), name)
        return found

    return load
