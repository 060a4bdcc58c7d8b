"""Histories: what threads, tasks and processes called at once on one store, and what came of it.

`KV_SOAK=60` makes every test that is given the fixture `soak` go on for so many seconds, with more callers; `KV_SEED=...`
lets it make the calls of that seed again, though what comes in between what is up to the machine.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import gc
import os
import random
import time
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import linearizable
from linearizable import DONE, NOT_AN_INTEGER, UNKNOWN, Call, changed

import kv
from kv.testing import worker
from kv.testing.hostile import CALLS, KEYS
from kv.testing.processes import Process
from kv.testing.suite import LONG, expired, together

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SOAK: Final = float(os.environ.get("KV_SOAK", "0"))
"""Seconds for each test; 0: as short as it can be."""
SEED: Final = os.environ.get("KV_SEED")
MANY: Final = 2 if SOAK else 1
"""So many times more callers and calls."""
STATES: Final = 200_000
"""So many are looked at in one history of all keys together."""
PATIENCE: Final = 60.0 + SOAK

EACH: Final = {
    "get": 8,
    "set": 3,
    "add": 4,
    "increment": 4,
    "compare_and_set": 5,
    "update": 5,
    "pop": 2,
    "delete": 2,
} | {"exists": 1, "size": 1, "expire": 1, "get_many": 2, "delete_many": 1, "cleanup": 1}
"""How often which call is made; what stands here is promised for each key alone, wherever a server keeps it."""
TOGETHER: Final = {
    "get": 3,
    "set": 2,
    "add": 2,
    "increment": 2,
    "compare_and_set": 2,
    "update": 2,
    "pop": 1,
    "delete": 1,
} | {"get_many": 8, "set_many": 4, "update_many": 6, "cleanup": 1}
"""The same, promised for all keys at one instant."""


async def do(store: kv.AsyncStore, method: str, keys: tuple[str, ...], args: tuple[Any, ...], far: bool) -> Any:
    """Make a call, and give its results as `stepped` does; `far`: with a deadline that does not come."""
    [key, *_], [arg, *_] = keys, args
    lasting: dict[str, Any] = {"ttl": LONG} if far else {}
    seen: list[Any] = [None]

    def fn(value: bytes | None) -> bytes | None:
        seen[0] = value
        time.sleep(0)  # for another thread to come in between
        return changed(value, arg)

    def fn_of_many(found: dict[str, bytes]) -> dict[str, bytes]:
        seen[0] = found
        time.sleep(0)
        new = {key: changed(found.get(key), arg) for key, arg in zip(keys, args, strict=True)}
        return {key: value for key, value in new.items() if value is not None}

    match method:
        case "get" | "exists" | "size" | "delete" | "pop":
            return (await getattr(store, method)(key),)
        case "set" | "add" | "increment":
            return (await getattr(store, method)(key, arg, **lasting),)
        case "compare_and_set":
            return (await store.compare_and_set(key, *arg, **lasting),)
        case "update":
            new = await store.update(key, fn, **lasting)
            return ((seen[0], new),)
        case "expire":
            return (await store.expire(key, LONG),)
        case "get_many":
            found = await store.get_many(keys)
            return tuple(found.get(key) for key in keys)
        case "set_many":
            await store.set_many(dict(zip(keys, args, strict=True)), **lasting)
            return (None,) * len(keys)
        case "delete_many":
            await store.delete_many(keys)
            return (DONE,) * len(keys)
        case "update_many":
            left = await store.update_many(keys, fn_of_many, **lasting)
            return tuple((seen[0].get(key), left.get(key)) for key in keys)
        case "cleanup":  # it may not show
            return await store.cleanup()
    raise ValueError(method)


class Faults(NamedTuple):
    """What may go wrong with a client's calls."""

    cancelled: float = 0
    """The part of them that is cancelled on the way, if they are tasks."""
    refused: bool = False
    """Whether some may be refused, and have no effect and no history, or be lost, which is unknown."""
    told: bool = False
    """Whether each is said aloud before it begins and when it has ended, as its process may be killed."""


