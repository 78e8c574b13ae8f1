"""How the bundled tiny models were made; `python -m llm_problem.models.training.train_tiny` remakes them.

`corpus` gathers the text, `tokenisers` and `tokens` turn it into tokens, `recipes` holds every setting,
`bert_start` the weights BERT starts from, `loop` trains, `baselines` and `evaluation` judge the result, and
`folder` and `card` write it.
"""
