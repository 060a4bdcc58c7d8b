"""Values encrypted where they are stored, with AES-256-GCM: keys, names and deadlines of entries are not.

What is stored, 40 bytes more than the value: 4 bytes that say so, 8 of the key's id, 12 of a random nonce, what AES-GCM
made of the value, and its tag of 16. The tag is also over the namespace and the key, so that what is copied to another
key does not open there.
"""

from __future__ import annotations

import hashlib
import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias

from kv import transfer
from kv.errors import ConfigError, CorruptData, ValueTooLarge
from kv.keys import SEPARATOR, shown
from kv.lowered import Aside, go_on
from kv.values import Unchanged

from .base import AsyncWrapper, Wrapper
from .sealing import AsyncSealing, Sealed, Sealing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kv.base import BaseStore
    from kv.store import AsyncStore, Stats, Store, UpdateFn, Value
    from kv.transfer import Progress

__all__ = ["AsyncEncrypted", "Encrypted", "KeyRing", "Keys", "new_key"]

Keys: TypeAlias = "Value | str | Iterable[Value | str] | KeyRing"
"""One key or several, the first of which seals: each 32 bytes, or its base64, or text that says where keys are."""

MAGIC: Final = b"\xf7kv\x01"
"""What everything encrypted begins with; the last byte is the version of the form."""
_ID: Final = 8
_NONCE: Final = 12
_TAG: Final = 16
_HEAD: Final = len(MAGIC) + _ID
OVERHEAD: Final = _HEAD + _NONCE + _TAG
"""How many bytes more are stored than the value has."""
_NAMED: Final = 5
"""How many of the entries that do not open `reencrypt` names."""
_END: Final = "\x1e"
"""Between a path and a key, where they are one: neither can hold it."""


def new_key() -> str:
    """Give a new random key, as base64."""
    return urlsafe_b64encode(os.urandom(32)).decode()


class KeyRing:
    """The keys that open what is stored; the first also seals. It shows none of them, and is not pickled.

    Args:
        keys: 32 bytes, or text: base64 (either alphabet) of one or more, between commas or newlines; `env:NAME` or
            `file:PATH`, where such text stands; or several of these.

    Raises:
        ConfigError: a key is not of 32 bytes, stands twice, or is not there; or `cryptography` is not installed.
    """

    def __init__(self, keys: Keys) -> None:
        try:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError as e:
            raise ConfigError(
                'encryption needs cryptography, which is not installed: pip install "anykv[encryption]"'
            ) from e
        self._ciphers: dict[bytes, AESGCM] = {}
        for number, key in enumerate(_keys(keys), 1):
            if len(key) != 32:
                raise ConfigError(f"encryption key {number} is of {len(key)} bytes, and must be of 32; {_HOW}")
            ident = hashlib.sha256(b"anykv: id of an encryption key\0" + key).digest()[:_ID]
            if ident in self._ciphers:
                raise ConfigError(f"encryption key {number} is the same as one before it, or has its id")
            self._ciphers[ident] = AESGCM(key)
        if not self._ciphers:
            raise ConfigError(f"there is no encryption key; {_HOW}")
        self._head = MAGIC + next(iter(self._ciphers))

    def seal(self, path: tuple[str, ...], key: str, value: bytes) -> bytes:
        """Give what is stored for a value."""
        nonce = os.urandom(_NONCE)
        try:
            sealed = self._ciphers[self._head[len(MAGIC) :]].encrypt(nonce, value, _bound(self._head, path, key))
        except OverflowError as e:
            raise ValueTooLarge(
                f"the value for {shown(key)} is {len(value):,} bytes; fewer than 2 GiB can be encrypted"
            ) from e
        return self._head + nonce + sealed

    def open(self, path: tuple[str, ...], key: str, stored: bytes) -> bytes:
        """Give the value that is stored, or raise `CorruptData`."""
        from cryptography.exceptions import InvalidTag

        head = stored[:_HEAD]
        if not head.startswith(MAGIC):
            raise _not_encrypted(key)
        if len(stored) < OVERHEAD:
            raise CorruptData(f"the value of {shown(key)} does not open: something is missing from its end")
        cipher = self._ciphers.get(head[len(MAGIC) :])
        if cipher is None:
            raise CorruptData(
                f"the value of {shown(key)} is encrypted with the key of id {head[len(MAGIC) :].hex()}, "
                "which is not in the key ring; add that key after the first one"
            )
        try:
            return cipher.decrypt(stored[_HEAD : _HEAD + _NONCE], stored[_HEAD + _NONCE :], _bound(head, path, key))
        except InvalidTag:
            raise CorruptData(
                f"the value of {shown(key)} does not open: "
                "it is damaged, or was moved here from another key or namespace"
            ) from None

    def is_current(self, stored: bytes) -> bool:
        """Give whether it is sealed with the first key, as far as its beginning says."""
        return stored.startswith(self._head)

    def __repr__(self) -> str:
        return f"<KeyRing of {len(self._ciphers)}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("encryption keys are not pickled; give the other process env:NAME or file:PATH")


