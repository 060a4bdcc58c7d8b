"""Keys, prefixes and the glob, as pure functions."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv.errors import InvalidKey
from kv.keys import Glob, Listing, check_key, check_path, fnv1a_64, fnv1a_64_many, prefix_end

# the published test vectors of FNV-1a 64, http://www.isthe.com/chongo/tech/comp/fnv/
VECTORS = {
    b"": 0xCBF29CE484222325,
    b"a": 0xAF63DC4C8601EC8C,
    b"b": 0xAF63DF4C8601F1A5,
    b"foobar": 0x85944171F73967E8,
    b"foo": 0xDCB27518FED9D577,
    b"chongo was here!\n": 0x46810940EFF5F915,
    b"127.0.0.1": 0xAABAFE7104D914BE,
    b"\xff\x00\x00\x01": 0x6961196491CC682D,
    b"http://antwrp.gsfc.nasa.gov/apod/astropix.html": 0x6BE396289CE8A6DA,
}
COLLISIONS = [
    ("8yn0iYCKYHlIj4-BwPqk", "GReLUrM4wMqfg9yzV3KQ", 0x4EAC0C95540867E4),
    ("gMPflVXtwGDXbIhP73TX", "LtHf1prlU1bCeYZEdqWf", 0x8FCF3BE2DE898214),
]
KEYS = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=12)
GLOBS = st.text(st.sampled_from("ab[]!^-*?\\é😀"), max_size=10)
SHORT = st.text(st.sampled_from("ab[]!^-*\\é😀"), min_size=1, max_size=8)


@pytest.mark.parametrize(("data", "unsigned"), VECTORS.items())
def test_fnv1a_gives_the_published_vectors(data: bytes, unsigned: int) -> None:
    assert fnv1a_64(data) % 2**64 == unsigned
    assert -(2**63) <= fnv1a_64(data) < 2**63


@pytest.mark.parametrize(("one", "other", "unsigned"), COLLISIONS)
def test_fnv1a_of_the_known_pairs_is_the_same(one: str, other: str, unsigned: int) -> None:
    assert fnv1a_64(one.encode()) == fnv1a_64(other.encode())
    assert fnv1a_64(one.encode()) % 2**64 == unsigned


@given(st.lists(st.binary(max_size=40), max_size=60), st.integers(0, 30))
def test_fnv1a_of_many_is_that_of_each(texts: list[bytes], more: int) -> None:
    texts = (texts * (more + 1))[:2_500]  # more than go into one number, too
    assert fnv1a_64_many(texts) == [*map(fnv1a_64, texts)]


def test_a_subclass_of_str_becomes_a_plain_str() -> None:
    class Odd(str):
        __slots__ = ()

        def __str__(self) -> str:
            return "another"

    assert check_key(Odd("key")) == "key"
    assert type(check_key(Odd("key"))) is str


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("", "key is empty"),
        ("a\nb", "control character, U+000A, at index 1"),
        ("\x7f", "control character, U+007F"),
        ("a\x9f", "control character, U+009F"),
        ("\ud800", "lone surrogate, U+D800"),
        ("k" * 2049, "2,049 bytes of UTF-8; at most 2,048"),
        ("é" * 1025, "2,050 bytes"),
        (b"k", "must be a str, not bytes"),
        (None, "must be a str, not NoneType"),
    ],
)
def test_a_key_that_no_store_takes_says_why(key: object, message: str) -> None:
    with pytest.raises(InvalidKey, match=re.escape(message)) as raised:
        check_key(key)
    assert len(str(raised.value)) < 250


def test_a_path_has_its_own_limits() -> None:
    assert check_path(["a" * 255, "b" * 255, "c" * 255, "d" * 255]) == ("a" * 255, "b" * 255, "c" * 255, "d" * 255)
    with pytest.raises(InvalidKey, match="1,027 bytes; at most 1,024"):
        check_path(["a" * 255] * 4 + ["xxx"])
    with pytest.raises(InvalidKey, match="256 bytes"):
        check_path(["a" * 256])
    with pytest.raises(InvalidKey, match="namespace is empty"):
        check_path(["a", ""])


@given(KEYS, KEYS)
def test_a_prefix_range_holds_what_begins_with_the_prefix(prefix: str, key: str) -> None:
    end = prefix_end(prefix)
    for candidate in (key, prefix + key):
        assert (candidate >= prefix and (end is None or candidate < end)) == candidate.startswith(prefix)


def test_a_prefix_range_steps_over_the_surrogates_and_the_last_code_point() -> None:
    assert prefix_end("a\ud7ff") == "a\ue000"
    assert prefix_end("a\U0010ffff") == "b"
    assert prefix_end("\U0010ffff") is None
    assert prefix_end("") is None


def matches(pattern: str, key: str) -> bool:
    """The glob, as slowly and plainly as can be: what Glob is compared with."""
    if not pattern:
        return not key
    first, rest = pattern[0], pattern[1:]
    if first == "*":
        return any(matches(rest, key[i:]) for i in range(len(key) + 1))
    if first == "[":
        body = rest[1:] if rest[:1] == "!" else rest
        end = body.find("]", 1)
        if end >= 0:
            inside, after = body[:end], body[end + 1 :]
            members = set()
            i = 0
            while i < len(inside):
                if inside[i + 1 : i + 2] == "-" and i + 2 < len(inside):
                    members.add((inside[i], inside[i + 2]))
                    i += 3
                else:
                    members.add((inside[i], inside[i]))
                    i += 1
            return (
                bool(key)
                and any(low <= key[0] <= high for low, high in members) is not (rest[:1] == "!")
                and matches(after, key[1:])
            )
    if first == "\\" and rest:
        first, rest = rest[0], rest[1:]
    elif first == "?":
        return bool(key) and matches(rest, key[1:])
    return key[:1] == first and matches(rest, key[1:])


@given(GLOBS, SHORT)
def test_the_glob_is_what_it_says(pattern: str, key: str) -> None:
    assert Glob(pattern).matches(key) == matches(pattern, key)


@given(GLOBS, SHORT)
def test_every_match_begins_with_the_head(pattern: str, key: str) -> None:
    glob = Glob(pattern)
    if glob.matches(key):
        assert key.startswith(glob.head)


@pytest.mark.parametrize(
    ("pattern", "head"),
    [("user:*", "user:"), ("*", ""), ("a?c", "a"), ("a[b]c", "a"), (r"\*a*", "*a"), ("plain", "plain"), ("a[b", "a[b")],
)
def test_the_head_is_the_literal_beginning(pattern: str, head: str) -> None:
    assert Glob(pattern).head == head


@pytest.mark.parametrize(
    "pattern", ["*a" * 1_000 + "b", "*a*" + "a?" * 900 + "b", "*" * 5_000 + "b", "[a-z]*" * 400 + "0"]
)
def test_no_pattern_takes_for_ever(pattern: str) -> None:
    # a pattern that backtracks would need longer than the universe; no bound is asserted, ending is the proof
    assert not Glob(pattern).matches("a" * 2_048)


def test_a_pattern_of_any_length_is_compiled_only_if_a_key_may_match(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    compile_ = re.compile
    monkeypatch.setattr("kv.keys.re.compile", lambda regex, flags: compiled.append(regex) or compile_(regex, flags))  # type: ignore[func-returns-value]
    for pattern in ("a" * 10**6, "[" * 10**6, "[!" * 10**6, "*a" * 10**6, "?" * 10**6, "[a]*" * 10**6, "\\*" * 10**6):
        assert not Glob(pattern).matches("a" * 2_048)
    assert compiled == []
    assert Glob("*" * 10**6 + "b").matches("ab")
    assert Glob("?*" * 2_048).matches("a" * 2_048)
    assert Glob("a" * 2_048).matches("a" * 2_048)
    assert max(map(len, compiled)) < 40_000


@pytest.mark.parametrize("pattern", ["*a" * 9 + "*", "[a-z]*?" * 5 + "[!b]", "*[]]*[!-a-z]*\\**", "**?**"])
def test_no_part_of_a_pattern_can_be_tried_in_more_ways_than_there_are_places(
    pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    regexes: list[str] = []
    compile_ = re.compile
    monkeypatch.setattr("kv.keys.re.compile", lambda regex, flags: regexes.append(regex) or compile_(regex, flags))  # type: ignore[func-returns-value]
    Glob(pattern)
    # each repetition but the last is alone in a group that is never entered again, and none is inside another
    assert re.fullmatch(r"[^*]*(\(\?>\.\*\?[^*]*\))*(\.\*[^*]*)?", regexes[0].replace("\\*", ""))


@given(st.lists(KEYS), KEYS | st.just(""), st.none() | GLOBS, st.none() | KEYS, st.none() | st.integers(0, 5))
def test_a_listing_picks_what_was_asked_for(
    keys: list[str], prefix: str, match: str | None, after: str | None, limit: int | None
) -> None:
    listing = Listing(prefix, match, after, limit)
    keys = sorted({*keys, *(prefix + key for key in keys)})
    expected = [
        key
        for key in keys
        if key.startswith(prefix) and (match is None or matches(match, key)) and (after is None or key > after)
    ][:limit]
    reached = [key for key in keys if key >= listing.start and (listing.stop is None or key < listing.stop)]
    assert listing.pick(reached) == expected
    assert not (listing.empty and expected)


def test_a_listing_refuses_what_no_key_could_be() -> None:
    for wrong in ("a\n", 1, "k" * 2049):
        with pytest.raises(InvalidKey):
            Listing(prefix=wrong)  # type: ignore[arg-type]
        with pytest.raises(InvalidKey):
            Listing(after=wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidKey, match="match must be a str"):
        Listing(match=b"*")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must not be negative"):
        Listing(limit=-1)
    with pytest.raises(TypeError, match="limit must be an int"):
        Listing(limit=1.5)  # type: ignore[arg-type]


def test_a_pattern_that_no_key_can_match_asks_nobody() -> None:
    assert Listing(match="a\x00*").empty
    assert Listing(prefix="a", match="b*").empty
    assert not Listing(match="[\x00-z]*").empty
