"""Each target of `make fuzz`, for a moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fuzzing import TARGETS
from hypothesis import given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Sequence


def changed(seeds: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Bytes like these, somewhere else."""
    return st.builds(
        lambda seed, begin, length, other: (
            seed[: begin % (len(seed) + 1)] + other + seed[begin % (len(seed) + 1) + length :]
        ),
        st.sampled_from(seeds),
        st.integers(0, 100),
        st.integers(0, 3),
        st.binary(max_size=4) | st.sampled_from(seeds),
    )


@pytest.mark.parametrize("name", TARGETS)
def test_any_input_is_taken_or_refused(name: str) -> None:
    function, seeds = TARGETS[name]
    for seed in seeds:
        function(seed)

    @settings(max_examples=100, deadline=None, derandomize=True)  # what is new is found by `make fuzz`
    @given(changed(seeds) | st.binary(max_size=40))
    def check(data: bytes) -> None:
        function(data)

    check()
