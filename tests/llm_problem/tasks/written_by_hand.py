"""The loss of references, and greedy texts, by transformers alone: what tests of generative tasks compare with."""

import torch


def end_of(model):
    ends = model.generation_config.eos_token_id
    return [] if ends is None else [ends]


@torch.no_grad()
def loss_by_hand(loaded, examples, before=" ", after="\n"):
    """Nats per token of (prompt, reference) pairs; `after` ends a reference where a causal model reads it."""
    model, tokenizer, total, count = loaded.model, loaded.tokenizer, 0.0, 0
    for prompt, reference in examples:
        if model.config.is_encoder_decoder:
            source = tokenizer(prompt, return_tensors="pt")["input_ids"]
            target = tokenizer(text_target=reference, add_special_tokens=False)["input_ids"] + end_of(model)
            out = model(input_ids=source, labels=torch.tensor([target]))
            total, count = total + float(out.loss) * len(target), count + len(target)
        else:
            start = len(tokenizer(prompt)["input_ids"])
            ids = torch.tensor([tokenizer(prompt + before + reference + after)["input_ids"]])
            labels = ids.clone()
            labels[:, :start] = -100
            tokens = ids.shape[1] - start
            total, count = total + float(model(input_ids=ids, labels=labels).loss) * tokens, count + tokens
    return total / count


@torch.no_grad()
def texts_by_hand(loaded, prompts, tokens, stop="\n"):
    """What stock `generate` writes after each prompt, up to the stop string."""
    found = []
    for prompt in prompts:
        ids = loaded.tokenizer(prompt, return_tensors="pt")["input_ids"]
        options = {"use_cache": False} if loaded.kind == "seq2seq" else {"pad_token_id": 1}
        out = loaded.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, **options
        )
        out = out[0, 1:] if loaded.kind == "seq2seq" else out[0, ids.shape[1] :]
        found.append(loaded.tokenizer.decode(out, skip_special_tokens=True).split(stop)[0])
    return found