async def client(
    store: kv.AsyncStore,
    who: str,
    seed: int,
    keys: Sequence[str],
    calls: int,
    mix: dict[str, int],
    faults: Faults = Faults(),  # noqa: B008 - it cannot be changed
) -> list[Call]:
    """Make calls one after another, and give what came of each."""
    chance = random.Random(f"{seed} {who}")
    history: list[Call] = []
    last: dict[str, Any] = dict.fromkeys(keys)  # the values it has met, so that it compares with what may still be

    def argument(method: str, key: str) -> Any:
        token = chance.getrandbits(32)
        value = chance.choice([b"%d", b"%d", b"x%d"]) % token
        return {
            "set": value,
            "add": value,
            "increment": token - 2**31,
            "compare_and_set": (last[key], chance.choice([value, value, None])),
            "update": token,
        }.get(method)

    for name in chance.choices([*mix], weights=[*mix.values()], k=calls):
        some = tuple(chance.sample(keys, chance.randint(1, len(keys)) if name.endswith("_many") else 1))
        method = name.removesuffix("_many")
        args = tuple(argument(method, key) for key in some)
        call = do(store, name, some, args, far=chance.random() < 0.2)
        patience = chance.expovariate(500) if chance.random() < faults.cancelled else None
        start = time.monotonic_ns()
        if faults.told and name != "cleanup":
            worker.say(call=repr((who, method, some, args, UNKNOWN, start, start)))
        try:
            results = await (call if patience is None else asyncio.wait_for(call, patience))
        except kv.NotAnInteger:
            results = (NOT_AN_INTEGER,)
        except TimeoutError:
            if patience is None:
                raise
            results = UNKNOWN
        except (kv.OutcomeUnknown, kv.Unavailable, kv.Conflict) as e:
            if not faults.refused:
                raise
            if not isinstance(e, kv.OutcomeUnknown):
                continue
            results = UNKNOWN
        if name == "cleanup":
            continue
        history.append(Call(who, method, some, args, results, start, time.monotonic_ns()))
        if faults.told:
            worker.say(call=repr(tuple(history[-1])))
        if method in ("get", "update") and results != UNKNOWN:
            for key, result in zip(some, results, strict=True):
                last[key] = result if method == "get" else result[1]
    return history


async def records(
    store: kv.AsyncStore, who: str, clients: int, seed: int, faults: Sequence[Any] = (), **kwargs: Any
) -> list[Call]:
    """Let several clients make their calls at once, in a namespace of this seed."""
    view = store.namespace(f"{seed}")
    each = (client(view, f"{who}{n}", seed, faults=Faults(*faults), **kwargs) for n in range(clients))
    return [call for history in await together(store, *each) for call in history]


async def recorded(store: kv.AsyncStore, **kwargs: Any) -> str:
    """The same, for a process that asks another."""
    return repr([tuple(call) for call in await records(store, **kwargs)])


async def moves(store: kv.AsyncStore, who: str, seed: int, keys: list[str], total: int, times: int) -> int:
    """Move money between accounts, in one step each, and look whether it is all there. An empty account is missing."""
    chance = random.Random(f"{seed} {who}")
    view = store.namespace(f"{seed}")
    for _ in range(times):
        some = chance.sample(keys, chance.randint(2, len(keys)))
        step = chance.choice(["audit", "audit", "deal", *["move"] * 4])
        if step == "deal":
            await view.set_many(dealt(chance, keys, total))
        elif step == "move":
            await view.update_many(some, partial(_moved, seed=chance.random(), keys=some))
        found = await view.get_many(chance.sample(keys, len(keys)))
        assert funds(found) == total, f"{who} sees {funds(found)} in all, not {total}: {found}"
    return 2 * times


def _moved(found: dict[str, bytes], seed: float, keys: Sequence[str]) -> dict[str, bytes]:
    amounts = dealt(random.Random(seed), keys, funds(found))
    return {key: amount for key, amount in amounts.items() if amount != b"0"}


def funds(found: dict[str, bytes]) -> int:
    return sum(map(int, found.values()))


def dealt(chance: random.Random, keys: Sequence[str], total: int) -> dict[str, bytes]:
    """Amounts for all the accounts, which come to this."""
    cuts = sorted(chance.choices([0, total, *range(total)], k=len(keys) - 1))
    return {key: b"%d" % (b - a) for key, a, b in zip(keys, [0, *cuts], [*cuts, total], strict=True)}


async def moved(store: kv.AsyncStore, who: str, clients: int, **kwargs: Any) -> int:
    """The same, by several clients at once."""
    return sum(await together(store, *(moves(store, f"{who}{n}", **kwargs) for n in range(clients))))


async def pairs(store: kv.AsyncStore, chosen: list[list[str]], side: int, times: int, compacts: bool) -> Any:
    """Make one call of each pair, while others make the other, by two callers. Give what this process takes then.

    One at most `compacts`: PostgreSQL gives back space after 5 s of waiting, where another waits to do the same.
    """

    async def caller(compacts: bool) -> None:
        for pair in chosen:
            name = pair[side] if compacts or pair[side] != "compact" else "verify"
            for _ in range(times):
                with contextlib.suppress(kv.NotAnInteger):  # an increment of what another has set
                    await CALLS[name](store)

    await together(store, caller(compacts), caller(compacts=False))
    return figures()


async def wears(store: kv.AsyncStore, seed: int, times: int) -> int:
    """Write what expires at once, or soon is written again, beside readers and cleanups. Gives how many rows were written."""
    chance = random.Random(seed)
    for n in range(times):
        lasting = [f"{chance.randrange(200)}" for _ in range(50)]
        await store.set_many(dict.fromkeys(lasting, b"%d" % n))
        await store.set_many({f"{seed} {n} {i}": b"gone" for i in range(50)}, ttl=0.001)
        assert len(await store.get_many(lasting)) == len({*lasting})
        if n % 10 == 0:
            await store.cleanup()
    return 100 * times


