"""No bytes crash the decoder, hit a neighbour, or mean one thing alone and another in a batch."""

from __future__ import annotations

import os
import random
import resource
from functools import partial

import pytest
from harness.avro import LAYOUTS, NESTED, AvroJudge, Layout, mutate, resolve, same_rows
from penstock_schemas.codec import ColumnarDecoder

MUTATIONS = 1_000_000 if os.environ.get("FULL") == "1" else 54_000
"""Over all layouts; a tenth of them is judged in a batch of its own as well."""
BATCH_ROWS = 100


def judged(layout: Layout, values: list[bytes], decoder: ColumnarDecoder) -> dict[int, str]:
    """Decode a batch, compare it with the judge's verdict on each value; return the bad rows."""
    judge = AvroJudge(layout.writer, layout.reader)
    verdicts = [judge.verdict(value) for value in values]
    bad = {row: v for row, v in enumerate(verdicts) if isinstance(v, str)}
    batch = decoder.decode(values)
    assert {row: error.dead_letter_class for row, error in batch.errors} == bad
    rows = [v for v in verdicts if not isinstance(v, str)]
    assert batch.rows.tolist() == [row for row in range(len(values)) if row not in bad]
    assert same_rows(batch.columns, rows, layout.reader)
    return bad


@pytest.mark.timeout(1800 if MUTATIONS == 1_000_000 else 120)
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_a_batch_judges_mutated_bytes_as_the_strict_reader_does(layout: Layout, seed: int) -> None:
    rng = random.Random(seed)
    decoder = ColumnarDecoder(layout.reader, partial(resolve, layout.writer))
    mutations, refused = 0, 0
    while mutations < MUTATIONS / len(LAYOUTS):
        share = rng.choice((0.02, 0.3, 0.5, 1.0))
        values = [layout.value(rng) for _ in range(BATCH_ROWS)]
        mutated = [row for row in range(BATCH_ROWS) if rng.random() < share]
        for row in mutated:
            values[row] = mutate(values[row], rng)
        bad = judged(layout, values, decoder)
        assert set(bad) <= set(mutated), "a neighbour is hit"
        for row in mutated[:: 10 if share < 1 else 3]:
            judged(layout, [values[row]], decoder)
        mutations, refused = mutations + len(mutated), refused + len(bad)
    assert mutations * 0.3 < refused < mutations


@pytest.mark.parametrize("copies", [1, 40])
@pytest.mark.parametrize("where", [0, 1, 2, 3])
def test_a_declared_length_allocates_nothing(where: int, copies: int) -> None:
    bomb = b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f"  # 2 ** 62 - 1
    body = [b"\x00\x02\x00\x00\x00" + bomb + b"\x00", bomb, b"\x00\x02\x00\x00\x00\x00" + bomb]
    body.append(b"\x00\x02\x00\x00\x00\x02" + bomb)
    decoder = ColumnarDecoder(NESTED, lambda _: NESTED)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    batch = decoder.decode([b"\x00\x00\x00\x00\x07" + body[where]] * copies)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB
    assert len(batch.errors) == copies
    assert {e.dead_letter_class for _, e in batch.errors} == {"decode"}
