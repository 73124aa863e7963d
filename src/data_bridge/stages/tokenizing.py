"""Texts to tokens through Hugging Face's tokenizers. The only module that imports them."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_bridge import config
from data_bridge.clients import hub
from data_bridge.errors import ConfigError
from data_bridge.runtime.process import no_tokenizer_threads

FILE = "tokenizer.json"


def demand_tokenizers() -> None:
    """Raises ConfigError where tokenizers is not installed."""
    if find_spec("tokenizers") is None:
        raise ConfigError("tokenizing needs tokenizers", hint="pip install 'train-data-bridge[text]'")


def versions(where: str) -> dict[str, str]:
    """The library, and a digest of the tokenizer's file."""
    import tokenizers

    digest = hashlib.sha256(tokenizer_file(where).read_bytes()).hexdigest()
    return {"tokenizers": tokenizers.__version__, FILE: f"sha256:{digest[:16]}"}


def tokenizer_file(where: str) -> Path:
    """The file of a path, a folder or `hf://org/name@commit`. Raises ConfigError where there is none."""
    if where.startswith("hf://"):
        secret = config.hf_token()
        return _downloaded(where, secret.get_secret_value() if secret is not None else None)
    path = Path(where.removeprefix("file://")).expanduser()
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise ConfigError(
            f"tokenizer: there is no file {path}",
            hint=f"give the path of a {FILE}, or hf://org/name@commit",
        )
    return path


@lru_cache(maxsize=8)
def _downloaded(uri: str, token: str | None) -> Path:
    return hub.model_file(uri, FILE, token)


class Tokens:
    """One tokenizer, without padding, truncating only where told to."""

    def __init__(self, where: str, *, special_tokens: bool, max_length: int | None) -> None:
        from tokenizers import Tokenizer

        no_tokenizer_threads()
        file = tokenizer_file(where)
        try:
            self._tokenizer: Tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises nothing narrower
            raise ConfigError(f"tokenizer: {file} is no tokenizer: {error}", hint=f"give a {FILE}") from error
        self._special_tokens = special_tokens
        padding = self._tokenizer.padding
        self._padding: int | None = None if padding is None else padding["pad_id"]
        self._tokenizer.no_padding()
        if max_length is None:
            self._tokenizer.no_truncation()
        else:
            self._tokenizer.enable_truncation(max_length)

    @property
    def largest(self) -> int:
        """The largest number a token can have."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=0)

    def number(self, token: str, option: str) -> int:
        """The number of a token. Raises ConfigError for one there is not."""
        found: int | None = self._tokenizer.token_to_id(token)
        if found is None:
            raise ConfigError(f"{option}: the tokenizer has no token {token!r}")
        return found

    @property
    def padding(self) -> int | None:
        """The number of the token that fills up, where the tokenizer says which."""
        if self._padding is not None:
            return self._padding
        known = (self._tokenizer.token_to_id(token) for token in ("<pad>", "[PAD]", "<|pad|>"))
        return next((number for number in known if number is not None), None)

    def __call__(
        self, texts: Sequence[str], dtype: "np.dtype[np.uint16] | np.dtype[np.int32]"
    ) -> list[NDArray[np.integer]]:
        """The tokens of each text, arrays of shape (n,)."""
        found = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=self._special_tokens)
        return [np.array(each.ids, dtype=dtype) for each in found]
