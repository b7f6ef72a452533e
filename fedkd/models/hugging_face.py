"""Models of Hugging Face by name: ``hf:FOLDER_OR_ID``, of texts with their tokenizer, of images.

``AutoModelForSequenceClassification``, ``AutoModelForCausalLM`` and
``AutoModelForImageClassification`` load them, from a folder that ``save_pretrained`` wrote or from
the hub. ``hf:FOLDER(pretrained=false)`` takes the configuration alone, and draws the weights. Code
that lies beside a model is never run. Not for: adapters (``fedkd.models.adapters``).
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fedkd.data.byte_level import BYTE_OF
from fedkd.data.cache import cached
from fedkd.data.hub_splits import hub_has_address
from fedkd.errors import SettingError
from fedkd.models.libraries import ModelLibrary, loaded
from fedkd.settings.validators import user_path

BYTE_LEVEL = "ByteLevel"
"""How tokenizers call pieces of bytes."""


class HuggingFaceModels(ModelLibrary):
    """Models that transformers loads by its ``AutoModel`` classes."""

    package = "transformers"

    def find(self, name: str) -> Callable[..., nn.Module]:
        """Return the factory of a classifier of images."""
        configuration(name)
        return partial(image_classifier, name)

    def find_classifier(self, name: str) -> Callable[..., nn.Module]:
        """Return the factory of a classifier of texts."""
        configuration(name)
        return partial(text_classifier, name)

    def find_language_model(self, name: str) -> Callable[..., nn.Module]:
        """Return the factory of a causal language model."""
        configuration(name)
        return partial(language_model, name)

    def content_key(self, name: str) -> str | None:
        """Return a hash of what a folder's files hold; of a hub id its commit."""
        if _is_local(name):
            return _contents_hash(name)
        commit = getattr(configuration(name), "_commit_hash", None)
        return None if commit is None else str(commit)

    def whole_name(self, name: str) -> str:
        """Return the whole path of a folder; the id of the hub as it is."""
        return str(_folder(name).absolute()) if _is_local(name) else name

    def tokenizer(self, name: str) -> "HubTokenizer":
        """Return the tokenizer that is stored with a model."""
        return hub_tokenizer(name)


