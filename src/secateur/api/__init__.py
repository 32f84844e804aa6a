"""The Python API: `secateur.prune` on a model in memory or a name, and every stage by itself.

What is public is listed in `secateur.__all__`, and imported from there.
"""
