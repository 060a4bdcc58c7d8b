"""Listing: order, prefixes, globs, pages, scans, and what `clear` takes."""

from __future__ import annotations

import time
import tracemalloc
from typing import TYPE_CHECKING

from kv.errors import StoreClosed

from .hostile import GLOBS, KEYS, A, B, C, D
from .suite import LONG, Suite, expired, gone, listed, plant, raises, together

if TYPE_CHECKING:
    from kv.store import AsyncStore

SOME = [
    *["A", "B", "Z", "_", "a", "a%", "a%b", "a*", "a_", "a_b", "ab", "abc"],
    "a\uffff",
    "a😀",
    "b",
    "z",
    "é",
    "\uffff",
    "😀",
]
"""Sorted by code point, which is neither the order of a locale nor that of UTF-16."""


class Listing(Suite):
    async def test_keys_come_sorted_by_code_point(self, store: AsyncStore) -> None:
        await plant(store, *SOME[::-1])
        assert await store.keys() == SOME
        assert [key for key, _ in await listed(store.scan())] == SOME
        assert await store.keys("a") == [key for key in SOME if key.startswith("a")]

    async def test_keys_give_back_plain_str(self, store: AsyncStore) -> None:
        await plant(store, *SOME)
        keys = await store.keys()
        assert type(keys) is list
        assert {*map(type, keys)} == {str}

    async def test_a_prefix_is_literal(self, store: AsyncStore) -> None:
        await plant(store, *KEYS)
        for prefix in (
            "",
            " ",
            *["a", "A", "a%", "a_", "%", "_", "*", "a*", "?", "[", "[a", "\\", "^", "'", "e", "é", "😀", ":"],
        ):
            expected = [key for key in sorted(KEYS) if key.startswith(prefix)]
            assert await store.keys(prefix) == expected, prefix
            assert await store.count(prefix) == len(expected), prefix
            assert await listed(store.scan(prefix)) == [(key, key.encode()) for key in expected], prefix

    async def test_a_prefix_may_be_any_key(self, store: AsyncStore) -> None:
        # the end of its range is not always the next character: there is none after U+10FFFF, and a gap after U+D7FF
        await plant(store, *KEYS)
        for prefix in KEYS:
            assert await store.keys(prefix) == [key for key in sorted(KEYS) if key.startswith(prefix)], prefix[:20]

    async def test_a_prefix_that_nothing_has_gives_nothing(self, store: AsyncStore) -> None:
        await plant(store, *SOME)
        for prefix in ("nothing", "ac", "abcd", "\U0010ffff", "!"):
            assert (await store.keys(prefix), await store.count(prefix)) == ([], 0), prefix
            assert (await listed(store.scan(prefix)), await store.clear(prefix)) == ([], 0), prefix

    async def test_after_is_exclusive(self, store: AsyncStore) -> None:
        await plant(store, *SOME)
        for i, key in enumerate(SOME):
            assert await store.keys(after=key) == SOME[i + 1 :]
            assert [key for key, _ in await listed(store.scan(after=key))] == SOME[i + 1 :]

    async def test_after_need_not_exist(self, store: AsyncStore) -> None:
        await plant(store, *SOME)
        for after in ("!", "A0", "a$", "aa", "ab ", "abb", "a\ufffe", "c", "\ue000", "😁", "\U0010ffff"):
            expected = [key for key in SOME if key > after]
            assert await store.keys(after=after) == expected, after
            assert [key for key, _ in await listed(store.scan(after=after))] == expected, after
            assert await store.keys("a", after=after) == [key for key in expected if key.startswith("a")], after
        assert await store.keys(after=None) == SOME

    async def test_after_may_be_any_key(self, store: AsyncStore) -> None:
        await plant(store, *KEYS)
        for after in KEYS[::3]:
            assert await store.keys(after=after) == [key for key in sorted(KEYS) if key > after], after[:20]

    async def test_limit_counts_what_is_given_back(self, store: AsyncStore) -> None:
        await plant(store, *SOME)
        await expired(store, *(f"a{i}" for i in range(5)))
        for limit in (0, 1, 2, len(SOME) - 1, len(SOME), len(SOME) + 1, 10**6):
            assert await store.keys(limit=limit) == SOME[:limit], limit
            assert [key for key, _ in await listed(store.scan(limit=limit))] == SOME[:limit], limit
        assert await store.keys("a", limit=2) == ["a", "a%"]
        assert await store.keys(match="*b", limit=3) == ["a%b", "a_b", "ab"]
        assert [key for key, _ in await listed(store.scan("a", match="*b", after="a%b", limit=1))] == ["a_b"]
        assert await store.keys("a", match="*b", after="a%b", limit=1) == ["a_b"]

    async def test_a_negative_limit_is_an_error(self, store: AsyncStore) -> None:
        await plant(store, *SOME)
        for limit in (-1, -(10**6)):
            with raises(ValueError):
                await store.keys(limit=limit)
            with raises(ValueError):
                await listed(store.scan(limit=limit))

    async def test_after_and_limit_page_through_every_key_once(self, store: AsyncStore) -> None:
        await plant(store, *KEYS)
        for size in (1, 2, 7, 50):
            pages, last = [], None
            while page := await store.keys(after=last, limit=size):
                assert len(page) <= size
                pages += page
                last = page[-1]
            assert pages == sorted(KEYS), size

    async def test_a_glob_matches_the_whole_key(self, store: AsyncStore) -> None:
        await plant(store, *{key for _, yes, no in GLOBS for key in f"{yes} {no}".split()})
        for pattern, yes, no in GLOBS:
            found = await store.keys(match=pattern)
            assert {*yes.split()} <= {*found}, f"{pattern} does not match"
            assert not {*no.split()} & {*found}, f"{pattern} matches"
            assert found == sorted(found), pattern
            assert await store.count(match=pattern) == len(found), pattern
            assert [key for key, _ in await listed(store.scan(match=pattern))] == found, pattern

    async def test_with_a_prefix_and_a_glob_both_must_hold(self, store: AsyncStore) -> None:
        await plant(store, *SOME)
        rows = [
            ("a", "*b", ["a%b", "a_b", "ab"]),
            ("a", "a*", [key for key in SOME if key.startswith("a")]),
            ("ab", "a*", ["ab", "abc"]),
            ("a", "ab*", ["ab", "abc"]),
            ("a", "b*", []),
            ("b", "a*", []),
            ("a", "", []),
            ("a*", "*", ["a*"]),
            ("a", "\\a\\*", ["a*"]),
            ("a%", "a_*", []),
        ]
        for prefix, match, expected in rows:
            assert await store.keys(prefix, match=match) == expected, (prefix, match)
            assert await store.count(prefix, match=match) == len(expected), (prefix, match)
            assert [key for key, _ in await listed(store.scan(prefix, match=match))] == expected, (prefix, match)

    async def test_a_glob_takes_no_longer_than_key_times_pattern(self, store: AsyncStore) -> None:
        # what tries every way to spread the stars takes seconds for the first, and longer than the world for the others
        await plant(store, "a" * 43)
        before = time.process_time()
        assert await store.keys(match="*a" * 8 + "*b") == []
        assert time.process_time() - before < 1
        await plant(store, "a" * 2_048)
        assert await store.count(match="*a" * 100 + "b") == 0
        assert await store.keys(match="*a" * 40 + "*") == ["a" * 43, "a" * 2_048]
        assert await store.keys(match="*a*" * 500 + "?b") == []

    async def test_count_is_how_many_keys_there_are(self, store: AsyncStore) -> None:
        await plant(store, *SOME)
        assert await store.count() == len(SOME)
        await store.delete("a")
        await store.set("a%", b"again")
        assert await store.count() == len(SOME) - 1
        assert await store.count("a") == len([key for key in SOME if key.startswith("a")]) - 1

    async def test_listings_of_thousands_are_whole(self, store: AsyncStore) -> None:
        entries = {f"{{t}}{i:05}": b"%d" % i for i in range(2_345)}
        await store.set_many(entries)
        keys = [*entries]
        assert await store.keys() == await store.keys(limit=2_345) == keys
        assert await store.keys(limit=1_001) == keys[:1_001]
        assert await store.keys(after=keys[999], limit=1_001) == keys[1_000:2_001]
        assert await store.keys(match="*9") == keys[9::10]
        assert await store.count() == 2_345
        assert await store.count(match="*99") == 23
        assert await listed(store.scan()) == [*entries.items()]
        assert await listed(store.scan(after=keys[500], limit=1_000)) == [*entries.items()][501:1_501]
        assert await store.clear("{t}01") == 1_000
        assert await store.keys() == keys[:1_000] + keys[2_000:]
        assert await store.clear() == 1_345

    # scan

    async def test_scan_gives_keys_and_values(self, store: AsyncStore) -> None:
        await plant(store, *SOME)
        await store.set("a", b"", ttl=LONG)
        expected = [(key, b"" if key == "a" else key.encode()) for key in SOME]
        entries = await listed(store.scan())
        assert entries == expected
        assert {(type(entry), type(entry[1])) for entry in entries} == {(tuple, bytes)}

    async def test_an_abandoned_scan_holds_nothing(self, store: AsyncStore) -> None:
        await store.set_many({f"{{t}}{i:04}": b"1" for i in range(1_200)})
        for _ in range(30):
            async for key, _ in store.scan():
                assert key == "{t}0000"
                break
        await store.set("{t}0001", b"2")
        assert await store.update("{t}0000", lambda _: b"2") == b"2"
        assert await store.clear() == 1_200
        await store.compact()

    async def test_a_scan_under_way_stops_no_other_call(self, store: AsyncStore) -> None:
        await store.set_many({f"{{t}}{i:04}": b"1" for i in range(1_200)})
        one, other = store.scan(), store.scan()
        assert await anext(one) == await anext(other) == ("{t}0000", b"1")
        await together(store, *(store.set(f"{{t}}{i:04}", b"2") for i in range(0, 1_200, 50)))
        assert await store.delete("{t}1199")
        assert await store.cleanup() >= 0
        assert await anext(one) == await anext(other)
        assert len(await listed(one)) == len(await listed(other)) == 1_197

    async def test_a_scan_gives_nothing_past_its_deadline(self, store: AsyncStore) -> None:
        await store.set(A, b"1")
        await together(store, *(store.set(key, b"old", ttl=0.1) for key in (B, C, D)))
        scans = [store.scan(), store.scan(match="*"), store.scan(limit=3)]
        for scan in scans:
            assert (await anext(scan))[0] == A
        await gone(store, B, C, D)
        assert [await listed(scan) for scan in scans] == [[], [], []]

    async def test_a_scan_under_way_says_that_the_store_is_closed(self, store: AsyncStore) -> None:
        await store.set_many({f"{{t}}{i:04}": b"1" for i in range(1_200)})
        scan = store.scan()
        await anext(scan)
        await self.root.aclose()
        with raises(StoreClosed):
            await listed(scan)

    async def test_a_scan_gives_every_entry_that_lives_all_along_exactly_once(self, store: AsyncStore) -> None:
        keys = [f"{{t}}{i:04}" for i in range(1_500)]
        await store.set_many(dict.fromkeys(keys, b"1"))
        staying = {*keys[::3]}
        seen: list[str] = []
        async for key, value in store.scan():
            assert value in {b"1", b"2", b"longer" * 50}
            seen.append(key)
            if len(seen) % 90 == 1:
                i = keys.index(key) if key in keys else 0
                leaving = {*keys[max(0, i - 5) : i + 10], *keys[i + 700 : i + 710]} - staying
                await store.delete_many(leaving)
                await store.set_many(dict.fromkeys([f"{key} new", f"{keys[min(i + 600, 1_499)]} new", "{t}"], b"2"))
                await store.set_many(dict.fromkeys([*staying][:: 1 + len(seen) % 7], b"longer" * 50))
        assert seen == sorted({*seen}), "out of order, or some came twice"
        assert staying <= {*seen}, "some that lived all along did not come"

    async def test_a_scan_does_not_read_the_whole_store_at_once(self, store: AsyncStore) -> None:
        await store.set_many({f"{{t}}{i:04}": bytes(4_000) for i in range(2_000)})
        tracemalloc.start()
        try:
            assert await anext(store.scan()) == ("{t}0000", bytes(4_000))
            assert tracemalloc.get_traced_memory()[1] < 4_000 * 1_000
        finally:
            tracemalloc.stop()

    # clear

    async def test_clear_removes_everything_and_says_how_many(self, store: AsyncStore) -> None:
        await plant(store, *KEYS)
        assert await store.clear() == len(KEYS)
        assert (await store.keys(), await store.clear()) == ([], 0)
        await store.set("a", b"again")
        assert await store.get("a") == b"again"

    async def test_clear_of_a_prefix_leaves_its_neighbours(self, store: AsyncStore) -> None:
        for prefix in ("a", "a%", "a_", "%", "_", "*", "[", "\\", "A", "\ud7ff", "\U0010ffff", "😀", "é", " ", "k"):
            await plant(store, *KEYS)
            kept = [key for key in sorted(KEYS) if not key.startswith(prefix)]
            assert await store.clear(prefix) == len(KEYS) - len(kept), prefix
            assert await store.keys() == kept, prefix
