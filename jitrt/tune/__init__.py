"""Choosing a tactic for every problem: candidates are compiled in parallel, verified, and timed on the GPU at hand."""