_HOW: Final = "kv.wrappers.new_key() makes one, as base64"


def _keys(keys: Any) -> list[bytes]:
    """Read the keys of a ring."""
    if isinstance(keys, bytes | bytearray | memoryview):
        return [bytes(keys)]
    if isinstance(keys, str):
        return _texts(keys)
    if not hasattr(keys, "__iter__"):
        raise ConfigError(f"encryption keys are bytes, text or several of these, not {type(keys).__name__}; {_HOW}")
    found: list[bytes] = []
    for key in keys:
        if not isinstance(key, bytes | bytearray | memoryview | str):
            raise ConfigError(f"an encryption key is 32 bytes, or text, not {type(key).__name__}; {_HOW}")
        found += _keys(key)
    return found


def _texts(text: str) -> list[bytes]:
    """Read keys from text, or from where it says."""
    if text.startswith("file:"):  # a path may hold commas
        path = text.removeprefix("file:")
        try:
            with open(path, encoding="ascii") as file:
                inside = file.read()
        except OSError as e:
            raise ConfigError(f"the encryption keys in the file {path} cannot be read: {e.strerror}") from e
        except ValueError:  # no ASCII, or no path
            raise ConfigError(f"the file {path!r} holds no encryption keys as base64; {_HOW}") from None
        return _plain(inside, f"the file {path}")
    found: list[bytes] = []
    for part in _parts(text):
        name = part.strip().removeprefix("env:")
        if name == part.strip():
            found.append(_decoded(part, "the text"))
        elif (value := os.environ.get(name)) is None:
            raise ConfigError(f"the encryption keys are in the environment variable {name}, which is not set")
        else:
            found += _plain(value, f"the environment variable {name}")
    if not found:
        raise ConfigError(f"there is no encryption key in the text; {_HOW}")
    return found


def _plain(text: str, where: str) -> list[bytes]:
    """Read what is base64 alone."""
    found = [_decoded(part, where) for part in _parts(text)]
    if not found:
        raise ConfigError(f"there is no encryption key in {where}; {_HOW}")
    return found


def _parts(text: str) -> list[str]:
    return [part for part in text.replace("\n", ",").split(",") if part.strip()]


def _decoded(text: str, where: str) -> bytes:
    """Read one key, in either alphabet."""
    digits = text.strip().rstrip("=")
    if len(digits) != 43:  # perhaps there is a + in front, which is a space where it stood in a URL's query
        digits = text.rstrip("=")
    digits = digits.translate(str.maketrans(" +/", "--_"))
    try:
        # what the decoder would pass over, or repeat in what it raises
        if not (digits.isascii() and digits.replace("-", "").replace("_", "").isalnum()):
            raise ValueError
        return urlsafe_b64decode(digits + "=" * (-len(digits) % 4))
    except ValueError:
        raise ConfigError(f"an encryption key in {where} is no base64; {_HOW}") from None


def _bound(head: bytes, path: tuple[str, ...], key: str) -> bytes:
    """Give what the tag is over besides the value. Neither names nor keys hold what stands between them."""
    return head + f"{SEPARATOR.join(path)}{_END}{key}".encode()


def _not_encrypted(key: str) -> CorruptData:
    """The error for what somebody stored without this wrapper."""
    return CorruptData(
        f"the value of {shown(key)} is not encrypted, and is refused; kv copy moves a store into an encrypted one"
    )


def _length(key: str, stored: int) -> int:
    """Give the length of the value of which so many bytes are stored."""
    if stored < OVERHEAD:
        raise _not_encrypted(key)
    return stored - OVERHEAD


