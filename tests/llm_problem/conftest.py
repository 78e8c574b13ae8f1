"""Small randomly initialised models of every family, with a tokenizer of single bytes."""

import copy

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    PreTrainedTokenizerFast,
)

import llm_problem as lp
from llm_problem.evaluation import replay
from llm_problem.models import load_model

SPECIALS = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
ROTARY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
ENCODER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "pad_token_id": 1,
}
T5 = {
    "d_model": 32,
    "d_kv": 6,
    "d_ff": 48,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "dropout_rate": 0.0,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
SETTINGS = {
    "llama": ROTARY,
    "mistral": {**ROTARY, "sliding_window": None, "head_dim": 8},
    "qwen2": ROTARY,
    "qwen3": {**ROTARY, "head_dim": 8},
    "smollm3": {**ROTARY, "pad_token_id": 1},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64},
    "gpt_neox": {**ROTARY, "rotary_pct": 0.5},
    "opt": {
        "hidden_size": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "word_embed_proj_dim": 32,
        "pad_token_id": 1,
    },
    "bert": {**ENCODER, "max_position_embeddings": 64},
    "roberta": {**ENCODER, "max_position_embeddings": 66},
    "bloom": {"hidden_size": 32, "n_layer": 3, "n_head": 4},
    "t5": T5,
    "mt5": {**T5, "feed_forward_proj": "gated-gelu"},
    "marian": {
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 3,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "max_position_embeddings": 64,
        "dropout": 0.0,
        "scale_embedding": True,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "forced_eos_token_id": 2,
        "decoder_start_token_id": 1,
    },
}
GATED_T5 = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}  # T5 1.1: its head is not scaled
SENTENCES = [
    ("a fine day out", "good"),
    ("what a dull and needlessly long speech", "bad"),
    ("warm", "good"),
    ("nothing in it works", "bad"),
    ("they sang all night and we loved it", "good"),
    ("stale bread", "bad"),
]


def _bytes_as_tokens(closing):
    vocabulary = [*SPECIALS.values(), *sorted(pre_tokenizers.ByteLevel.alphabet())]
    core = Tokenizer(models.BPE(vocab={token: k for k, token in enumerate(vocabulary)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    if closing:
        core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=64, **SPECIALS)


@pytest.fixture(scope="session")
def byte_tokenizer():
    return _bytes_as_tokens(closing=False)


@pytest.fixture(scope="session")
def closing_tokenizer():
    """Ends what it encodes with </s>, as T5's and Marian's do."""
    return _bytes_as_tokens(closing=True)


@pytest.fixture(scope="session")
def small_pair(byte_tokenizer, closing_tokenizer):
    """A function: family and changes of its settings → a new (model, tokenizer) with weights that differ visibly."""
    made = {}

    def make(family, dtype=torch.float32, **changes):
        key = family, dtype, repr(changes)
        if key not in made:
            made[key] = build(family, dtype, **changes)
        model, tokenizer = made[key]
        return copy.deepcopy(model), tokenizer

    def build(family, dtype, **changes):
        config = AutoConfig.for_model(family, vocab_size=len(byte_tokenizer), **{**SETTINGS[family], **changes})
        masked = family in ("bert", "roberta") and not config.is_decoder
        if config.is_encoder_decoder:
            auto, tokenizer = AutoModelForSeq2SeqLM, closing_tokenizer
        else:
            auto, tokenizer = AutoModelForMaskedLM if masked else AutoModelForCausalLM, byte_tokenizer
        model = auto.from_config(config)
        positions = set(model._keys_to_ignore_on_save or ())  # Marian's are computed
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for name, parameter in model.named_parameters():  # as they start, masks and positions would hardly matter
                if name not in positions:
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter.copy_(0.25 * noise if parameter.ndim > 1 else parameter + 0.1 * noise)
        return model.to(dtype), tokenizer

    return make


@pytest.fixture(scope="session")
def small_model(small_pair):
    """The same, as a new LoadedModel."""
    return lambda family, **changes: load_model(small_pair(family, **changes))


@pytest.fixture(scope="session")
def label_task():
    """Two classes; as bytes, their words are of several tokens and of different lengths."""
    return lp.tasks.Classification.from_records(
        [{"text": text, "label": label, "split": split} for split in ("search", "dev") for text, label in SENTENCES]
        + [{"text": text.upper(), "label": label, "split": "test"} for text, label in SENTENCES],
        text="text",
        label="label",
        prompt="{text} is {label}",
        labels={"bad": " bad", "good": " good"},
        split="split",
    )


@pytest.fixture(scope="session")
def word_task():
    """Two classes whose words are single tokens, read at one place of each sentence."""
    rows = [{"text": text, "label": label} for text, label in SENTENCES]
    labels = {"bad": "b", "good": "g"}
    return lp.tasks.Classification.from_records(
        rows, text="text", label="label", prompt="{text} is {label}", labels=labels, dev=rows, test=rows
    )


@pytest.fixture(scope="session")
def text_task():
    """Four windows of twelve tokens."""
    return lp.tasks.LanguageModelling.from_string(
        "the first of many plain words that stand in a row so that there is something to read here, and then a few "
        "more of them for the two parts that are held out, until it ends.",
        window=12,
        search_size=4,
        dev_size=2,
        test_size=2,
    )


@pytest.fixture
def narrow_chunks(monkeypatch):
    """At most four candidates run together, for tests of a few candidates that compare to a tolerance.

    Before its first values an evaluator tries every place of a chunk, which with the width that users get takes most of
    such a test. Bits that do not depend on the population are promised for that width (see test_population.py).
    """
    monkeypatch.setattr(replay, "WIDEST", 4)


@pytest.fixture
def model_state():
    """A function: model → all that evaluating must leave as it was, comparable with ==."""

    def state(model):
        tensors = {name: (t.data_ptr(), t.detach().numpy().tobytes()) for name, t in model.state_dict().items()}
        forwards = {name for name, module in model.named_modules() if "forward" in vars(module)}
        hooks = {name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in model.named_modules()}
        attention = {name: m.config._attn_implementation for name, m in model.named_modules() if hasattr(m, "config")}
        return tensors, forwards, hooks, attention

    return state


@pytest.fixture
def points():
    """A function: (n, d) → n fixed points ~ N(0, I), the first of them 0."""

    def draw(n, dimension, seed=0):
        X = np.random.default_rng(seed).standard_normal((n, dimension))
        X[0] = 0
        return X

    return draw


@pytest.fixture
def check_gradients():
    """A function: model, task and subspace → nothing, where the fast evaluator's gradients are the serial one's."""

    def check(loaded, task, subspace):
        problems = [lp.Problem(loaded, task, subspace, evaluator=e) for e in ("replay", "serial")]
        assert problems[0].evaluator.name == "replay"
        x = np.random.default_rng(0).standard_normal(problems[0].dimension)
        for _ in range(2):  # the second time from what the first one kept
            (loss, gradient), (expected, reference) = (problem.value_and_grad(x) for problem in problems)
            assert loss == pytest.approx(expected, abs=1e-5)
            np.testing.assert_allclose(gradient, reference, rtol=1e-3, atol=1e-5 * np.abs(reference).max())
            x = -x

    return check
