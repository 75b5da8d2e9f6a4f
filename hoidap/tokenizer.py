"""One tokenizer.json: encode, decode, decode a stream without ever showing half a character, train one.

PhoGPT's tokenizer is a byte-level BPE with ``<unk>`` 0, ``<s>`` 1, ``</s>`` 2, ``<pad>`` 3. No beginning-of-text token
is added: neither its chat template nor its fine-tuning data has one.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from hoidap.errors import TokenizerError
from hoidap.text import nfc

SPECIALS = ("<unk>", "<s>", "</s>", "<pad>")
_MOST_BYTES = 64 * 2**20  # BLOOM's tokenizer.json, the largest of the family, has 14.5 MB


class Tokenizer:
    """Text to token ids and back.

    A special token spelled out in text ("</s>" typed by a customer) is encoded as ordinary characters,
    so that no question can end a turn.
    """

    def __init__(self, core: tokenizers.Tokenizer) -> None:
        core.encode_special_tokens = True
        core.no_truncation()
        core.no_padding()
        eos = core.token_to_id("</s>")
        if eos is None:
            msg = "the tokenizer has no token '</s>', which ends every answer; take the tokenizer.json of the checkpoint"
            raise TokenizerError(msg)
        core.add_special_tokens(["</s>"])  # where the file has it as an ordinary token, text could spell it
        self._core = core
        self.eos_id: int = eos
        self.vocab_size: int = core.get_vocab_size()

    @classmethod
    def from_file(cls, path: Path) -> "Tokenizer":
        """Read a ``tokenizer.json``."""
        if not path.is_file():
            msg = f"{path} does not exist; a model folder needs its tokenizer.json (PhoGPT ships one beside its weights)"
            raise TokenizerError(msg)
        if path.stat().st_size > _MOST_BYTES:
            msg = f"{path} has {path.stat().st_size:,} bytes; a tokenizer.json has at most {_MOST_BYTES:,}"
            raise TokenizerError(msg)
        try:
            return cls(tokenizers.Tokenizer.from_file(str(path)))
        except TokenizerError:
            raise
        except Exception as error:  # noqa: BLE001 - the library raises bare Exception
            msg = f"{path} is not a tokenizer.json that the tokenizers library reads: {error}"
            raise TokenizerError(msg) from None

    def to_json(self) -> str:
        """Return the whole tokenizer as the text of a tokenizer.json."""
        return self._core.to_str(pretty=True)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of ``text`` (made NFC first), with nothing added at either end."""
        return self._core.encode(nfc(text), add_special_tokens=False).ids

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode many texts at once, on all cores."""
        encodings = self._core.encode_batch([nfc(text) for text in texts], add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def id_of(self, token: str) -> int | None:
        """Return the id of a token by its text, None if there is none."""
        return self._core.token_to_id(token)

    def decode(self, token_ids: Iterable[int]) -> str:
        """Return the text of ``token_ids``; special tokens are left out."""
        return self._core.decode(list(token_ids), skip_special_tokens=True)

    def stream(self) -> "TextStream":
        """Return a decoder for one answer that arrives token by token."""
        return TextStream(self._core)


class TextStream:
    """Decodes one answer as it arrives; a character whose bytes are split over tokens waits until it is whole."""

    def __init__(self, core: tokenizers.Tokenizer) -> None:
        self._core = core
        self._decoder = decoders.DecodeStream(skip_special_tokens=True)

    def push(self, token_id: int) -> str:
        """Take the next token and return the text that became complete with it, perhaps none."""
        return self._decoder.step(self._core, token_id) or ""


def train_tokenizer(texts: Iterable[str], vocab_size: int = 8192) -> Tokenizer:
    """Train a byte-level BPE on ``texts`` with PhoGPT's special ids and NFC as its normal form."""
    core = tokenizers.Tokenizer(models.BPE())
    core.normalizer = normalizers.NFC()
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return Tokenizer(core)