async def measured(store: kv.AsyncStore) -> dict[str, int]:
    """What this process takes."""
    return figures()


def figures() -> dict[str, int]:
    """What this process takes: kilobytes, open files and connections, threads. Zeros where no /proc says it."""
    gc.collect()
    if not os.path.exists("/proc/self/statm"):
        return {"kilobytes": 0, "files": 0, "threads": 0}
    with open("/proc/self/statm", "rb") as file:
        pages = int(file.read().split()[1])
    return {
        "kilobytes": pages * os.sysconf("SC_PAGE_SIZE") // 1024,
        "files": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
    }


def in_processes(url: str, crew: Sequence[Process], **kwargs: Any) -> list[Call]:
    """The same, in each of the processes at once."""
    said = each(url, crew, "recorded", [{"who": f"{p.colour} {n}.", **kwargs} for n, p in enumerate(crew)])
    return [Call(*call) for text in said for call in ast.literal_eval(text)]


def each(url: str, crew: Sequence[Process], job: str, kwargs: Sequence[dict[str, Any]]) -> list[Any]:
    """Do a job in each of the processes at once."""
    for process, own in zip(crew, kwargs, strict=True):
        process.prepare(url, job, opening=False, **own)
    for process in crew:
        process.hear(PATIENCE)
    for process in crew:
        process.begin()
    said: list[Any] = []
    errors: list[AssertionError] = []
    for process in crew:
        try:
            said.append(process.hear(PATIENCE))
        except AssertionError as e:
            errors.append(e)
    if errors:  # when all have been heard, so that none speaks of this in the next test
        raise errors[0]
    return said


def keys_of(seed: int, tag: str = "") -> list[str]:
    """Keys for a history: few, so that all want the same, and such as stores have stumbled over."""
    chance = random.Random(seed)
    return [tag + key for key in chance.sample([key for key in KEYS if len(key) < 50], chance.randint(2, 3))]


def plan(seed: int, together: bool) -> dict[str, Any]:
    """What to call: what is promised for all keys together needs keys that a cluster keeps together."""
    return {"seed": seed, "keys": keys_of(seed, "{t}" if together else ""), "mix": TOGETHER if together else EACH}


async def begin(store: kv.AsyncStore, seed: int, keys: Sequence[str]) -> None:
    """Sometimes leave entries that have expired where the calls will come: they are missing, but lie there."""
    chance = random.Random(seed)
    if some := [key for key in keys if chance.random() < 0.3]:
        await expired(store.namespace(f"{seed}"), *some)


class Soak:
    """What a test of histories does again and again, and the figures of it.

    Attributes:
        seed: of the round that is under way.
    """

    seed: int | None = None

    def __init__(self, name: str) -> None:
        self._name = name
        self._seeds = self._histories = self._calls = self._unknown = self._states = self._undecided = 0
        self._start = self._end = time.monotonic()

    def seeds(self, least: int = 1) -> Iterator[int]:
        """Seeds for so many rounds, or for as many as there is time for."""
        end = time.monotonic() + SOAK
        for n in count():
            if n >= (1 if SEED else least) and (SEED or time.monotonic() >= end):
                return
            self.seed = int(SEED or random.SystemRandom().getrandbits(32))
            self._seeds += 1
            yield self.seed
            self._end = time.monotonic()

    def judge(self, calls: Sequence[Call], *, together: bool = False) -> None:
        """Fail where no order explains the calls: of each key alone, or of all keys together."""
        checked = linearizable.check_each_key(calls)
        if together and checked.violation is None:
            checked = linearizable.check(calls, most=STATES)
        self._histories += 1
        self._calls += len(calls)
        self._unknown += sum(not call.known for call in calls)
        self._states += checked.states
        self._undecided += not checked.decided
        assert checked.violation is None, str(checked.violation)

    def add(self, calls: int) -> None:
        """Count calls that are judged otherwise."""
        self._calls += calls

    def __str__(self) -> str:
        return (
            f"{self._name}: {self._seeds:,} seeds, {self._histories:,} histories, {self._calls:,} calls, "
            f"{self._unknown:,} of them unknown, {self._states:,} states, {self._undecided} undecided, {self._end - self._start:.1f} s"
        )


def started(colours: Sequence[str]) -> list[Process]:
    """Processes that can do what is here, and what `kv.testing.worker` can."""
    return [Process(colour, "histories") for colour in colours]


if __name__ == "__main__":
    worker.JOBS.update(recorded=recorded, moved=moved, pairs=pairs, wears=wears, measured=measured)
    worker.main()
