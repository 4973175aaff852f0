"""Captions on their way to the text tower."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.features import tokens
from pipeline.features.tokens import encoded_captions, padded, tokenised
from pipeline.models.small import word_tokenizer
from pipeline.models.towers import Tokens
from pipeline.params import ModelParams
from tests.training.making import params_with

CAPTIONS = ["A red, dot!", "dot", "the red dot is red", "red red"]


def settings(*, captions: str = "cleaned", pooling: str = "masked_mean") -> ModelParams:
    return params_with(model__words=3, model__captions=captions, model__pooling=pooling).model


def test_captions_are_cleaned_to_so_many_words_unless_they_are_wanted_raw() -> None:
    tokenizer = word_tokenizer(["a", "red", "dot", "the", "is"])
    texts = [[tokenizer.decode(row) for row in tokenised(tokenizer, CAPTIONS[:3], settings(captions=how))]
             for how in ("cleaned", "raw")]  # fmt: skip
    assert texts[0] == ["[CLS] a red dot [SEP]", "[CLS] dot [SEP]", "[CLS] the red dot [SEP]"]
    assert texts[1] == ["[CLS] [UNK] [UNK] [UNK] [SEP]", "[CLS] dot [SEP]", "[CLS] the red dot is red [SEP]"]


def test_a_caption_is_cut_at_the_tokenizers_limit_and_keeps_the_closing_token() -> None:
    tokenizer = word_tokenizer(["a", "red", "dot"])
    tokenizer.model_max_length = 4
    (row,) = tokenised(tokenizer, ["a red dot a red dot"], settings(captions="raw"))
    assert row.dtype == torch.int32 and tokenizer.decode(row) == "[CLS] a red [SEP]"


def test_a_fixed_length_cuts_and_keeps_the_closing_token() -> None:
    made = padded([torch.tensor([2, 5, 6, 7, 3]), torch.tensor([2, 3])], 9, 4)
    assert made.ids.tolist() == [[2, 5, 6, 3], [2, 3, 9, 9]]
    assert made.mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]


@pytest.mark.parametrize("batch", [1, 3, 64])
@pytest.mark.parametrize(("pooling", "longest"), [("masked_mean", 5), ("mean_all", 3)])
def test_captions_are_encoded_by_length_and_come_back_in_their_order(
    pooling: str, longest: int, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "BATCH", batch)
    seen: list[int] = []

    def tower(given: Tokens) -> Tensor:
        seen.append(given.ids.shape[1])
        return (given.ids * given.mask).sum(dim=1, keepdim=True).float()

    tokenizer = word_tokenizer(["a", "red", "dot", "the", "is"])
    found = encoded_captions(tower, torch.device("cpu"), tokenizer, CAPTIONS, settings(pooling=pooling))
    limit = 3 if pooling == "mean_all" else None
    rows = [padded([row], 0, limit).ids.sum().item() for row in tokenised(tokenizer, CAPTIONS, settings())]
    assert found.squeeze(1).tolist() == rows
    assert seen == sorted(seen)
    assert seen[-1] == longest
