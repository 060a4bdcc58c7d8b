"""Checks of everything that a store promises, for our own backends and for anybody's.

In a test file of your package, with pytest and nothing else:

    from kv.testing import Conformance, ProcessConformance

    class TestMyStore(Conformance):
        @pytest.fixture
        def store(self, tmp_path):           # a new, empty store, sync or async, for each test
            return MyStore(tmp_path / "x")

    class TestMyStoreInANamespace(TestMyStore):
        view = ("tenant1",)                  # the same checks, inside a namespace

    class TestMyProcesses(ProcessConformance):
        @pytest.fixture
        def url(self, tmp_path):             # of a new, empty store that several processes can open
            return f"mystore:///{tmp_path}/x"

Each check is a promise of the contract by name, is given a store of its own, closes it, and runs in an event loop of
its own; a sync store gets its calls from threads, so that one check does for both colours. Nothing here asserts how
fast a store is. Where a server outlives the test, open the store in a namespace or a table that no other test has had:
the checks use the same keys again and again. Without pytest, `failures` runs every check and gives what failed.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Final

_THEMES: Final = ("basics", "concurrency", "expiry", "listing", "namespaces", "processes", "suite", "updates", "upkeep")

if "pytest" in sys.modules:  # so that a failed assert here shows its values, as one in a test file does
    sys.modules["pytest"].register_assert_rewrite(*(f"{__name__}.{theme}" for theme in _THEMES))

from .basics import Basics  # noqa: E402
from .concurrency import Concurrency  # noqa: E402
from .expiry import Expiry  # noqa: E402
from .listing import Listing  # noqa: E402
from .namespaces import Namespaces  # noqa: E402
from .processes import ProcessConformance  # noqa: E402
from .updates import Updates  # noqa: E402
from .upkeep import Upkeep  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Conformance", "ProcessConformance", "checks", "failures"]


class Conformance(Basics, Expiry, Listing, Updates, Concurrency, Namespaces, Upkeep):
    """Every check of one store. A subclass gives the fixture `store`; see `Suite` for what else it may set."""


def checks(suite: type[Any] = Conformance) -> dict[str, Callable[[Any], None]]:
    """Give every check by its name: a function that is given a new, empty store of either colour, and closes it."""

    def check(name: str, store: Any) -> None:
        getattr(suite(), name)(store)

    return {name: partial(check, name) for name in sorted(dir(suite)) if name.startswith("test_")}


def failures(open_store: Callable[[], Any], suite: type[Any] = Conformance) -> dict[str, BaseException]:
    """Run every check, each on a store that `open_store` opens for it. Gives what was raised, by the check's name."""
    found: dict[str, BaseException] = {}
    for name, check in checks(suite).items():
        try:
            check(open_store())
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as e:
            found[name] = e
    return found
