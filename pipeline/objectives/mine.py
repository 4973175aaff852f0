"""Losses of your own: a function here is `loss.name: mine.NAME`.

It takes the arguments of `pipeline.objectives.contrastive.infonce_loss` and answers a loss for each anchor (B,). See
docs/sampler.md.
"""
