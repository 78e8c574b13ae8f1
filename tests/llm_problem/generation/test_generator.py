"""Texts against those of stock `model.generate`, one unpadded prompt at a time."""

import numpy as np
import pytest
import torch

import llm_problem as lp
from llm_problem.evaluation import SerialEvaluator
from llm_problem.generation import Decoding, generator
from llm_problem.generation.generator import TextGenerator
from llm_problem.models.families import ENCODER_DECODERS, FAMILIES
from llm_problem.tasks.batch import BatchBuilder
from tests.llm_problem.covering import covering
from tests.llm_problem.subspace_examples import EXAMPLES, example

WRITING = [family for family in (*FAMILIES, *ENCODER_DECODERS) if family not in ("bert", "roberta")]
PROMPTS = [
    "the cat sat on a",
    "the cat",
    "the cat ate, and then it slept all day",
    "the cats",
    "the dog",
    "the cat sat",
]
TOKENS = 12
LAST = lp.subspaces.LoRAXS(2, layers=1)


def batch_of(loaded, prompts, front=()):
    """Prompts as a batch; its entries only say where a prompt ends."""
    builder = BatchBuilder()
    for text in prompts:
        ids = list(loaded.tokenizer(text)["input_ids"])
        builder.start_example(0)
        if loaded.kind == "seq2seq":
            sequence = builder.add_sequence([loaded.decoder_start], builder.add_source(ids))
            builder.read(sequence, 0, 0, 0)
        else:
            builder.read(builder.add_sequence(ids), len(ids) - 1, 0, 0)
    batch = builder.build()
    return batch.prompted(front) if front else batch


def stock_texts(evaluator, x, batch, tokens=TOKENS):
    """(tokens, gaps between the two largest logits at each of them) prompt by prompt, by transformers alone."""
    model, found = evaluator.model.model, []
    for ids in batch.sources or batch.sequences:
        given = torch.tensor(ids)[None]
        with torch.inference_mode(), evaluator.changed(x):
            if evaluator.subspace.prompt and not batch.sources:
                written, logits = whole_sequences(model, given, tokens)
            else:
                options = {"attention_mask": torch.ones_like(given), "max_new_tokens": tokens, "do_sample": False}
                if (
                    batch.sources
                ):  # the cache that `generate` makes takes the encoder's number of layers for T5's decoder
                    options["use_cache"] = False
                out = model.generate(given, return_dict_in_generate=True, output_scores=True, pad_token_id=1, **options)
                written, logits = out.sequences[0, -len(out.scores) :].tolist(), [step[0] for step in out.scores]
        found.append((written, [float(-torch.diff(step.topk(2).values)) for step in logits]))
    return found


def whole_sequences(model, ids, tokens):
    """The same for a moved prompt, which `generate` would not read again: every pass starts at the first token."""
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    written, logits = [], []
    while len(written) < tokens and not (written and written[-1] in ends):
        logits.append(model(input_ids=torch.cat([ids, torch.tensor([written], dtype=torch.long)], 1)).logits[0, -1])
        written.append(int(logits[-1].argmax()))
    return written, logits


def require_equal(found, expected):
    """Token for token, up to a tie of less than 1e-4."""
    assert len(found) == len(expected)
    for text, (tokens, gaps) in zip(found, expected, strict=True):
        if text.tokens != tuple(tokens):
            first = next((k for k, (a, b) in enumerate(zip(text.tokens, tokens, strict=False)) if a != b), -1)
            assert first >= 0 and gaps[first] < 1e-4, (text.tokens, tokens, gaps)


def make(loaded, subspace):
    """(evaluator, generator) of a subspace, given by its kind or described."""
    described = example(subspace, loaded) if isinstance(subspace, str) else subspace
    evaluator = SerialEvaluator(loaded, described.bind(loaded, seed=0))
    return evaluator, TextGenerator(evaluator)


PAIRS = [
    (family, kind)
    for family, kind in covering(WRITING, EXAMPLES, each=1)
    if not (kind == "prefix" and family in ENCODER_DECODERS)
]


