"""Prompt templates, and what is asked of a tokenizer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_problem.tasks.template import Template
from llm_problem.tasks.tokens import affixes, cut_text, encode_bare, encode_open

TEXT = "The lamp on the head was lit by a keeper who never slept, or so they said — café and all 🙂 that."


@pytest.mark.parametrize(
    ("template", "rendered", "ends"),
    [
        ("{text} It was", ("A It was", ""), True),
        ("{text} It was{label}", ("A It was", ""), True),
        ("{text} It was{label}.", ("A It was", "."), False),
        ("{label}: {text}", ("", ": A"), False),
        ("Say {{x}}: {text}", ("Say {x}: A", ""), True),
        ("{{label}}: {text}", ("{label}: A", ""), True),
    ],
)
def test_text_and_label_go_where_the_template_says(template, rendered, ends):
    assert Template(template).render("A") == rendered
    assert Template(template).ends_with_label is ends


@given(text=st.one_of(st.text(), st.sampled_from(["{text}", "{label}", "{0}", "{", "%s {text} {label}"])))
def test_braces_in_the_data_are_data(text):
    assert Template("<{text}> {label}!").render(text) == (f"<{text}> ", "!")


def test_other_names_are_columns_of_the_row():
    template = Template("{premise} Then: {text}{label} ({source})").of({"premise": "{text}", "source": "S", "more": ""})
    assert template.columns == ("premise", "source")
    assert template.render("A") == ("{text} Then: A", " (S)")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("It was", r"\{text\} exactly once, got 'It was'"),
        ("", "exactly once"),
        ("{text} {text}", "exactly once"),
        ("{ text }", "exactly once"),
        ("{text} {label} {label}", "at most once"),
        ("{text} {label", "braces that are meant are doubled"),
        ("{text} {} It was", "a column's name and nothing else"),
        ("{text} {x!r} It was", "a column's name and nothing else"),
    ],
)
def test_a_template_without_its_fields_is_refused(template, message):
    with pytest.raises(ValueError, match=message):
        Template(template)


def test_a_template_that_is_no_string_is_refused():
    with pytest.raises(TypeError, match="must be a string, got NoneType"):
        Template(None)


def test_affixes_are_the_special_tokens(tiny_gpt2, tiny_bert):
    assert affixes(tiny_gpt2.tokenizer) == ([], [])
    tokenizer = tiny_bert.tokenizer
    assert affixes(tokenizer) == ([tokenizer.cls_token_id], [tokenizer.sep_token_id])


def test_open_encoding_lacks_only_what_closes(tiny_gpt2, tiny_bert):
    for tokenizer in (tiny_gpt2.tokenizer, tiny_bert.tokenizer):
        for text in (TEXT, ""):
            before, after = affixes(tokenizer)
            assert encode_bare(tokenizer, text) == tokenizer(text, add_special_tokens=False)["input_ids"]
            assert encode_open(tokenizer, text) == before + encode_bare(tokenizer, text)
            assert encode_open(tokenizer, text) + after == tokenizer(text)["input_ids"]


@pytest.mark.parametrize("tokens", range(0, 90, 3))
def test_a_cut_text_is_a_beginning_that_ends_with_its_last_token(tiny_gpt2, tiny_bert, tokens):
    for tokenizer in (tiny_gpt2.tokenizer, tiny_bert.tokenizer):
        encoded = tokenizer(TEXT, add_special_tokens=False, return_offsets_mapping=True)
        cut = cut_text(tokenizer, TEXT, tokens)
        assert TEXT.startswith(cut)
        if tokens >= len(encoded["input_ids"]):
            assert cut == TEXT
        else:
            assert len(cut) == (encoded["offset_mapping"][tokens - 1][1] if tokens else 0)
