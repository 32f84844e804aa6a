"""Secateur makes large language models smaller.

A small number of pruned architectures of the user's own model is measured; an accuracy predictor learned from them
decides how much of every layer goes under the budget. `secateur.pipeline.run_pipeline` is the whole of it,
`secateur prune` the same from a terminal. Once `import secateur` is done, transformers loads exported models whose
layers differ without `trust_remote_code=True`.
"""

from secateur.export.registration import register_with_transformers

register_with_transformers()
