"""What memory to hand batches over in costs, new or used."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plumb.host.shared_memory_cost import copy_seconds_per_byte, drop_seconds_per_byte, fresh_seconds_per_byte


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(st.floats(1, 1e9))
def test_a_byte_takes_some_time_and_no_more_than_a_slow_memory_takes(batch_bytes):
    copying = copy_seconds_per_byte(batch_bytes)
    assert 0 < copying.cached <= copying.uncached < 1e-8
    assert 0 < drop_seconds_per_byte(min(batch_bytes, 2**26)) < 1e-8
    assert 0 <= fresh_seconds_per_byte() < 1e-8