class HubModel(nn.Module):
    """A model of transformers, called with one tensor; its padding token is no part of a text."""

    def __init__(self, model: Any, new: frozenset[str], padding: int | None) -> None:
        """Hold the model, the names of its parameters without stored weights, and its padding."""
        super().__init__()
        self.pretrained = model
        self.new_parameters, self.padding = new, padding
        self.head_parameters = _of_head(model)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits of images or of next tokens; of texts those of their classes."""
        if self.padding is None:
            found: Tensor = self.pretrained(inputs).logits
            return found
        mask = inputs != self.padding
        used = mask.any(dim=0).nonzero()
        length = int(used[-1]) + 1 if len(used) else 1
        mask = mask[:, :length]
        # A text without tokens sees its padding: attention to nothing would be no number.
        mask = mask | ~mask.any(dim=1, keepdim=True)
        logits: Tensor = self.pretrained(
            input_ids=inputs[:, :length], attention_mask=mask.to(inputs.dtype)
        ).logits
        return logits


def text_classifier(
    name: str, tokens: tuple[int, int, int], classes: int, pretrained: bool = True
) -> HubModel:
    """Return a classifier of texts.

    Args:
        name: A folder or an id of the hub.
        tokens: The tokenizer's size, the longest text in tokens, and the padding token.
        classes: C.
        pretrained: Whether its weights are loaded, or drawn.
    """
    size, longest, padding = tokens
    _check_length(name, longest)
    model, new = _loaded(
        "AutoModelForSequenceClassification",
        name,
        pretrained,
        num_labels=classes,
        pad_token_id=padding,
    )
    _check_size(name, model, size)
    return HubModel(model, new, padding)


def language_model(
    name: str, vocabulary_size: int, context: int, pretrained: bool = True
) -> nn.Module:
    """Return a causal language model, whose logits are of the tokenizer's tokens alone.

    Args:
        name: A folder or an id of the hub.
        vocabulary_size: V.
        context: The positions of a window.
        pretrained: Whether its weights are loaded, or drawn.
    """
    _check_length(name, context)
    model, new = _loaded("AutoModelForCausalLM", name, pretrained, use_cache=False)
    _check_size(name, model, vocabulary_size)
    return NextTokens(model, new, vocabulary_size)


class NextTokens(nn.Module):
    """A causal model of transformers, without the logits of tokens that no tokenizer has."""

    def __init__(self, model: Any, new: frozenset[str], size: int) -> None:
        """Hold the model, the names of its parameters without stored weights, and V."""
        super().__init__()
        self.pretrained = model
        self.new_parameters, self.size = new, size
        self.head_parameters: frozenset[str] = frozenset()  # its head is as old as the rest

    def forward(self, ids: Int[Tensor, "N L"]) -> Float[Tensor, "N L V"]:
        """Return the logits of each next token."""
        logits: Tensor = self.pretrained(input_ids=ids).logits[..., : self.size]
        return logits


def image_classifier(
    name: str, input_shape: tuple[int, int, int], classes: int, pretrained: bool = True
) -> HubModel:
    """Return a classifier of images.

    Args:
        name: A folder or an id of the hub.
        input_shape: Channels, height and width of the images.
        classes: C.
        pretrained: Whether its weights are loaded, or drawn for images of this shape.
    """
    channels, height, width = input_shape
    shape = {"num_channels": channels, "image_size": height if height == width else (height, width)}
    known = configuration(name)
    own = {key: value for key, value in shape.items() if hasattr(known, key)}
    wrong = [key for key, value in own.items() if getattr(known, key) != value]
    if pretrained and wrong:
        raise SettingError(
            f"models: hf:{name} takes images of {wrong[0]}={getattr(known, wrong[0])}, and these"
            f" are of shape {list(input_shape)}; make them alike (data.size), or say"
            f" hf:{name}(pretrained=false)"
        )
    model, new = _loaded(
        "AutoModelForImageClassification", name, pretrained, num_labels=classes, **own
    )
    return HubModel(model, new, None)


@dataclass(frozen=True, eq=False)
class HubTokenizer:
    """A tokenizer of transformers: of whole texts with its own marks, and of next tokens."""

    tokenizer: Any
    name: str

    @property
    def size(self) -> int:
        """The number of tokens, those included that mark beginnings and padding."""
        return len(self.tokenizer)

    @property
    def padding(self) -> int:
        """Its own padding token; where it has none, that of an end or of an unknown token."""
        for token in ("pad_token_id", "eos_token_id", "unk_token_id"):
            found = getattr(self.tokenizer, token, None)
            if found is not None:
                return int(found)
        raise SettingError(
            f"models: the tokenizer of hf:{self.name} has no padding token, no end and no unknown"
            " one; give it one, as in tokenizer.add_special_tokens({'pad_token': '[PAD]'})"
        )

    @property
    def separator(self) -> int:
        """The token between texts: the end of one, or else its other marks."""
        for token in ("eos_token_id", "sep_token_id", "bos_token_id", "pad_token_id"):
            found = getattr(self.tokenizer, token, None)
            if found is not None:
                return int(found)
        raise SettingError(
            f"models: the tokenizer of hf:{self.name} has no token for the end of a text; give it"
            " one, as in tokenizer.add_special_tokens({'eos_token': '<end>'})"
        )

    @cached_property
    def key(self) -> str:
        """A hash of the tokenizer's definition and of its special tokens."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        text = backend.to_str() if backend is not None else repr(self.tokenizer.get_vocab())
        about = f"{type(self.tokenizer).__name__} {text} {self.tokenizer.special_tokens_map}"
        return hashlib.sha256(about.encode()).hexdigest()[:32]

    def encode(self, text: str) -> list[int]:
        """Return a text's tokens, without marks."""
        found: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return found

    def encode_all(self, texts: Sequence[str], most: int) -> list[list[int]]:
        """Return each text's first tokens with the tokenizer's marks; one at least."""
        with quiet():
            found = self.tokenizer(list(texts), truncation=True, max_length=most)["input_ids"]
        return [ids or [self.padding] for ids in found]

    def token_bytes(self, token: int) -> bytes:
        """Return a token as UTF-8 bytes, empty for a mark."""
        if token in self._marks:
            return b""
        piece: str = self.tokenizer.convert_ids_to_tokens(token) or ""
        if self._is_of_bytes:
            return bytes(BYTE_OF[character] for character in piece)
        if piece.startswith("<0x") and piece.endswith(">"):
            return bytes([int(piece[3:-1], 16)])
        return piece.replace("▁", " ").removeprefix("##").encode()

    def describe(self) -> dict[str, object]:
        """Return which tokenizer it is."""
        return {"tokenizer": self.name, "sha256": self.key}

    @cached_property
    def _marks(self) -> frozenset[int]:
        return frozenset(self.tokenizer.all_special_ids)

    @cached_property
    def _is_of_bytes(self) -> bool:
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        return backend is not None and BYTE_LEVEL in backend.to_str()


