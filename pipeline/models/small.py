"""Small towers with random weights, which stage `base` makes if no pretrained tower is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import BertModel, PreTrainedTokenizerFast, ViTModel

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def small_image_backbone(*, size: int, patch: int, width: int, layers: int, heads: int) -> ViTModel:
    """A ViT without dropout for `size` x `size` pixels."""
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        image_size=size,
        patch_size=patch,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return ViTModel(config, add_pooling_layer=False)


def small_text_backbone(*, vocabulary_size: int, width: int, layers: int, heads: int, positions: int) -> BertModel:
    """A BERT without dropout for up to `positions` tokens."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=vocabulary_size,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=positions,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return BertModel(config, add_pooling_layer=False)


def word_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words in BERT's frame, `[CLS] … [SEP]`; other words become `[UNK]`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate((*SPECIAL, *sorted(set(words) - set(SPECIAL))))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    )
    pad, unknown, start, end = SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, unk_token=unknown, cls_token=start, sep_token=end
    )
