"""Spans and durations of every call, through OpenTelemetry's API: nothing is recorded where that is not installed or set up.

Names follow OpenTelemetry's conventions for database clients. Values are never recorded, keys and namespaces only if asked for.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from .base import AsyncWrapper, Wrapper

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping

    from kv.store import AsyncStore, Store

__all__ = ["AsyncTelemetry", "Telemetry"]

T = TypeVar("T")
P = ParamSpec("P")

_SYSTEMS: Final = {"postgres": "postgresql"}
_FIRST: Final = {
    **dict.fromkeys(("keys", "scan", "count", "clear", "pages"), "kv.prefix"),
    **dict.fromkeys(("dump", "records", "backup"), None),
}
"""By operation: what its first argument is, where that is no key."""
_BUCKETS: Final = [0.000_05, 0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0]
"""Seconds: where the histogram divides what is measured."""


class _Recorder:
    """What records calls on one store."""

    def __init__(self, store: object, tracer_provider: Any, meter_provider: Any, *, keys: bool) -> None:
        from opentelemetry import metrics, trace

        self._trace = trace
        self._keys = keys
        self._system = _system(store)
        self._tracer = trace.get_tracer("kv", tracer_provider=tracer_provider)
        meter = metrics.get_meter("kv", meter_provider=meter_provider)
        self._duration = meter.create_histogram(
            "db.client.operation.duration",
            unit="s",
            description="Duration of calls on a store",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        self._gets = meter.create_counter(
            "kv.client.gets", unit="{call}", description="Gets, by whether something was found"
        )

    @contextmanager
    def call(
        self, operation: str, path: tuple[str, ...], args: tuple[Any, ...], *, current: bool = True
    ) -> Iterator[Callable[[object], None]]:
        """Record what is done inside; gives what is to be told of a result."""
        about: dict[str, Any] = {"db.system.name": self._system, "db.operation.name": operation}
        trace = self._trace
        span = self._tracer.start_span(
            operation, kind=trace.SpanKind.CLIENT, attributes=self._attributes(about, path, args)
        )
        began = time.perf_counter()
        try:
            if current:
                with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                    yield lambda result: self._gave(operation, args, result)
            else:
                yield lambda _: None
        except GeneratorExit:  # who iterates has seen enough
            raise
        except BaseException as e:
            about["error.type"] = type(e).__qualname__  # a message may hold a key
            if isinstance(e, Exception):
                span.set_status(trace.Status(trace.StatusCode.ERROR))
            span.set_attribute("error.type", about["error.type"])
            raise
        finally:
            span.end()
            self._duration.record(time.perf_counter() - began, about)

    def _attributes(self, about: Mapping[str, Any], path: tuple[str, ...], args: tuple[Any, ...]) -> dict[str, Any]:
        attributes = dict(about)
        first = args[0] if args else None
        if isinstance(first, list | dict):
            attributes["db.operation.batch.size"] = len(first)
        if self._keys:
            if path:
                attributes["db.namespace"] = "/".join(path)
            if isinstance(first, str) and (name := _FIRST.get(about["db.operation.name"], "kv.key")):
                attributes[name] = first
            elif isinstance(first, list | dict):
                attributes["kv.keys"] = [key for key in first if isinstance(key, str)]
        return attributes

    def _gave(self, operation: str, args: tuple[Any, ...], result: object) -> None:
        if operation == "get":
            hit = result is not (args[1] if len(args) > 1 else None)
            self._gets.add(1, {"db.system.name": self._system, "kv.hit": hit})


def _system(store: Any) -> str:
    """Give what the conventions call the backend that lies innermost."""
    while (inner := getattr(store, "store", None) or getattr(store, "_store", None)) is not None:
        store = inner
    head, _, rest = type(store).__module__.partition("kv.backends.")
    if head or not rest:
        return type(store).__name__.lower()
    name = rest.partition(".")[0]
    return _SYSTEMS.get(name, name)


class _Told:
    """What both colours share."""

    _recorder: _Recorder | None
    _path: tuple[str, ...]

    def _record(self, store: object, tracer_provider: Any, meter_provider: Any, *, keys: bool) -> None:
        try:
            self._recorder = _Recorder(store, tracer_provider, meter_provider, keys=keys)
        except ImportError:  # without it there is nobody to tell
            self._recorder = None


class Telemetry(_Told, Wrapper):
    """A `Store` whose calls are told to OpenTelemetry: a span and a duration each, hits and misses of `get`.

    Args:
        store: what it stands around. Closing this closes it.
        record_keys: whether spans name keys and namespaces, which may say more than whoever reads them should know.
        tracer_provider: OpenTelemetry's; None: the one that is set for the process.
        meter_provider: so too.
    """

    def __init__(
        self, store: Store, *, record_keys: bool = False, tracer_provider: Any = None, meter_provider: Any = None
    ) -> None:
        super().__init__(store)
        self._record(store, tracer_provider, meter_provider, keys=record_keys)

    def _read(self, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._recorder is None:
            return method(*args, **kwargs)
        with self._recorder.call(_name(method), self._path, args) as gave:
            result = method(*args, **kwargs)
            gave(result)
            return result

    def _write(self, keys: Iterable[str] | None, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:  # noqa: ARG002
        return self._read(method, *args, **kwargs)

    def _iterate(self, method: Callable[P, Iterator[T]], *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        steps = method(*args, **kwargs)
        return steps if self._recorder is None else self._told(self._recorder, _name(method), steps, args)

    def _told(self, recorder: _Recorder, name: str, steps: Iterator[T], args: tuple[Any, ...]) -> Iterator[T]:
        with recorder.call(name, self._path, args, current=False):  # between steps other things are done
            yield from steps


class AsyncTelemetry(_Told, AsyncWrapper):
    """See `Telemetry`."""

    def __init__(
        self, store: AsyncStore, *, record_keys: bool = False, tracer_provider: Any = None, meter_provider: Any = None
    ) -> None:
        super().__init__(store)
        self._record(store, tracer_provider, meter_provider, keys=record_keys)

    async def _read(self, method: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._recorder is None:
            return await method(*args, **kwargs)
        with self._recorder.call(_name(method), self._path, args) as gave:
            result = await method(*args, **kwargs)
            gave(result)
            return result

    async def _write(
        self,
        keys: Iterable[str] | None,  # noqa: ARG002
        method: Callable[P, Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        return await self._read(method, *args, **kwargs)

    def _iterate(self, method: Callable[P, AsyncIterator[T]], *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        steps = method(*args, **kwargs)
        return steps if self._recorder is None else self._told(self._recorder, _name(method), steps, args)

    async def _told(
        self, recorder: _Recorder, name: str, steps: AsyncIterator[T], args: tuple[Any, ...]
    ) -> AsyncIterator[T]:
        with recorder.call(name, self._path, args, current=False):
            async for step in steps:
                yield step


def _name(method: Callable[..., object]) -> str:
    return method.__name__.lstrip("_")
