"""The training of the bundled models: its text, its baselines, its determinism, and what it claims."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from llm_problem.models import training
from llm_problem.models.training import corpus as texts
from llm_problem.models.training.baselines import KneserNeyBigram, NeighbourModel
from llm_problem.models.training.evaluation import score, single_masks
from llm_problem.models.training.folder import MOST_BYTES, folder_bytes
from llm_problem.models.training.loop import train
from llm_problem.models.training.recipes import RECIPES
from llm_problem.models.training.tokenisers import train_tokeniser
from llm_problem.models.training.tokens import masked, stream_of, streams_of
from llm_problem.models.training.train_tiny import load, main

BUNDLED = Path(training.__file__).parents[1] / "bundled"
FOLDERS = {"gpt2": BUNDLED / "tiny-gpt2", "bert": BUNDLED / "tiny-bert"}


@pytest.fixture(scope="module")
def corpus():
    return texts.gather()


@pytest.fixture(scope="module")
def bundled(corpus):
    """Model, tokeniser and streams of each family, from the folders in the package."""
    from transformers import AutoTokenizer

    found = {}
    for family, folder in FOLDERS.items():
        tokeniser = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        found[family] = load(family, folder), tokeniser, streams_of(corpus, family, tokeniser)
    return found


@pytest.fixture
def torch_as_it_was():
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture
def small_library(tmp_path):
    """A folder that looks like a standard library, with one module in each part."""
    assert [texts.part_of(name) for name in ("json", "urllib", "asyncio")] == ["dev", "heldout", "train"]
    for name in ("json", "urllib", "asyncio"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(
            f'"""The {name} package does something of its own.\n\n  Shared by all of these modules.\n"""\n'
            "raise ImportError('must not be imported')\n"
            "def nothing():\n    r'''Returns a value.\n\n    >>> nothing() is the same as this\n    '''\n"
        )
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "test_json.py").write_text('"""Tests are not to be read at all."""\n')
    (tmp_path / "broken.py").write_text('"""This cannot be parsed by Python."""\ndef (:\n')
    return tmp_path


def test_gathering_cleans_splits_and_keeps_a_paragraph_once(small_library):
    gathered = texts.gather(small_library)
    shared = "\nShared by all of these modules."
    assert gathered.texts("train") == ["The asyncio package does something of its own." + shared]
    assert gathered.texts("dev") == ["The json package does something of its own."]
    assert gathered.texts("heldout") == ["The urllib package does something of its own."]


def test_gathering_says_when_there_is_no_text(tmp_path):
    with pytest.raises(RuntimeError, match="without its sources"):
        texts.gather(tmp_path)


def test_corpus_is_deterministic(small_library, corpus):
    assert texts.gather(small_library) == texts.gather(small_library)
    assert texts.source_files(texts.stdlib_root()) == texts.source_files(texts.stdlib_root())
    assert sum(map(len, corpus.texts("train"))) > 500_000


def test_held_out_modules_share_nothing_with_training(corpus):
    modules = [set(corpus.modules(part)) for part in texts.PARTS]
    lines = [[line for text in corpus.texts(part) for line in text.split("\n")] for part in texts.PARTS]
    for parts in (modules, [{texts.paragraph_key(line) for line in part} for part in lines]):
        assert parts[0].isdisjoint(parts[1])
        assert parts[2].isdisjoint(parts[0] | parts[1])
    share = len(modules[2]) / sum(map(len, modules))
    assert 0.05 < share < 0.2


def test_a_module_and_its_accelerated_twin_are_in_the_same_part():
    assert texts.part_of("_pyio") == texts.part_of("io") == texts.part_of("_io")


@pytest.fixture(scope="module")
def small_streams():
    generator = np.random.default_rng(0)
    chain = np.cumsum(generator.integers(0, 4, size=3000)) % 40
    return chain[:2500], chain[2500:]


def test_kneser_ney_sums_to_one(small_streams, bundled):
    _, tokeniser, streams = bundled["gpt2"]
    for model in (
        KneserNeyBigram.fit(*small_streams, 50),  # has tokens that never occur
        KneserNeyBigram.fit(streams.train[:100_000], streams.dev[:5000], len(tokeniser)),
    ):
        assert (model.table > 0).all()
        np.testing.assert_allclose(model.table.sum(axis=1), 1, atol=1e-9)


def test_neighbour_model_sums_to_one(small_streams):
    model = NeighbourModel.fit(*small_streams, 50)
    left, right = np.array([0, 3, 49, 10]), np.array([2, 3, 49, 9])
    found = model.probabilities(left, right)
    assert (found > 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    targets = np.array([1, 3, 5, 7])
    np.testing.assert_allclose(model.nats(left, targets, right), -np.log(found[np.arange(4), targets]))


def test_neighbour_model_uses_both_neighbours(small_streams):
    train_ids, dev = small_streams
    after = KneserNeyBigram.fit(train_ids, dev, 50).nats(dev[:-2], dev[1:-1]).mean()
    between = NeighbourModel.fit(train_ids, dev, 50).nats(dev[:-2], dev[1:-1], dev[2:]).mean()
    assert between < after - 0.2


def test_masks_for_training_leave_special_tokens_alone(bundled):
    _, tokeniser, streams = bundled["bert"]
    rows = streams.dev[:4096].reshape(32, 128)
    inputs, labels = masked(rows, tokeniser, np.random.default_rng(3))
    chosen = labels >= 0
    assert 0.12 < chosen.mean() < 0.18
    assert not np.isin(rows[chosen], tokeniser.all_special_ids).any()
    assert (inputs[~chosen] == rows[~chosen]).all()
    assert 0.7 < (inputs[chosen] == tokeniser.mask_token_id).mean() < 0.9


def test_a_mask_stands_for_a_word_and_the_space_before_it(bundled):
    _, tokeniser, _ = bundled["bert"]
    found = tokeniser.convert_ids_to_tokens(tokeniser("the [MASK] of")["input_ids"])
    assert found == ["[CLS]", "Ġthe", "[MASK]", "Ġof", "[SEP]"]


def test_held_out_masks_are_single_and_their_neighbours_visible(bundled):
    _, tokeniser, streams = bundled["bert"]
    masks = single_masks(streams.heldout, tokeniser, 128, most_windows=5)
    rows = np.arange(len(masks.inputs))
    assert ((masks.inputs == tokeniser.mask_token_id).sum(axis=1) == 1).all()
    assert (masks.inputs[rows, masks.places] == tokeniser.mask_token_id).all()
    assert (masks.inputs[rows, masks.places - 1] == masks.left).all()
    assert (masks.inputs[rows, masks.places + 1] == masks.right).all()


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_training_twice_gives_the_same_bytes(family, corpus, tmp_path, torch_as_it_was):
    some = texts.Corpus(corpus.train[:400], corpus.dev[:60], corpus.heldout[:60])
    recipe = replace(RECIPES[family].shortened(5), vocabulary=300, batch=4, length=64)
    sums = []
    for name in ("first", "second"):
        tokeniser = train_tokeniser(family, some.texts("train"), recipe.vocabulary, recipe.length)
        model = train(recipe, tokeniser, streams_of(some, family, tokeniser))
        model.save_pretrained(tmp_path / name)
        tokeniser.save_pretrained(tmp_path / name)
        files = (tmp_path / name / "model.safetensors", tmp_path / name / "tokenizer.json")
        sums.append([hashlib.sha256(file.read_bytes()).hexdigest() for file in files])
    assert sums[0] == sums[1]


def test_command_refuses_an_existing_folder(tmp_path):
    with pytest.raises(FileExistsError):
        main(["--family", "gpt2", "--out", str(tmp_path)])


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_bundled_folder_is_small_and_complete(family, bundled):
    folder = FOLDERS[family]
    assert folder_bytes(folder) <= MOST_BYTES
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".md", ".safetensors"}
    model, tokeniser, _ = bundled[family]
    assert model.dtype == torch.float32
    assert model.config.vocab_size == len(tokeniser)
    text = "returns the number of bytes written. été"
    ids = tokeniser(text)["input_ids"]
    assert tokeniser.decode(ids, skip_special_tokens=True).strip() == text
    assert (ids[0], ids[-1]) == (tokeniser.cls_token_id, tokeniser.sep_token_id) or family == "gpt2"


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_bundled_model_has_no_dropout(family, bundled):
    model, tokeniser, _ = bundled[family]
    ids = torch.tensor([tokeniser("open the file and read it")["input_ids"]])
    with torch.inference_mode():
        model.train()  # dropout is zero in the saved configuration
        first, second = (model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits for _ in range(2))
        model.eval()
    assert torch.equal(first, second)


@pytest.mark.parametrize(("family", "least"), [("gpt2", 0.3), ("bert", 0.3)])
def test_bundled_model_beats_its_baseline_on_held_out_modules(family, least, bundled):
    model, tokeniser, streams = bundled[family]
    found = score(family, model, tokeniser, streams, RECIPES[family].length, most_windows=60)
    assert found.gain >= least, found
    assert found.gain > 3 * found.error, found


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_card_states_the_claim(family):
    card = (FOLDERS[family] / "README.md").read_text(encoding="utf-8")
    for word in ("Held-out modules", "nats per token", "difference", "standard error", "train_tiny", "MIT"):
        assert word in card


def test_a_stream_separates_documents(bundled):
    _, tokeniser, _ = bundled["gpt2"]
    stream = stream_of(["one", "two"], "gpt2", tokeniser)
    assert (stream == tokeniser.eos_token_id).sum() == 3
    assert stream[0] == stream[-1] == tokeniser.eos_token_id