class _Encrypts(Sealed):
    """What both colours share."""

    _ring: KeyRing

    def _seal(self, key: str, value: bytes) -> bytes:
        return self._ring.seal(self._path, key, value)

    def _open(self, key: str, stored: bytes) -> bytes:
        return self._ring.open(self._path, key, stored)

    def _figures(self, stored: Stats) -> Stats:
        return stored._replace(value_bytes=max(0, stored.value_bytes - OVERHEAD * stored.keys))


class Encrypted(_Encrypts, Sealing):
    """A `Store` whose values are encrypted in the store inside; needs `pip install "anykv[encryption]"`.

    What is stored there without it, is damaged, is sealed with a key that is not in the ring, or was moved from another
    key or namespace raises `CorruptData` and stays as it is. `compare_and_set`, `pop`, `increment` and `expire` are as
    atomic as `update`, by which they are done: on Redis two round trips where it would be one. `size` and `stats` open
    nothing.

    Not hidden are keys, names of namespaces, deadlines and the lengths of values, nor is an older value noticed that
    somebody puts back. What is copied without this wrapper, as by a backup, opens under the same namespace and key.

    To replace a key: give every process the ring `old, new`; then `new, old`; call `reencrypt`; then leave out the old.
    By NIST SP 800-38D one key is good for 2**32 writes, as nonces are random; replace it before that.

    Args:
        store: what it stands around. Closing this closes it.
        keys: see `KeyRing`; the first key seals, all open.

    Raises:
        ConfigError: see `KeyRing`.
    """

    def __init__(self, store: Store, keys: Keys) -> None:
        super().__init__(store)
        self._ring = keys if isinstance(keys, KeyRing) else KeyRing(keys)

    def size(self, key: str) -> int | None:
        stored = Wrapper.size(self, key)
        return None if stored is None else _length(key, stored)

    def stats(self) -> Stats:
        return self._figures(Wrapper.stats(self))

    def reencrypt(self, *, progress: Progress | None = None) -> int:
        """Seal with the first key what is sealed with another, here and in every namespace below. Gives how many.

        Each entry by one `update` of its own, so that it is safe beside anything that writes, keeps deadlines, and is
        completed by being called again. Reads everything, and writes only what it has to.

        Args:
            progress: see `kv.transfer.Progress`.

        Raises:
            CorruptData: some do not open; they stay as they are, and all others are done.
        """
        return _reencrypt(self._ring, self._path, self.store, progress)


class AsyncEncrypted(_Encrypts, AsyncSealing):
    """See `Encrypted`."""

    def __init__(self, store: AsyncStore, keys: Keys) -> None:
        super().__init__(store)
        self._ring = keys if isinstance(keys, KeyRing) else KeyRing(keys)

    async def size(self, key: str) -> int | None:
        stored = await AsyncWrapper.size(self, key)
        return None if stored is None else _length(key, stored)

    async def stats(self) -> Stats:
        return self._figures(await AsyncWrapper.stats(self))

    async def reencrypt(self, *, progress: Progress | None = None) -> int:
        """See `Encrypted.reencrypt`. `progress` is called in a thread."""
        with Aside() as aside:
            return await aside.run(_reencrypt, self._ring, self._path, aside.lower(self.store), progress)


def _reencrypt(ring: KeyRing, start: tuple[str, ...], store: BaseStore, progress: Progress | None) -> int:
    """Do what `reencrypt` does, in the store inside."""
    count = transfer.total(store) if progress else None
    done = left = 0
    wrong: list[str] = []
    for below, here in transfer._walk(store):
        path = (*start, *below)
        for page in here._records(None):
            go_on()
            for record in page:
                if ring.is_current(record.value):
                    continue
                try:
                    with suppress(Unchanged):
                        here.update(record.key, _resealing(ring, path, record.key))
                        done += 1
                except CorruptData as e:
                    left += 1
                    if left <= _NAMED:
                        wrong.append(str(e) + (f", in namespace {'/'.join(path)!r}" if path else ""))
            if progress:
                progress("reencrypting", len(page), count)
    if left:
        more = f"; and {left - _NAMED:,} more" if left > _NAMED else ""
        raise CorruptData(f"{done:,} sealed anew, and {left:,} left as they are: {'; '.join(wrong)}{more}")
    return done


def _resealing(ring: KeyRing, path: tuple[str, ...], key: str) -> UpdateFn:
    """What `update` does to an entry that is not sealed with the first key."""

    def fn(stored: bytes | None) -> bytes:
        if stored is None or ring.is_current(stored):  # gone, or written anew meanwhile
            raise Unchanged
        return ring.seal(path, key, ring.open(path, key, stored))

    return fn