@pytest.mark.parametrize(("family", "kind"), PAIRS)
def test_texts_are_those_of_stock_generate(family, kind, small_model):
    loaded = small_model(family)
    evaluator, writer = make(loaded, kind)
    batch = batch_of(loaded, PROMPTS, evaluator.subspace.prompt)
    X = 3 * np.random.default_rng(1).standard_normal((2, evaluator.subspace.dimension))
    for x in (X[:1], X[1:]):  # what was kept of the prompts serves the second
        require_equal(writer.texts(x, batch, Decoding(TOKENS)), stock_texts(evaluator, x, batch))


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("llama", "prefix"),
        ("gpt2", "soft-prompt"),
        ("opt", LAST),
        ("bloom", lp.subspaces.NormsAndBiases(layers=1)),
        ("t5", LAST),
        ("marian", "soft-prompt"),
    ],
)
def test_finished_texts_leave_the_others_as_they_are(family, kind, small_model):
    loaded = small_model(family)
    evaluator, writer = make(loaded, kind)
    batch = batch_of(loaded, PROMPTS, evaluator.subspace.prompt)
    x = np.random.default_rng(2).standard_normal((1, evaluator.subspace.dimension))
    whole = writer.texts(x, batch, Decoding(TOKENS))
    loaded.model.generation_config.eos_token_id = [whole[0].tokens[3], whole[1].tokens[7]]
    found = writer.texts(x, batch, Decoding(TOKENS))
    require_equal(found, stock_texts(evaluator, x, batch))
    assert len({len(text.tokens) for text in found}) > 1


@pytest.mark.parametrize("family", ["mistral", "gpt_neox"])
def test_windows_of_attention_count_real_tokens(family, small_model):
    options = {"sliding_window": 6} if family == "mistral" else {}
    loaded = small_model(family, **options)
    evaluator, writer = make(loaded, LAST)
    batch = batch_of(loaded, PROMPTS)
    x = np.ones((1, evaluator.subspace.dimension))
    require_equal(writer.texts(x, batch, Decoding(TOKENS)), stock_texts(evaluator, x, batch))


def test_bundled_model_against_stock_generate(tiny_gpt2):
    evaluator, writer = make(tiny_gpt2, LAST)
    batch = batch_of(tiny_gpt2, [*PROMPTS, "One day the old man said that he was"])
    x = np.random.default_rng(0).standard_normal((1, evaluator.subspace.dimension))
    found = writer.texts(x, batch, Decoding(30))
    require_equal(found, stock_texts(evaluator, x, batch, 30))
    decoded = [tiny_gpt2.tokenizer.decode(text.tokens, skip_special_tokens=True) for text in found]
    assert [text.text for text in found] == decoded


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_the_company_of_a_prompt_does_not_matter(family, small_model, monkeypatch):
    loaded = small_model(family)
    evaluator, writer = make(loaded, LAST)
    x = np.full((1, evaluator.subspace.dimension), 0.5)
    for decoding in (Decoding(TOKENS), Decoding(TOKENS, temperature=0.8, top_p=0.9, seed=3)):
        whole = writer.texts(x, batch_of(loaded, PROMPTS), decoding)
        alone = [writer.texts(x, batch_of(loaded, [text]), decoding)[0] for text in PROMPTS]
        assert alone == whole
        with monkeypatch.context() as patch:
            patch.setattr(generator, "ROWS", 2)
            assert writer.texts(x, batch_of(loaded, PROMPTS), decoding) == whole


