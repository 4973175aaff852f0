"""Strategies and targets of your own: a function here is `sampler.strategy: mine.NAME` or `targets.name: mine.NAME`.

A strategy takes `pipeline.sampling.candidates.Candidates` and answers weights (B, C); a target answers (B, 1 + C). See
docs/sampler.md.
"""
