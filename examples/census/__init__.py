"""The census of the Python standard library: an organism on real input.

`python -m examples.census` runs it. `organism.yaml` says who is there; `director.py` is where
the conversation is steered; the other handlers each do one thing.
"""