def test_another_seed_and_another_prompt_draw_other_texts(small_model):
    loaded = small_model("gpt2")
    evaluator, writer = make(loaded, LAST)
    x, batch = np.zeros((1, evaluator.subspace.dimension)), batch_of(loaded, ["the cat", "the cat", "the dog"])
    drawn = [writer.texts(x, batch, Decoding(20, temperature=1.5, seed=seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0][0] == drawn[0][1] != drawn[0][2]


def test_a_stop_string_cuts_the_text_of_stock_generate(tiny_gpt2):
    evaluator, writer = make(tiny_gpt2, LAST)
    x, batch = np.zeros((1, evaluator.subspace.dimension)), batch_of(tiny_gpt2, PROMPTS)
    whole = writer.texts(x, batch, Decoding(30))
    stops = (whole[0].text[5:8], ".", "\N{SNOWMAN}")  # one across tokens, one that is frequent, one that never comes
    for text, cut in zip(whole, writer.texts(x, batch, Decoding(30, stop=stops)), strict=True):
        places = [text.text.find(stop) for stop in stops if stop in text.text]
        assert cut.text == (text.text[: min(places)] if places else text.text)
        assert len(cut.tokens) <= len(text.tokens)
        if places:
            assert not any(stop in tiny_gpt2.tokenizer.decode(cut.tokens[:-1]) for stop in stops)


def test_a_special_token_may_be_a_stop(small_model):
    loaded = small_model("llama")
    evaluator, writer = make(loaded, LAST)
    x, batch = np.zeros((1, evaluator.subspace.dimension)), batch_of(loaded, PROMPTS)
    loaded.model.generation_config.eos_token_id = None
    with torch.no_grad():
        loaded.model.lm_head.weight[4] += 4 * loaded.model.lm_head.weight[30]  # <mask> is written now and then
    whole = writer.texts(x, batch, Decoding(TOKENS))
    assert any(4 in text.tokens for text in whole)
    for text, cut in zip(whole, writer.texts(x, batch, Decoding(TOKENS, stop=("<mask>",))), strict=True):
        end = text.tokens.index(4) + 1 if 4 in text.tokens else TOKENS
        assert cut.tokens == text.tokens[:end]


def test_prompts_are_read_once_for_all_candidates_below_the_moved_layers(small_model):
    loaded = small_model("llama")
    evaluator, writer = make(loaded, LAST)
    batch = batch_of(loaded, PROMPTS)
    counts = [0, 0]
    for k, layer in enumerate((loaded.model.model.layers[0], loaded.model.model.layers[-1])):
        layer.mlp.register_forward_hook(lambda *args, k=k: counts.__setitem__(k, counts[k] + 1))
    X = np.random.default_rng(0).standard_normal((2, evaluator.subspace.dimension))
    writer.texts(X[:1], batch, Decoding(1))
    assert counts[0] == counts[1] > 0
    writer.texts(X[1:], batch, Decoding(1))
    assert counts[1] == 2 * counts[0]
    nothing_kept = TextGenerator(evaluator, memory=0)
    assert nothing_kept.texts(X[1:], batch, Decoding(TOKENS)) == writer.texts(X[1:], batch, Decoding(TOKENS))
    with torch.no_grad():  # somebody else writes to the weights
        loaded.model.model.layers[0].mlp.up_proj.weight.mul_(1.5)
    require_equal(writer.texts(X[1:], batch, Decoding(TOKENS)), stock_texts(evaluator, X[1:], batch))


def test_the_context_ends_a_text_and_a_prompt_that_fills_it_is_refused(small_model):
    loaded = small_model("gpt2")  # 64 tokens
    evaluator, writer = make(loaded, LAST)
    x = np.zeros((1, evaluator.subspace.dimension))
    texts = writer.texts(x, batch_of(loaded, ["a" * 60, "a"]), Decoding(20))
    assert [len(text.tokens) for text in texts] == [5, 20]
    with pytest.raises(ValueError, match=r"prompt of example 2 has 65 tokens, and the model's context is 64"):
        writer.texts(x, batch_of(loaded, ["a", "a" * 65]), Decoding(20))


def test_a_broken_model_writes_nothing_and_weights_come_back(small_model, model_state):
    loaded = small_model("llama")
    evaluator, writer = make(loaded, LAST)
    before = model_state(loaded.model)
    assert (
        writer.texts(np.full((1, evaluator.subspace.dimension), 1e200), batch_of(loaded, PROMPTS), Decoding(4)) is None
    )
    assert model_state(loaded.model) == before


def test_encoder_only_models_are_refused(tiny_bert):
    with pytest.raises(ValueError, match="tiny-bert is an encoder-only model, which writes no text"):
        make(tiny_bert, LAST)


def test_what_a_checkpoint_bans_and_forces_is_followed(small_model):
    loaded = small_model("marian")
    evaluator, writer = make(loaded, LAST)
    batch, x = batch_of(loaded, PROMPTS), np.zeros((1, evaluator.subspace.dimension))
    plain = writer.texts(x, batch, Decoding(TOKENS))
    assert all(text.tokens[-1] == 2 for text in plain)  # forced_eos_token_id
    settings = loaded.model.generation_config
    settings.bad_words_ids = [[plain[0].tokens[0]], [5, 6]]
    settings.begin_suppress_tokens, settings.suppress_tokens = [plain[1].tokens[0]], [plain[2].tokens[1]]
    settings.forced_bos_token_id = 40
    found = writer.texts(x, batch, Decoding(TOKENS))
    assert {text.tokens[0] for text in found} == {40}
    settings.forced_bos_token_id = None
    found = writer.texts(x, batch, Decoding(TOKENS))
    assert found != plain
    require_equal(found, stock_texts(evaluator, x, batch))