def hub_tokenizer(name: str) -> HubTokenizer:
    """Return the tokenizer of a model; SettingError where none is stored with it.

    It is read once, as long as the files do not change.
    """
    return _read_tokenizer(name, _files_key(name) if _is_local(name) else "")


@lru_cache(maxsize=8)
def _read_tokenizer(name: str, files_key: str) -> HubTokenizer:
    transformers, where = loaded("transformers", f"models=hf:{name}"), _location(name)
    try:
        with quiet():
            made = transformers.AutoTokenizer.from_pretrained(**where)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise SettingError(
            f"models: hf:{name} has no tokenizer that can be read ({_first_line(error)});"
            " tokenizer.save_pretrained(FOLDER) writes one beside the model"
        ) from error
    if len(made) <= len(made.all_special_ids):  # what transformers makes of no files at all
        raise SettingError(
            f"models: hf:{name} has no tokenizer that can be read: it has no tokens but marks;"
            " tokenizer.save_pretrained(FOLDER) writes one beside the model"
        )
    return HubTokenizer(made, name)


def configuration(name: str) -> Any:
    """Return the configuration of a model. Raises SettingError where there is none."""
    transformers, where = loaded("transformers", f"models=hf:{name}"), _location(name)
    try:
        with quiet():
            return transformers.AutoConfig.from_pretrained(**where)
    except (OSError, ValueError, KeyError) as error:
        reason = _first_line(error)
        if not _is_local(name) and not hub_has_address():
            reason = "this machine cannot reach the hub, and has no copy of it"
        raise SettingError(
            f"models: hf:{name} cannot be read: {reason}. Give a folder that save_pretrained wrote,"
            " with its config.json, or a hub id that this machine can reach"
        ) from error


def _is_local(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") != 1 or _folder(name).exists()


def _folder(name: str) -> Path:
    return user_path(name, "models")


def _files_key(name: str) -> str:
    """Return a hash of a folder's path, and of the names, sizes and times of its files."""
    folder = _folder(name).absolute()
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in _files(folder)]
    return hashlib.sha256(f"{folder} {stats}".encode()).hexdigest()[:32]


def _files(folder: Path) -> list[Path]:
    """Return the files that may decide what a model is: all but notes and hidden ones."""
    found = folder.iterdir() if folder.is_dir() else iter(())
    return sorted(
        f for f in found if f.is_file() and f.suffix != ".md" and not f.name.startswith(".")
    )


