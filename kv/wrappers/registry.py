"""Wrappers that a URL, or a keyword of `kv.open`, puts around any store. Loads none of them before one is asked for."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kv import options
from kv.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kv.options import Check

__all__ = ["CHECKS", "LAYERS", "Layer", "prepared"]


class Layer(NamedTuple):
    """A wrapper, and the options that ask for it."""

    module: str
    name: str
    """Of its sync class; the other has `Async` in front."""
    options: Mapping[str, tuple[str | None, Check]]
    """By the option's name: the parameter of the class, and what checks its value. None: there is none to give."""
    switch: str | None = None
    """Without this option, or where it is off, there is no such layer, and the others ask in vain; None: any asks."""

    def wrapper(self, colour: str) -> Any:
        """Load a class of it."""
        prefix = "" if colour == "sync" else "Async"
        return getattr(import_module(f"kv.wrappers.{self.module}"), prefix + self.name)


def _ring(value: object) -> object:
    from .encryption import KeyRing

    return KeyRing(value)  # type: ignore[arg-type]  # it says what is wrong


def _level(value: object) -> object:
    """True, or a level of zstd; False and 0 are off."""
    from .compression import check_level

    return check_level(value)


LAYERS: Final = (
    Layer("encryption", "Encrypted", {"encryption_keys": ("keys", _ring)}),
    Layer("compression", "Compressed", {"compress": ("level", _level)}, "compress"),
    Layer(
        "nearcache",
        "NearCache",
        {"near_cache": ("max_entries", options.count_or_off), "near_ttl": ("ttl", options.seconds)},
        "near_cache",
    ),
    Layer(
        "limits",
        "TTLLimits",
        {
            "default_ttl": ("default", options.seconds_or_off),
            "min_ttl": ("min", options.seconds_or_off),
            "max_ttl": ("max", options.seconds_or_off),
        },
    ),
    Layer("readonly", "ReadOnly", {"read_only": (None, options.flag)}, "read_only"),
    Layer("telemetry", "Telemetry", {"telemetry": (None, options.flag)}, "telemetry"),
)
"""From the store outwards: values are compressed before they are encrypted, which would leave nothing to compress."""

CHECKS: Final[dict[str, Check]] = {name: check for layer in LAYERS for name, (_, check) in layer.options.items()}
"""Every option of a wrapper, and what checks its value."""


def prepared(given: Mapping[str, object], colour: str) -> list[Callable[[Any], Any]]:
    """Give what puts the wrappers around a store that these options, which are checked, ask for. Opens nothing.

    Raises:
        ConfigError: an option needs another one; or what a wrapper needs is not installed.
    """
    wraps: list[Callable[[Any], Any]] = []
    for layer in LAYERS:
        asked = {name: given[name] for name in layer.options if given.get(name) not in (None, False)}
        if layer.switch and asked and layer.switch not in asked:
            raise ConfigError(f"option {next(iter(asked))} is for {layer.switch}, which is not given, or off")
        if asked:
            cls = layer.wrapper(colour)
            options = {name: value for option, value in asked.items() if (name := layer.options[option][0]) is not None}
            if check := getattr(cls, "check_options", None):  # what they must be together
                check(**options)
            wraps.append(partial(cls, **options))
    return wraps
