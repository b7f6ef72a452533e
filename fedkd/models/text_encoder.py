"""Vectors of short texts, such as names of classes, from a model of transformers in a folder.

Not for: models that clients train (``fedkd.models.hugging_face``).
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from fedkd.errors import SettingError
from fedkd.models.hugging_face import HuggingFaceModels, hub_tokenizer, quiet
from fedkd.models.libraries import loaded

LONGEST = 64
"""The tokens of a text that are read at most."""


def text_vectors(folder: Path, texts: Sequence[str]) -> Float[Tensor, "n d"]:
    """Return the mean of the last hidden states of each text's tokens.

    The folder is one that ``save_pretrained`` wrote, with a tokenizer; code in it is never run.
    Raises SettingError where there is no such folder, or nothing in it that encodes texts.
    """
    where = folder.expanduser()
    transformers = loaded("transformers", f"text_encoder={folder}")
    if not where.is_dir():
        raise SettingError(
            f"text_encoder={folder} is no folder; give one that save_pretrained wrote, with its"
            " tokenizer"
        )
    tokenizer = hub_tokenizer(str(where.absolute()))
    try:
        with quiet():
            model = transformers.AutoModel.from_pretrained(
                str(where), local_files_only=True, trust_remote_code=False, dtype=torch.float32
            )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        said = str(error).strip().splitlines()[0]
        raise SettingError(
            f"text_encoder={folder} cannot be loaded: {said}; give a folder with config.json and"
            " weights"
        ) from error
    model.eval()
    with torch.no_grad():
        found = [
            model(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(dim=0)
            for ids in tokenizer.encode_all(texts, LONGEST)
        ]
    return torch.stack(found)


def encoder_key(folder: Path) -> str | None:
    """Return a hash of what the folder's files hold."""
    return HuggingFaceModels().content_key(str(folder.expanduser().absolute()))
