"""Batches whose sequences are predicted from a source, as encoder-decoder models read them."""

import numpy as np
import pytest

from llm_problem.tasks.batch import BatchBuilder


def translation():
    """Three examples: teacher-forced targets; the first and the last read the same source."""
    builder = BatchBuilder()
    sources = [builder.add_source([11, 12, 2]), builder.add_source([13, 2])]
    for source, target in ((0, [21, 22, 2]), (1, [23, 2]), (0, [24, 2])):
        builder.start_example(0)
        sequence = builder.add_sequence([1, *target[:-1]], sources[source])
        for position, token in enumerate(target):
            builder.read(sequence, position, token, 0)
    return builder.build()


def plain():
    builder = BatchBuilder()
    builder.start_example(1)
    sequence = builder.add_sequence([5, 6, 7])
    builder.read(sequence, 2, 9, 0)
    builder.read(sequence, 2, 8, 1)
    builder.start_example(0)
    builder.read(builder.add_sequence([4]), 0, 3, 0)
    return builder.build()


def as_lists(arrays):
    return [array.tolist() for array in arrays]


def test_each_sequence_says_which_source_it_reads():
    batch = translation()
    assert as_lists(batch.sources) == [[11, 12, 2], [13, 2]]
    assert batch.source.tolist() == [0, 1, 0]
    assert as_lists(batch.sequences) == [[1, 21, 22], [1, 23], [1, 24]]
    assert batch.token.tolist() == [21, 22, 2, 23, 2, 24, 2]
    assert batch.position.tolist() == [0, 1, 2, 0, 1, 0, 1]
    assert (batch.examples, batch.entries, batch.tokens) == (3, 7, 7 + 5)


def test_a_batch_without_sources_is_what_it_was():
    batch = plain()
    assert (batch.sources, batch.source.shape, batch.source.dtype) == ((), (0,), np.int64)
    assert batch.tokens == 4
    # Computed before there were sources: fingerprints of problems must not change.
    assert batch.fingerprint() == "da391f7c6f229d2dd91880924f2dcd2cea4f9dae2ad4a246f23fefa777c1ac65"
    assert batch.take([1]).sources == ()


def test_the_fingerprint_covers_the_sources():
    def changed(sources, reads):
        builder = BatchBuilder()
        numbers = [builder.add_source(ids) for ids in sources]
        for source in reads:
            builder.start_example(0)
            builder.read(builder.add_sequence([1], None if source is None else numbers[source]), 0, 9, 0)
        return builder.build().fingerprint()

    found = {
        changed([[7, 2], [8, 2]], [0, 1]),
        changed([[7, 2], [8, 2]], [1, 0]),
        changed([[7, 2], [9, 2]], [0, 1]),
        changed([[7, 2, 8], [2]], [0, 1]),
        changed([], [None, None]),
    }
    assert len(found) == 5


@pytest.mark.parametrize("chosen", [[0, 1, 2], [2, 1], [1], [2, 0]])
def test_taking_examples_takes_their_sources(chosen):
    batch, taken = translation(), translation().take(chosen)
    for new, old in enumerate(chosen):
        assert taken.sequences[new].tolist() == batch.sequences[old].tolist()
        assert taken.sources[taken.source[new]].tolist() == batch.sources[batch.source[old]].tolist()
        assert taken.token[taken.example == new].tolist() == batch.token[batch.example == old].tolist()
    assert len(taken.sources) == len({batch.source[old] for old in chosen})
    assert taken.source.dtype == np.int64


@pytest.mark.parametrize("with_source", [0, 1])
def test_a_batch_where_only_some_sequences_have_a_source_is_refused(with_source):
    builder = BatchBuilder()
    builder.add_source([7, 2])
    builder.start_example(0)
    for source in [0] * with_source + [None]:
        builder.read(builder.add_sequence([1], source), 0, 9, 0)
    with pytest.raises(ValueError, match=f"{with_source + 1} sequences, but {with_source} of them have a source"):
        builder.build()
