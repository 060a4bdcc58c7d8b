"""Every error of this package, one class per meaning.

    KVError
    ├── InvalidKey (ValueError)           a key, prefix or namespace that no store takes
    ├── InvalidValue (TypeError)          a value that is not bytes
    ├── InvalidTTL (ValueError)           a time to live that is no positive time
    ├── ValueTooLarge (ValueError)        larger than the backend can hold
    ├── KeyNotFound (KeyError)            asked for by a mapping or `require`, and missing
    ├── NotAnInteger (ValueError)         `increment` met something else
    ├── IntegerOverflow (OverflowError)   `increment` left 64 bits
    ├── ConfigError (ValueError)          URL, option or driver
    ├── StoreClosed                       used after close
    └── BackendError                      anything the engine says that is none of the above
        ├── Unavailable                   not reachable, or refused before any effect: safe to try again
        ├── Conflict                      gave up after bounded retries or a lock timeout: safe to try again
        ├── OutcomeUnknown                may or may not have happened
        └── CorruptData                   what is stored is not what was written, or is another schema

The driver's own exception, where there is one, is the `__cause__`. A message names the key or the URL, never a
password and never a value.
"""

__all__ = [
    "BackendError",
    "ConfigError",
    "Conflict",
    "CorruptData",
    "IntegerOverflow",
    "InvalidKey",
    "InvalidTTL",
    "InvalidValue",
    "KVError",
    "KeyNotFound",
    "NotAnInteger",
    "OutcomeUnknown",
    "StoreClosed",
    "Unavailable",
    "ValueTooLarge",
]


class KVError(Exception):
    """The base of every error that this package raises on purpose."""


class InvalidKey(KVError, ValueError):
    """A key, prefix or namespace that no store takes. Raised before any I/O."""


class InvalidValue(KVError, TypeError):
    """A value that is not bytes. Raised before any I/O."""


class InvalidTTL(KVError, ValueError):
    """A time to live that is zero, negative, not a number, or longer than any clock here holds."""


class ValueTooLarge(KVError, ValueError):
    """The value is larger than the backend can hold. Nothing has changed."""


class KeyNotFound(KVError, KeyError):
    """The key is missing, where the caller said that it must be there."""

    # KeyError would show the repr of the message
    __str__ = Exception.__str__


class NotAnInteger(KVError, ValueError):
    """`increment` met a value that is not a canonical decimal integer. Nothing has changed."""


class IntegerOverflow(KVError, OverflowError):
    """The amount, or the sum, does not fit a signed 64-bit integer. Nothing has changed."""


class ConfigError(KVError, ValueError):
    """A URL, an option or a driver is wrong. The message lists what would have been right."""


class StoreClosed(KVError):
    """The store was used after `close`."""


class BackendError(KVError):
    """The engine said something that is none of the other errors."""


class Unavailable(BackendError):
    """Not reachable, or refused before any effect. Safe to try again."""


class Conflict(BackendError):
    """Gave up after bounded retries or a lock timeout. Nothing has changed; safe to try again."""


class OutcomeUnknown(BackendError):
    """The write may or may not have happened. Read before you try again."""


class CorruptData(BackendError):
    """What is stored is not what was written, or belongs to something else or to a newer version."""