def _contents_hash(name: str) -> str:
    """Return a hash of what a folder's files hold, cached as long as none of them changes."""

    def make(staging: Path) -> None:
        digest = hashlib.sha256()
        for file in _files(_folder(name)):
            digest.update(file.name.encode())
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        (staging / "sha256").write_text(digest.hexdigest()[:32], encoding="utf-8")

    folder = cached("models", _files_key(name), make)
    return (folder / "sha256").read_text(encoding="utf-8")


def _location(name: str) -> dict[str, Any]:
    """Return where a model is, as transformers is told. Code beside it is never run."""
    if not _is_local(name):
        return {
            "pretrained_model_name_or_path": name,
            "local_files_only": not hub_has_address(),
            "trust_remote_code": False,
        }
    folder = _folder(name)
    if not folder.is_dir():
        raise SettingError(
            f"models: hf:{name}: no such folder; give a folder that save_pretrained wrote, or a hub"
            " id such as hf:distilbert/distilbert-base-uncased"
        )
    return {
        "pretrained_model_name_or_path": str(folder),
        "local_files_only": True,
        "trust_remote_code": False,
    }


def _loaded(
    loader: str, name: str, pretrained: bool, **changes: object
) -> tuple[Any, frozenset[str]]:
    """Return a model, and the names of its parameters that no weights were loaded for.

    Args:
        loader: The class of transformers that loads it.
        name: A folder or an id of the hub.
        pretrained: Whether its weights are loaded, or drawn.
        changes: Of its configuration.
    """
    transformers, config = loaded("transformers", f"models=hf:{name}"), configuration(name)
    for key, value in changes.items():
        setattr(config, key, value)
    made = getattr(transformers, loader)
    try:
        with quiet():
            if not pretrained:
                model = made.from_config(config, trust_remote_code=False)
                return model, _of_head(model)
            model, about = made.from_pretrained(
                **_location(name),
                config=config,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                dtype=torch.float32,
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise SettingError(
            f"models: hf:{name} cannot be loaded: {_first_line(error)}; hf:{name}(pretrained=false)"
            " takes its configuration alone"
        ) from error
    missing = [*about["missing_keys"], *(key[0] for key in about["mismatched_keys"])]
    parameters = dict(model.named_parameters())
    new = frozenset(name for name in missing if name in parameters)
    lost = sum(parameters[key].numel() for key in new - _of_head(model))
    if 2 * lost > sum(p.numel() for p in model.parameters()):
        raise SettingError(
            f"models: hf:{name} holds no weights of a {type(model).__name__}: {sorted(new)[0]} and"
            f" {len(new) - 1} more are missing; give its weights, or say"
            f" hf:{name}(pretrained=false)"
        )
    return model, new


def _of_head(model: Any) -> frozenset[str]:
    """Return the names of the parameters that are not of the model below the head."""
    below = f"{model.base_model_prefix}."
    return frozenset(name for name, _ in model.named_parameters() if not name.startswith(below))


def _check_length(name: str, longest: int) -> None:
    """Raise SettingError where texts may be longer than a model reads."""
    limits = [getattr(configuration(name), "max_position_embeddings", None)]
    limits.append(getattr(hub_tokenizer(name).tokenizer, "model_max_length", None))
    most = min((limit for limit in limits if isinstance(limit, int) and limit > 0), default=longest)
    if longest > most:
        raise SettingError(
            f"tokens.context={longest} is more than hf:{name} reads; give at most {most}"
        )


def _check_size(name: str, model: Any, size: int) -> None:
    """Raise SettingError where a tokenizer has tokens that its model does not know."""
    known = model.get_input_embeddings().num_embeddings
    if size > known:
        raise SettingError(
            f"models: the tokenizer of hf:{name} has {size} tokens and the model {known}; they are"
            " not of one another"
        )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide the progress bars and log lines of transformers within the context."""
    import transformers

    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity(log.CRITICAL)
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
