"""What is told to OpenTelemetry, and what is not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from colours import around, both, run
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from programs import python

import kv
from kv.testing.suite import listed
from kv.wrappers import AsyncTelemetry, Telemetry

if TYPE_CHECKING:
    from collections.abc import Callable

    Opens = Callable[..., Any]


class Told:
    """What OpenTelemetry has been told."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._reader = InMemoryMetricReader()
        self.meters = MeterProvider([self._reader])

    def store(self, store: Any, **options: Any) -> Any:
        providers = {"tracer_provider": self.tracers, "meter_provider": self.meters}
        return around(store, Telemetry, AsyncTelemetry, **providers, **options)

    @property
    def spans(self) -> list[Any]:
        return [*self._exporter.get_finished_spans()]

    def points(self, name: str) -> list[Any]:
        data = self._reader.get_metrics_data()
        assert data is not None
        metrics = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics]
        return [point for metric in metrics if metric.name == name for point in metric.data.data_points]

    def everything(self) -> str:
        return repr([span.to_json() for span in self.spans]) + repr(self._reader.get_metrics_data())


@pytest.fixture
def told() -> Told:
    return Told()


@both
def test_each_call_is_a_span_and_a_duration(opens: Opens, anywhere: str, told: Told) -> None:
    async def body(store: Any) -> None:
        recorded = told.store(store)
        await recorded.set("k", b"1")
        await recorded.get("k")
        await recorded.get("missing")
        await recorded.get_many(["k", "missing"])
        assert await listed(recorded.scan()) == [("k", b"1")]
        assert [span.name for span in told.spans] == ["set", "get", "get", "get_many", "scan"]
        system = {"postgres": "postgresql", "redis+cluster": "redis"}
        kind = anywhere.partition(":")[0]
        for span in told.spans:
            assert span.kind is SpanKind.CLIENT
            assert span.attributes["db.system.name"] == system.get(kind, kind)
            assert span.attributes["db.operation.name"] == span.name
        assert told.spans[3].attributes["db.operation.batch.size"] == 2
        durations = {p.attributes["db.operation.name"]: p.count for p in told.points("db.client.operation.duration")}
        assert durations == {"set": 1, "get": 2, "get_many": 1, "scan": 1}
        assert {p.attributes["kv.hit"]: p.value for p in told.points("kv.client.gets")} == {True: 1, False: 1}

    run(opens(anywhere), body)


@both
def test_neither_keys_nor_values_nor_namespaces_are_told_unless_asked_for(opens: Opens, told: Told) -> None:
    async def body(store: Any) -> None:
        recorded = told.store(store).namespace("the tenant")
        await recorded.set("the key", b"the value")
        await recorded.get_many(["the key"])
        with pytest.raises(kv.NotAnInteger, match="the key"):
            await recorded.increment("the key")
        said = told.everything()
        assert not [word for word in ("the key", "the value", "the tenant") if word in said]
        loud = Told()
        view = loud.store(store, record_keys=True).namespace("the tenant")
        await view.set("the key", b"the value")
        await view.get_many(["the key", "another"])
        first, second = loud.spans
        assert first.attributes["kv.key"] == "the key"
        assert first.attributes["db.namespace"] == "the tenant"
        assert second.attributes["kv.keys"] == ("the key", "another")
        assert "the value" not in loud.everything()

    run(opens("memory://"), body)


@both
def test_an_error_is_told_by_its_class_and_comes_out_as_it_is(opens: Opens, told: Told) -> None:
    async def body(store: Any) -> None:
        recorded = told.store(store)
        error = ZeroDivisionError("of the user")

        def fn(_: object) -> None:
            raise error

        with pytest.raises(ZeroDivisionError) as caught:
            await recorded.update("k", fn)
        assert caught.value is error
        (span,) = told.spans
        assert span.status.status_code is StatusCode.ERROR
        assert span.attributes["error.type"] == "ZeroDivisionError"
        assert not span.events
        (point,) = told.points("db.client.operation.duration")
        assert point.attributes["error.type"] == "ZeroDivisionError"

    run(opens("memory://"), body)


@both
def test_a_scan_that_is_left_early_is_no_error(opens: Opens, told: Told) -> None:
    async def body(store: Any) -> None:
        await store.set_many({"ab": b"1", "ac": b"2"})
        steps = told.store(store, record_keys=True).scan("a")
        assert await anext(steps) == ("ab", b"1")
        assert not told.spans
        await steps.aclose()
        (span,) = told.spans
        assert "error.type" not in span.attributes
        assert span.attributes["kv.prefix"] == "a"
        assert "kv.key" not in span.attributes
        (point,) = told.points("db.client.operation.duration")
        assert "error.type" not in point.attributes

    run(opens("memory://"), body)


def test_calls_side_by_side_are_children_of_their_own_parents(told: Told) -> None:
    tracer = told.tracers.get_tracer("test")

    async def main() -> None:
        async with kv.AsyncMemoryStore() as store:
            recorded = told.store(store)

            async def work(n: int) -> None:
                with tracer.start_as_current_span(f"parent {n}"):
                    async for _ in recorded.scan(limit=1):
                        await recorded.increment(f"n{n}")
                    await recorded.increment(f"n{n}")

            await recorded.set("k", b"1")
            await asyncio.gather(*(work(n) for n in range(5)))

    asyncio.run(main())
    parents = {span.context.span_id: span.name for span in told.spans}
    children = [parents[span.parent.span_id] for span in told.spans if span.parent]
    assert len(children) == 3 * 5
    assert set(children) == {f"parent {n}" for n in range(5)}


def test_what_is_done_between_the_steps_of_a_scan_is_no_child_of_it(told: Told) -> None:
    with kv.MemoryStore() as store, told.tracers.get_tracer("test").start_as_current_span("parent"):
        recorded = Telemetry(store, tracer_provider=told.tracers)
        store.set("k", b"1")
        for key, _ in recorded.scan():
            recorded.increment(key)
    parents = {span.context.span_id: span.name for span in told.spans}
    assert {span.name: parents[span.parent.span_id] for span in told.spans if span.parent} == {
        "increment": "parent",
        "scan": "parent",
    }


def test_without_opentelemetry_nothing_is_told_and_all_works() -> None:
    said = python(
        """
        import sys
        sys.modules["opentelemetry"] = None
        import kv
        with kv.open("memory://", telemetry=True) as store:
            store.set("k", b"1")
            print(type(store).__name__, store.get("k"), [*store.scan()], store.increment("n"))
        """
    )
    assert said == "Telemetry b'1' [('k', b'1')] 1\n"
