"""The contract, over every wrapper in both colours, and over all of them at once on every backend."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pytest

import kv
from kv import wrappers
from kv.testing import Conformance

if TYPE_CHECKING:
    from collections.abc import Callable

KEYS = [bytes(range(32)), b"\x00" * 32]


class WrittenInside(wrappers.ReadOnly):
    """Reads as a read-only store does, and writes to the store inside."""

    def _write(self, keys: Any, method: Any, *args: Any, **kwargs: Any) -> Any:
        return method(*args, **kwargs)


class AsyncWrittenInside(wrappers.AsyncReadOnly):
    """See `WrittenInside`."""

    async def _write(self, keys: Any, method: Any, *args: Any, **kwargs: Any) -> Any:
        return await method(*args, **kwargs)


WRAPPERS: dict[str, Callable[[], Any]] = {
    "encrypted": lambda: wrappers.Encrypted(kv.MemoryStore(), KEYS),
    "async encrypted": lambda: wrappers.AsyncEncrypted(kv.AsyncMemoryStore(), KEYS),
    "compressed": lambda: wrappers.Compressed(kv.MemoryStore()),
    "async compressed": lambda: wrappers.AsyncCompressed(kv.AsyncMemoryStore()),
    "near cache": lambda: wrappers.NearCache(kv.MemoryStore(), ttl=3_600),
    "async near cache": lambda: wrappers.AsyncNearCache(kv.AsyncMemoryStore(), ttl=3_600),
    "read-only": lambda: WrittenInside(kv.MemoryStore()),
    "async read-only": lambda: AsyncWrittenInside(kv.AsyncMemoryStore()),
    "ttl limits": lambda: wrappers.TTLLimits(kv.MemoryStore(), min=0.001),
    "async ttl limits": lambda: wrappers.AsyncTTLLimits(kv.AsyncMemoryStore(), min=0.001),
    "telemetry": lambda: wrappers.Telemetry(kv.MemoryStore(), record_keys=True),
    "async telemetry": lambda: wrappers.AsyncTelemetry(kv.AsyncMemoryStore(), record_keys=True),
}
STACK = {
    "encryption_keys": wrappers.new_key(),
    "compress": True,
    "near_cache": 1_000,
    "near_ttl": 3_600,
    "min_ttl": 0.001,
    "telemetry": True,
}
"""All that changes nothing of the contract."""


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Any:
    return request.param()


@pytest.mark.parametrize("store", WRAPPERS.values(), ids=[*WRAPPERS], indirect=True)
class TestWrapper(Conformance):
    pass


BY_PATH = {name: make for name, make in WRAPPERS.items() if "encrypted" in name or "cache" in name}
"""Those to which it matters in which namespace an entry is."""


@pytest.mark.parametrize("store", BY_PATH.values(), ids=[*BY_PATH], indirect=True)
class TestNestedNamespace(Conformance):
    view = ("a", "b:c")


class TestStack(Conformance):
    @pytest.fixture
    def store(self, request: pytest.FixtureRequest, shared: str) -> Any:
        options: dict[str, Any] = dict(STACK)
        if "from_inside_fn" in request.node.name and "redis" in shared:
            # no two forms of one value are alike, so that an update that writes its own key conflicts until this
            options["lock_timeout"] = 0.3
        asynchronous = shared.startswith(("postgresql", "redis+cluster"))  # both colours, and every backend once
        return (kv.open_async if asynchronous else kv.open)(shared, **options)


def public(cls: type) -> dict[str, object]:
    """Methods, with the names, kinds and defaults of their parameters."""
    return {
        name: [(p.name, p.kind, p.default) for p in inspect.signature(getattr(cls, name)).parameters.values()]
        for name in dir(cls)
        if not name.startswith("_") and name not in ("close", "aclose") and callable(getattr(cls, name))
    }


@pytest.mark.parametrize("name", [name for name in wrappers.__all__ if f"Async{name}" in wrappers.__all__])
def test_both_colours_of_a_wrapper_are_alike(name: str) -> None:
    sync, colour = getattr(wrappers, name), getattr(wrappers, f"Async{name}")
    assert public(sync) == public(colour)
    assert [*inspect.signature(sync).parameters] == [*inspect.signature(colour).parameters]
    assert inspect.getdoc(colour) == f"See `{name}`."


def test_every_wrapper_is_exported_by_name() -> None:
    for name in wrappers.__all__:
        assert getattr(wrappers, name) is not None
        assert name in dir(wrappers)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        wrappers.nothing  # type: ignore[attr-defined]  # noqa: B018
