"""Keys, values and patterns that stores have stumbled over, and tables of every method."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from functools import partial
from math import inf, nan
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from .suite import listed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kv.store import AsyncStore

    Call: TypeAlias = Callable[[AsyncStore, Any], Awaitable[object]]

A, B, C, D = "{t}a", "{t}b", "{t}c", "{t}d"
"""Keys for the methods that write several: a server that spreads its keys keeps those with one `{tag}` together."""

COLLISIONS: Final = (
    # two different keys with one FNV-1a 64 hash; that of the second pair is negative as a signed integer
    ("8yn0iYCKYHlIj4-BwPqk", "GReLUrM4wMqfg9yzV3KQ"),
    ("gMPflVXtwGDXbIhP73TX", "LtHf1prlU1bCeYZEdqWf"),
)

KEYS: Final = (
    *("a", "A", "aa", "ab", "b", "a2", "0", "1", "-1", "10", "9", "None", "null", "."),  # prefixes of each other
    *(" ", "  ", " a", "a ", "a b", "\u00a0", "\u3000a", "a\u200b"),  # nothing is trimmed
    *("%", "_", "a%", "a_", "%a", "a%b", "a_b", "*", "?", "a*", "a?", "[", "]", "[a]", "[a-z]", "!", "^", "\\", "\\\\"),
    *(":", "a:", "a:b", "::", "/", "a/b", "../a", "|", "a|b", "#", "?a=b&c", "$1", "%s", "%00", "%(key)s", "{}", "{0}"),
    *("'", '"', "`", "''", "a'; DROP TABLE kv;--", ";--", "/*", "*/", "{tag}", "{tag}a", "}{", "\\x00", "\\n", "\\'"),
    *("é", "e\u0301", "\u1100\u1161", "가", "\u212b", "Å", "ﬁ", "fi"),  # one text, composed or not, is two keys
    *("İ", "i̇", "I", "ı", "ß", "ẞ", "ss", "SS", "ſ", "Σ", "ς", "σ", "ǅ"),  # folding case would join them  # noqa: RUF001
    *("\u05d0\u05d1", "\u202eabc", "\u200fa", "العربية", "日本語", "ไทย"),  # right to left, and no spaces
    *("😀", "👨‍👩‍👧", "🇪🇺", "a😀", "\u2028", "\ufeff", "\ufeffa", "\ufffd", "\ufdd0"),
    *("\ud7ff", "\ue000", "\uffff", "\U00010000", "\U0010ffff", "a\ud7ff", "a\U0010ffff", "\U0010ffff\U0010ffff"),
    *("k" * 2_047, "k" * 2_048, "é" * 1_024, "😀" * 512, "%" * 2_048, "k" * 300 + "A", "k" * 300 + "a"),
    *(key for pair in COLLISIONS for key in pair),
)
"""Different keys, each of them valid."""

BAD_KEYS: Final = (
    "",
    *("\0", "a\0", "\0a", "a\x00b", "\x01", "a\tb", "a\n", "\na", "a\r", "\x1b[0m", "a\x1f", "\x1fa", "\x7f", "a\x7f"),
    *("\x80", "a\x85", "\x9f", "a\x9fb"),
    *("\ud800", "a\udfff", "\udc80b", "\ud83d\ude00"),  # a surrogate is no character, and a pair of them is none either
    *("k" * 2_049, "é" * 1_025, "😀" * 513, "k" * 2_046 + "é" + "k", "k" * 100_000),
    *(None, 1, 1.0, True, b"a", ("a",), object(), str),
)
"""What is no key, and can stand in a dict."""

UNHASHABLE: Final = (["a"], {"a"}, {"a": 1}, bytearray(b"a"))
"""What is no key, and cannot."""

VALUES: Final = (
    b"",
    b"\0",
    b"a\0b",
    bytes(range(256)),
    b"\xff\xfe\xed\xa0\x80",
    "é😀".encode(),
    b"null",
    b"0",
    b"'; DROP TABLE kv;--",
    b"\r\n" * 1_000,
)

BUFFERS: Final = (
    bytearray(b"text"),
    bytearray(),
    memoryview(b"text"),
    memoryview(bytearray(b"text"))[1:3],
    memoryview(b"t-e-x-t")[::2],  # not contiguous
    memoryview(b"text")[::-1],
    memoryview(b"").cast("B"),
    memoryview(bytes(range(16))).cast("I"),  # four items of four bytes
    type("Bytes", (bytes,), {})(b"text"),
)

BAD_VALUES: Final[tuple[Any, ...]] = ("text", "", 1, 0, 1.5, True, [], [1], (98,), {}, object(), Decimal(1), bytes)

BAD_TTLS: Final = (
    *(0, 0.0, -0.0, -1, -0.001, -inf, nan, True, False, "5", b"5", 1e300, 10**40, Decimal(5), [5], object()),
    *(timedelta(0), timedelta(seconds=-1), timedelta.max, timedelta.min),
)

GLOBS: Final = (
    # pattern, keys that it matches, keys that it does not
    ("*", "a ab * \\ 😀 [!] é", ""),
    ("**", "a ab 😀", ""),
    ("", "", "a *"),
    ("a", "a", "A ab ba"),
    ("A*", "A Ab", "a ab"),
    ("a*", "a ab a* a]b", "A ba *a"),
    ("*a", "a ba *a", "ab A"),
    ("*b*", "b ab abc axxbxx", "a ac"),
    ("*a*b*c*", "abc xaxbxcx aabbcc", "acb ab cab"),
    ("a**b", "ab axb axxb", "a b axbx"),
    ("*.py", "a.py .py a.py.py", "apy a.pyc a.PY"),
    ("?", "a A * 😀 \uffff", "ab e\u0301"),  # one code point, not one letter
    ("??", "ab e\u0301 😀😀", "a abc"),
    ("a?c", "abc a?c a😀c", "ac abbc"),
    ("?*", "a ab", ""),
    ("[abc]", "a b c", "d ab A"),
    ("[a-c]x", "ax bx cx", "dx x Ax a-cx"),
    ("[A-z]", "A Z _ a z ^ [", "é @ {"),  # by code point, in every locale
    ("[!a]", "b ! A 😀", "a ab"),
    ("[!a-c]", "d - !", "a b c"),
    ("[a!]", "a !", "b"),
    ("[^a]", "^ a", "b"),
    ("^a", "^a", "a"),
    ("a$", "a$", "a"),
    ("[]a]", "] a", "b ]a]"),
    ("[!]a]", "b [", "] a"),
    ("[]-a]", "] ^ a", "b ["),
    ("[a-]", "a -", "b"),
    ("[-a]", "a -", "b"),
    ("[!-a]", "b !", "a -"),
    ("[z-a]", "", "z a m - [z-a]"),
    ("[!z-a]", "z a m -", "zz"),
    ("[z-ab]", "b", "z a -"),
    ("[*]", "*", "a **"),
    ("[?]", "?", "a"),
    ("[[]", "[", "a"),
    ("[a]]", "a]", "a ]"),
    ("[\\]", "\\", "] a [\\]"),  # in a class a backslash is itself
    ("[\\]]", "\\]", "\\ ] ]]"),
    ("[a\\-z]", "a \\ ] z", "- A"),  # a range from backslash to z
    ("[", "[", "a"),
    ("a[", "a[", "a"),
    ("[abc", "[abc", "a b"),
    ("[!", "[!", "a !"),
    ("[]", "[]", "[ ]"),
    ("[!]", "[!]", "! a"),
    ("a]", "a]", "a"),
    ("\\", "\\", "a \\\\"),
    ("a\\", "a\\", "a"),
    ("\\*", "*", "a \\* \\"),
    ("\\?", "?", "a \\?"),
    ("\\[a]", "[a]", "a \\a"),
    ("\\\\", "\\", "\\\\"),
    ("\\a", "a", "\\a"),
    ("a\\*b*", "a*b a*bc", "ab axb"),
    ("*\\", "\\ a\\", "a"),
    ("[😀-😂]", "😀 😁 😂", "😃 \uffff 😿"),
    ("[\uffff-\U00010001]", "\uffff \U00010000", "\ufffe 😀"),
    ("[!\ue000-\U0010ffff]", "a \ud7ff é", "😀 \ue000"),
    ("a%", "a%", "ab a"),
    ("a_", "a_", "ab"),
    ("a.c", "a.c", "abc"),
    ("(a|b)+", "(a|b)+", "a b"),
    ("a{2}", "a{2}", "aa"),
    ("{a,b}", "{a,b}", "a b"),
    ("\\d", "d", "1 \\d"),
    ("#*", "#a #", "a"),
    ("a-z", "a-z", "a b"),
    ("[[:alpha:]]", "a] :] []", "a b]"),  # a class of `[`, `:`, a, l, p, h, and then a `]`
    ("[a&&b]", "a & b", "&&"),
    ("[a||b]", "a | b", "||"),
    ("[a--b]", "b", "a -"),
)


def _many(store: AsyncStore, key: Any) -> Awaitable[object]:
    return store.update_many([A, key], dict)


WRITES: Final[dict[str, Call]] = {
    "set": lambda s, k: s.set(k, b"new"),
    "set_many, a dict": lambda s, k: s.set_many({A: b"new", k: b"new"}),
    "set_many, pairs": lambda s, k: s.set_many([(A, b"new"), (k, b"new")]),
    "add": lambda s, k: s.add(k, b"new"),
    "update": lambda s, k: s.update(k, lambda _: b"new"),
    "update, deleting": lambda s, k: s.update(k, lambda _: None),
    "update_many": lambda s, k: s.update_many([A, k], lambda _: {A: b"new"}),
    "compare_and_set": lambda s, k: s.compare_and_set(k, None, b"new"),
    "increment": lambda s, k: s.increment(k),
    "delete": lambda s, k: s.delete(k),
    "delete_many": lambda s, k: s.delete_many([A, k]),
    "pop": lambda s, k: s.pop(k),
    "expire": lambda s, k: s.expire(k, 5),
    "persist": lambda s, k: s.persist(k),
}

READS: Final[dict[str, Call]] = {
    "get": lambda s, k: s.get(k),
    "get with a default": lambda s, k: s.get(k, b"default"),
    "get_many": lambda s, k: s.get_many([A, k]),
    "exists": lambda s, k: s.exists(k),
    "size": lambda s, k: s.size(k),
    "ttl": lambda s, k: s.ttl(k),
}

KEY_CALLS: Final[dict[str, Call]] = {**READS, **WRITES}
"""Every method with a key, on that key; those that take several, on `A` too."""

CALLS: Final[dict[str, Callable[[AsyncStore], Awaitable[object]]]] = {
    **{name: partial(lambda call, s: call(s, B), call) for name, call in KEY_CALLS.items()},
    "get_many of nothing": lambda s: s.get_many([]),
    "set_many of nothing": lambda s: s.set_many({}),
    "delete_many of nothing": lambda s: s.delete_many([]),
    "update_many of nothing": lambda s: s.update_many([], dict),
    "keys": lambda s: s.keys(),
    "keys, none": lambda s: s.keys(limit=0),
    "keys, a page": lambda s: s.keys("a", match="*b", after="aa", limit=2),
    "scan": lambda s: listed(s.scan()),
    "count": lambda s: s.count(),
    "count of a prefix": lambda s: s.count("a", match="*b"),
    "clear": lambda s: s.clear(),
    "clear of a prefix": lambda s: s.clear("a"),
    "namespaces": lambda s: s.namespaces(),
    "cleanup": lambda s: s.cleanup(),
    "stats": lambda s: s.stats(),
    "compact": lambda s: s.compact(),
    "verify": lambda s: s.verify(),
}
"""Every method, in a call that is right."""

VALUE_CALLS: Final[dict[str, Call]] = {
    "set": lambda s, v: s.set(A, v),
    "set_many, a dict": lambda s, v: s.set_many({B: b"new", A: v}),
    "set_many, pairs": lambda s, v: s.set_many([(B, b"new"), (A, v)]),
    "add": lambda s, v: s.add(C, v),
    "update": lambda s, v: s.update(A, lambda _: v),
    "update of a missing key": lambda s, v: s.update(C, lambda _: v),
    "update_many": lambda s, v: s.update_many([A, B], lambda _: {B: b"new", A: v}),
    "compare_and_set": lambda s, v: s.compare_and_set(A, b"old", v),
    "compare_and_set of a missing key": lambda s, v: s.compare_and_set(C, None, v),
}
"""Every method that stores a value, in a call that would store it under `A` or `C`."""

TTL_CALLS: Final[dict[str, Call]] = {
    "set": lambda s, t: s.set(A, b"1", ttl=t),
    "set_many": lambda s, t: s.set_many({A: b"1", B: b"1"}, ttl=t),
    "add": lambda s, t: s.add(C, b"1", ttl=t),
    "update": lambda s, t: s.update(A, lambda _: b"1", ttl=t),
    "update of a missing key": lambda s, t: s.update(C, lambda _: b"1", ttl=t),
    "update_many": lambda s, t: s.update_many([A, C], lambda _: {A: b"1", C: b"1"}, ttl=t),
    "compare_and_set": lambda s, t: s.compare_and_set(A, b"0", b"1", ttl=t),
    "increment": lambda s, t: s.increment(A, ttl=t),
    "increment of a missing key": lambda s, t: s.increment(C, ttl=t),
    "expire": lambda s, t: s.expire(A, t),
}
"""Every method that takes a ttl, in a call that would give it to `A`, which holds `b"0"`, or to `C`, which is missing."""

TTL_IF_NEW_CALLS: Final[dict[str, Call]] = {
    "update": lambda s, t: s.update(C, lambda _: b"1", ttl_if_new=t),
    "update of an entry": lambda s, t: s.update(A, lambda _: b"1", ttl_if_new=t),
    "update_many": lambda s, t: s.update_many([A, C], lambda _: {A: b"1", C: b"1"}, ttl_if_new=t),
    "increment": lambda s, t: s.increment(C, ttl_if_new=t),
}
"""Every method that takes a `ttl_if_new`."""
