"""Language modelling: windows over contiguous parts of a text, nats per predicted token."""

import itertools
import math

import numpy as np
import pytest
import torch

import llm_problem as lp
from llm_problem.tasks import Data, LanguageModelling, TokenBatch

PROSE = Data.of("embedded:prose")


def batch_of(entries):
    zeros = np.zeros(entries, dtype=np.int64)
    return TokenBatch((np.arange(entries + 1),), zeros, np.arange(entries), zeros, zeros, zeros, np.zeros(1, dtype=int))


def test_loss_is_the_mean_over_predicted_tokens():
    log_probs = np.log([0.5, 0.25, 0.125, 0.25])
    scores = LanguageModelling(PROSE).scores(log_probs, batch_of(4))
    # (1 + 2 + 3 + 2) ln 2 / 4 = 2 ln 2, and e to that is 4.
    assert scores == pytest.approx({"loss": 2 * math.log(2), "perplexity": 4.0, "tokens": 4.0}, abs=1e-12)
    loss = LanguageModelling(PROSE).loss(torch.from_numpy(log_probs), batch_of(4))
    assert float(loss) == pytest.approx(2 * math.log(2), abs=1e-12)


def test_a_perplexity_beyond_all_numbers_is_infinite_without_a_warning():
    scores = LanguageModelling(PROSE).scores(np.array([-1e6]), batch_of(1))
    assert scores["loss"] == 1e6
    assert scores["perplexity"] == math.inf


@pytest.mark.parametrize("shares", [(0.6, 0.2, 0.2), (0.1, 0.1, 0.8), (1 / 3, 1 / 3, 1 / 3)])
def test_splits_are_contiguous_and_cut_between_words(shares):
    task = LanguageModelling(PROSE, shares=shares)
    whole = PROSE.text()
    parts = [task.text(split) for split in ("search", "dev", "test")]
    assert "".join(parts) == whole
    assert [len(part) / len(whole) for part in parts] == pytest.approx(shares, abs=0.005)
    assert parts[0][-1].isspace()
    assert parts[1][-1].isspace()


@pytest.mark.parametrize("window", [2, 7, 32])
def test_causal_windows_cover_each_target_once_with_the_tokens_before_it(tiny_gpt2, window):
    task = LanguageModelling(PROSE, window=window)
    ids = tiny_gpt2.tokenizer(task.text("dev"))["input_ids"]
    batch = task.batch(tiny_gpt2, "dev", 0)
    covered = (len(ids) - 1) // window * window
    assert batch.token.tolist() == ids[1 : covered + 1]
    assert np.concatenate(batch.sequences).tolist() == ids[:covered]
    assert {len(sequence) for sequence in batch.sequences} == {window}
    for e in range(batch.entries):
        assert batch.sequences[batch.sequence[e]][batch.position[e]] == ids[e]


