"""Connections that end under many callers at once: each is told what has become of his own call."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any

from colours import both
from faultproxy import PLACES, Fault
from networks import SOAK, check_whole, net, outcome, report

import kv
from kv.testing.suite import bounded, lifted, together

if TYPE_CHECKING:
    from collections.abc import Callable

    from networks import Network

    Opens = Callable[..., Any]

__all__ = ["net"]

MOST = 3  # connections


class Crowd:
    """Callers who read, write, count and update at once, and what they were told."""

    def __init__(self, net: Network, store: kv.AsyncStore) -> None:
        self.net = net
        self.store = store
        self.outcomes: Counter[str] = Counter()

    async def call(self) -> list[Any]:
        store = self.store
        return await together(
            store,
            *(outcome(store.increment("n")) for _ in range(5)),
            *(outcome(store.get(f"g{i}")) for i in range(5)),
            *(outcome(store.set(f"s{i}", b"new")) for i in range(5)),
            *(outcome(store.update(f"u{i}", lambda _: b"new")) for i in range(3)),
            *(outcome(store.set_many({f"{{m{i}}}a": b"new", f"{{m{i}}}b": b"new"})) for i in range(2)),
        )

    async def struck(self, fault: Fault | None) -> Counter[bool]:
        """Let them all call, and one connection meet the fault. Gives how many messages there were each way."""
        net = self.net
        await self.call()  # there are connections
        net.put({f"g{i}": b"%d" % i for i in range(5)})
        net.proxy.arm(fault)
        results = await self.call()
        seen = Counter(one.answers for one in net.proxy.seen)
        net.proxy.restore()
        net.end()
        self.check(results, net.held(), fault)
        return seen

    def check(self, results: list[Any], held: dict[str, bytes], fault: Fault | None) -> None:
        counts, reads, sets, updates, pairs = results[:5], results[5:10], results[10:15], results[15:18], results[18:]
        for i, read in enumerate(reads):  # Unavailable: the fault met a new connection
            assert read == b"%d" % i or isinstance(read, kv.Unavailable), (fault, i, read)
        sums = [one for one in counts if isinstance(one, int)]
        unknown = sum(isinstance(one, kv.OutcomeUnknown) for one in counts)
        assert len({*sums}) == len(sums), fault
        assert max(len(sums), *sums, 0) <= int(held.get("n", b"0")) <= len(sums) + unknown, (fault, counts, held)
        for results_, names in ((sets, "s{}"), (updates, "u{}"), (pairs, "{{m{}}}a"), (pairs, "{{m{}}}b")):
            for i, result in enumerate(results_):
                there = names.format(i) in held
                assert there or isinstance(result, kv.Unavailable | kv.OutcomeUnknown), (fault, names, i, result)
                assert not (there and isinstance(result, kv.Unavailable)), (fault, names, i, result)
        assert all((f"{{m{i}}}a" in held) == (f"{{m{i}}}b" in held) for i in range(2)), (fault, held)
        self.outcomes.update(type(one).__name__ if isinstance(one, kv.KVError) else "done" for one in results)
        assert self.outcomes.keys() <= {"done", "Unavailable", "OutcomeUnknown"}, fault


@both
def test_each_of_many_callers_is_told_what_became_of_his_call(opens: Opens, net: Network) -> None:
    chance = random.Random(0)

    async def main() -> None:
        async with lifted(opens(net.url, pool_max=MOST)) as store:
            crowd = Crowd(net, store)
            for way in (True, False):
                count = (await crowd.struck(None))[way]
                for number in range(count) if SOAK else chance.sample(range(count), min(6, count)):
                    for place in PLACES if SOAK else [chance.choice(PLACES)]:
                        await crowd.struck(Fault(way, number, place))
            await check_whole(net, store, MOST)
            report(f"{net.backend} {opens.__name__}, 20 callers: {dict(crowd.outcomes)}")

    bounded(main, 600 if SOAK else 60)
