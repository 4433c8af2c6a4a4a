from __future__ import annotations

import random
from itertools import pairwise

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from engine.checksum import PART_SIZE
from engine.directio import checksum as checksum_module
from engine.directio.checksum import StreamChecksum

SMALL = 1000
DATA = random.Random(3).randbytes(5 * SMALL + 17)  # noqa: S311


@given(st.integers(0, len(DATA)), st.lists(st.integers(0, len(DATA)), max_size=10))
def test_parts_and_whole_are_those_of_the_slices(size: int, cuts: list[int]) -> None:
    """However the bytes come in, whole and parts are what blake3 says of the same slices."""
    data = DATA[:size]
    edges = sorted({0, size, *(cut for cut in cuts if cut < size)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checksum_module, "PART_SIZE", SMALL)
        sums = StreamChecksum()
        for start, end in pairwise(edges):
            sums.update(data[start:end] if start % 2 else memoryview(data)[start:end])
        found = sums.finish()

    assert found.value == blake3(data).hexdigest()
    assert found.parts == tuple(
        blake3(data[offset : offset + SMALL]).hexdigest() for offset in range(0, size, SMALL)
    )
    assert found.algorithm == "blake3"


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_real_parts_end_where_they_should(extra: int) -> None:
    """One byte around the end of the first 64 MiB part."""
    data = bytes(PART_SIZE + extra)
    sums = StreamChecksum()
    sums.update(data)

    parts = sums.finish().parts

    expected = [blake3(data[:PART_SIZE]).hexdigest()]
    if extra > 0:
        expected.append(blake3(data[PART_SIZE:]).hexdigest())
    assert list(parts) == expected