def test_a_causal_loss_equals_transformers_own(tiny_gpt2):
    task = LanguageModelling(PROSE, window=24, search_size=6)
    problem = lp.Problem("tiny-gpt2", task, lp.subspaces.LoRAXS(2, layers=1))
    ids = tiny_gpt2.tokenizer(task.text("search"))["input_ids"]
    count = (len(ids) - 1) // 24
    losses = []
    for k in range(6):
        start = (k * count // 6) * 24
        window = torch.tensor([ids[start : start + 25]])
        with torch.inference_mode():
            losses.append(float(tiny_gpt2.model(input_ids=window, labels=window).loss))
    assert problem(problem.x0) == pytest.approx(np.mean(losses), abs=1e-5)


def test_masked_windows_hide_a_share_and_ask_for_it(tiny_bert):
    tokenizer = tiny_bert.tokenizer
    task = LanguageModelling(PROSE, window=32)
    ids = tokenizer(task.text("dev"), add_special_tokens=False, verbose=False)["input_ids"]
    batch = task.batch(tiny_bert, "dev", 0)
    shown, seen = [], set()
    for number, sequence in enumerate(batch.sequences):
        assert len(sequence) == 32
        assert (sequence[0], sequence[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
        entries = np.flatnonzero(batch.sequence == number)
        assert np.flatnonzero(sequence == tokenizer.mask_token_id).tolist() == batch.position[entries].tolist()
        assert len(entries) == round(0.15 * 30)
        seen.add(tuple(batch.position[entries]))
        filled = sequence.copy()
        filled[batch.position[entries]] = batch.token[entries]
        shown += filled[1:-1].tolist()
    assert shown == ids[: len(shown)]
    assert len(ids) - len(shown) < 30
    assert len(seen) > len(batch.sequences) / 2  # masks differ from window to window


def test_masks_do_not_move_with_seed_or_size(tiny_bert):
    every = LanguageModelling(PROSE, window=32).batch(tiny_bert, "search", 0)
    some = LanguageModelling(PROSE, window=32, search_size=5).batch(tiny_bert, "search", 3)
    known = {tuple(sequence) for sequence in every.sequences}
    assert {tuple(sequence) for sequence in some.sequences} < known


@pytest.mark.parametrize("name", ["tiny_gpt2", "tiny_bert"])
def test_windows_are_spread_or_drawn_by_the_seed(name, request):
    model = request.getfixturevalue(name)
    task = LanguageModelling(PROSE, window=32, search_size=8, test_size=4)
    every = [tuple(s) for s in LanguageModelling(PROSE, window=32).batch(model, "search", 0).sequences]
    seeds = (0, 0, 1, 1, *range(2, 40))
    numbers = [[every.index(tuple(s)) for s in task.batch(model, "search", seed).sequences] for seed in seeds]
    assert numbers[0] == numbers[1] == [k * len(every) // 8 for k in range(8)]
    assert numbers[2] == numbers[3] == sorted(set(numbers[2]))
    # No two seeds share more windows than chance has it, and they cover the text.
    drawn = [set(chosen) for chosen in numbers[3:]]
    assert all(len(chosen) == 8 for chosen in drawn)
    assert max(len(a & b) for a, b in itertools.combinations(drawn, 2)) <= 3
    assert len(set.union(*drawn)) > len(every) / 2
    held_out = [task.batch(model, "test", seed).fingerprint() for seed in (0, 1)]
    assert held_out[0] == held_out[1]


def test_a_file_and_a_string_give_the_same_windows(tiny_gpt2, tmp_path):
    text = PROSE.text()
    path = tmp_path / "prose.txt"
    path.write_text("\ufeff" + text, encoding="utf-8")  # a byte order mark is not part of the text
    fingerprints = {
        task.batch(tiny_gpt2, "test", 0).fingerprint()
        for task in (
            LanguageModelling(PROSE),
            LanguageModelling.from_string(text),
            LanguageModelling.from_text(path),
            LanguageModelling(path),
        )
    }
    assert len(fingerprints) == 1


def test_a_text_without_a_whole_window_is_refused(tiny_gpt2):
    task = LanguageModelling.from_string("one two three four five six seven eight")
    with pytest.raises(ValueError, match=r"the search part of inline has \d+ tokens, less than one window of 64"):
        task.batch(tiny_gpt2, "search", 0)


@pytest.mark.parametrize("name", ["tiny_gpt2", "tiny_bert"])
def test_a_window_longer_than_the_context_is_refused(name, request):
    model = request.getfixturevalue(name)
    longest = model.max_length
    assert len(LanguageModelling(PROSE, window=longest).batch(model, "test", 0).sequences[0]) == longest
    message = rf"window {longest + 1} is longer than the model's context of {longest} tokens"
    with pytest.raises(ValueError, match=message):
        LanguageModelling(PROSE, window=longest + 1).batch(model, "test", 0)


def test_a_masked_window_needs_room_beside_the_special_tokens(tiny_bert):
    with pytest.raises(ValueError, match="window 2 has no room for text"):
        LanguageModelling(PROSE, window=2).batch(tiny_bert, "test", 0)


@pytest.mark.parametrize("text", ["", "   \n", "word"])
def test_a_text_with_an_empty_part_is_refused(text):
    with pytest.raises(ValueError, match=rf"part of inline is empty: the text has {len(text)} characters"):
        LanguageModelling.from_string(text)  # at once, not when dev is read


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 1}, "window must be an integer of at least 2 tokens, got 1"),
        ({"window": 8.0}, "got 8.0"),
        ({"search_size": 0}, "search_size must be"),
        ({"shares": (0.5, 0.5)}, "three positive numbers that sum to 1"),
        ({"shares": (0.8, 0.2, 0.0)}, "three positive numbers"),
        ({"shares": (0.5, 0.5, 0.5)}, "three positive numbers"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LanguageModelling(PROSE, **options)


@pytest.mark.parametrize("records", [[{"text": "a"}, {"text": "b"}], [{"txt": "a"}]])
def test_records_other_than_one_text_are_refused(records):
    with pytest.raises(ValueError, match="one text: a file, or a single record"):
        LanguageModelling(Data.of(records))


def test_a_file_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("café ".encode("latin-1") * 100)
    with pytest.raises(ValueError, match=r"latin\.txt is not UTF-8"):
        LanguageModelling.from_text(path)
