"""Tiny models of Hugging Face for tests: made of a configuration, saved with a tokenizer."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any


def save_tokenizer(folder: Path, texts: Iterable[str], size: int = 60, **marks: str) -> Any:
    """Save a tokenizer of the words of texts, and return it."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    marks = marks or {"unk_token": "[UNK]", "pad_token": "[PAD]", "eos_token": "[END]"}
    tokenizer = Tokenizer(models.WordLevel(unk_token=marks.get("unk_token", "[UNK]")))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(
        vocab_size=size, special_tokens=["[UNK]", "[PAD]", "[END]"], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **marks)
    fast.save_pretrained(folder)
    return fast


def save_bert(folder: Path, texts: Iterable[str], **changes: Any) -> Path:
    """Save a tiny BERT for classes with a tokenizer of texts, and return the folder."""
    import torch
    from transformers import AutoModelForSequenceClassification, BertConfig

    tokenizer = save_tokenizer(folder, texts)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    whole = {**sizes, "intermediate_size": 32, "max_position_embeddings": 16, **changes}
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(tokenizer), **whole)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    return folder


def save_gpt2(folder: Path, texts: Iterable[str], **changes: Any) -> Path:
    """Save a tiny GPT-2 of next tokens with a tokenizer of texts, and return the folder."""
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config

    tokenizer = save_tokenizer(folder, texts)
    whole = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64, **changes}
    torch.manual_seed(0)
    marks = {"bos_token_id": 2, "eos_token_id": 2}
    config = GPT2Config(vocab_size=len(tokenizer), **marks, **whole)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def save_vit(folder: Path) -> Path:
    """Save a tiny vision transformer for the digits of scikit-learn, and return the folder."""
    import torch
    from transformers import AutoModelForImageClassification, ViTConfig

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    images = {"image_size": 8, "patch_size": 4, "num_channels": 1}
    torch.manual_seed(0)
    config = ViTConfig(intermediate_size=32, **sizes, **images)
    AutoModelForImageClassification.from_config(config).save_pretrained(folder)
    return folder
