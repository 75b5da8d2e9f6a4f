"""Is this base whole and sane here: files, tensors, tokenizer, loss, and what 16, 8 and 4 bits make of it.

Written for whoever holds the real weights. A model larger than the memory is examined one matrix at a time; only the
answers at the end need it loaded, in 4 bits. VinAI's own users met a PhoGPT that, in 4 bits on a T4, answered nothing but
new lines (its issue 27, cause never found): that is looked for by name, and so is what could cause it.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from rich.console import Console

from hoidap.base import Base
from hoidap.errors import HoidapError
from hoidap.infer.engine import Request, Sampling
from hoidap.infer.torch_engine import TorchEngine
from hoidap.model.checkpoint import LazyWeights, headers, weight_files
from hoidap.model.mpt import MPT
from hoidap.model.overflow import first_overflow, magnitudes
from hoidap.progress import bar
from hoidap.prompt import Turn, render
from hoidap.recipe import Quantize
from hoidap.runtime import pick_dtype
from hoidap.text import nfc
from hoidap.tokenizer import SPECIALS, Tokenizer

Verdict = Literal["good", "doubtful", "bad"]
PARAGRAPH = (
    "Hà Nội là thủ đô của Việt Nam, nằm bên bờ sông Hồng. Thành phố có hơn một nghìn năm lịch sử và nổi tiếng với khu"
    " phố cổ, Hồ Gươm, chùa Một Cột và Văn Miếu. Mùa thu, trời trong xanh, gió nhẹ và thoang thoảng mùi hoa sữa. Buổi"
    " sáng, người dân thường ăn một bát phở nóng hoặc một đĩa bánh cuốn trước khi đi làm. Vào cuối tuần, nhiều gia "
    "đình đưa trẻ em đi dạo quanh hồ, ghé các hiệu sách và ngồi uống cà phê trên vỉa hè. Những năm gần đây, thành phố"
    " phát triển nhanh, đường phố đông đúc hơn, nhưng nhịp sống của người Hà Nội vẫn giữ được nét thanh lịch vốn có."
)
QUESTIONS = (
    "Thủ đô của Việt Nam là thành phố nào?",
    "Một tuần có bao nhiêu ngày?",
    "Hãy giới thiệu ngắn gọn về món phở.",
)
_ANSWER_TOKENS = 48
_MOST_TOKENIZER_CONFIG_BYTES = 2**24
# Bits a byte of ordinary Vietnamese: a trained model needs about 1 or less, xz about 3, and one that lost its biases more.
_BITS_A_BYTE = (1.6, 2.5)
# Mean KL from float32, in nats a token, above which a variant is doubtful and above which it is another model.
_KL_NATS: dict[str, tuple[float, float]] = {"float16": (0.01, 0.1), "nf4": (0.25, 1.0), "int8": (0.05, 0.5)}


@dataclass(frozen=True)
class Finding:
    """What one examination found."""

    what: str
    verdict: Verdict
    text: str


@dataclass(frozen=True)
class _Probe:
    """Paragraph and questions as one stream of documents, the paragraph first."""

    tokens: torch.Tensor  # int64 [T]
    starts: list[int]
    n_bytes: int  # of the paragraph behind its first token

    @property
    def n_paragraph(self) -> int:
        return self.starts[1]

    @property
    def rows(self) -> list[int]:
        """Positions at which a next token is known or asked for: the paragraph's, and the last of each question."""
        return [*range(self.n_paragraph - 1), *(start - 1 for start in self.starts[2:])]


def verify(base: Base, device: torch.device, console: Console) -> Iterator[Finding]:
    """Examine a base, and yield what is found as it is found; it ends early where going on makes no sense."""
    yield from _files(base, console)
    try:
        yield _tensors(base)
        tokenizer = base.tokenizer()
    except HoidapError as error:
        yield Finding("weights and tokenizer", "bad", str(error))
        return
    yield _specials(tokenizer)
    yield _template(base)
    yield _round_trip(tokenizer)
    for finding in _numbers(base, tokenizer, device, console):
        yield finding
        if finding.what == "weights":  # not even numbers: no answer is worth waiting for
            return
    yield from _answers(base, tokenizer, device, console)


def _files(base: Base, console: Console) -> Iterator[Finding]:
    try:
        with bar(console, "reading the files", sum(f.stat().st_size for f in base.files())) as advance:
            prints = base.prints(advance)
    except OSError as error:
        yield Finding("files", "bad", f"{error.filename}: {error.strerror}")
        return
    except HoidapError as error:
        yield Finding("files", "bad", str(error))
        return
    for name, one in prints.items():
        yield Finding("file", "good", f"{name}: {one.n_bytes:,} bytes, SHA-256 {one.sha256}")


def _tensors(base: Base) -> Finding:
    """Count what the headers of the files promise; raises CheckpointError where that does not fit the configuration."""
    LazyWeights(base.folder, quantize="none", device=torch.device("cpu"), dtype=torch.float32)
    config = base.config
    kinds = Counter(dtype for file in weight_files(base.folder) for _, _, dtype in headers(file))
    held = ", ".join(f"{count} in {dtype}" for dtype, count in kinds.most_common())
    biases = "no biases" if config.no_bias else "all biases there"
    return Finding("tensors", "good", f"{kinds.total()} ({held}), {config.n_parameters:,} weights, {biases}")


def _specials(tokenizer: Tokenizer) -> Finding:
    ids = {token: tokenizer.id_of(token) for token in SPECIALS}
    wanted = {token: n for n, token in enumerate(SPECIALS)}
    shown = ", ".join(f"{token} {number}" for token, number in ids.items())
    if ids == wanted:
        return Finding("special tokens", "good", shown)
    # The end of an answer is all that is needed of them; others may be numbered otherwise and do no harm.
    return Finding("special tokens", "doubtful", f"{shown}; PhoGPT has {', '.join(f'{t} {n}' for t, n in wanted.items())}")


def _template(base: Base) -> Finding:
    """Compare the template that is used with the checkpoint's own, where it ships one; that one is never run."""
    used = f"{base.template.name}, by the vocabulary of {base.config.vocab_size:,}"
    path = base.folder / "tokenizer_config.json"
    if not path.is_file() or path.stat().st_size > _MOST_TOKENIZER_CONFIG_BYTES:
        return Finding("template", "good", used)
    try:
        own = json.loads(path.read_text(encoding="utf-8")).get("chat_template")
    except (ValueError, AttributeError, RecursionError) as error:
        return Finding("template", "doubtful", f"{used}; {path.name} cannot be read ({error})")
    marks = (base.template.before_question.strip(), base.template.before_answer.strip())
    if isinstance(own, str) and not all(mark in own for mark in marks):
        what = f"{used}; but the checkpoint's own chat_template has no {' and '.join(map(repr, marks))}"
        return Finding("template", "doubtful", f"{what}: it may have been taught other words")
    return Finding("template", "good", used)


def _round_trip(tokenizer: Tokenizer) -> Finding:
    for text in (PARAGRAPH, *QUESTIONS, "Ưu đãi 50%: 1.250.000 đ/tháng, gọi 1900-6017 ☎️ hoặc ghé https://ví-dụ.vn nhé!"):
        back = tokenizer.decode(tokenizer.encode(text))
        if back != nfc(text):
            return Finding("tokenizer", "bad", f"does not give back what it was given: {text[:60]!r} became {back[:60]!r}")
    share = len(PARAGRAPH) / len(tokenizer.encode(PARAGRAPH))
    verdict: Verdict = "good" if share > 2 else "doubtful"
    return Finding("tokenizer", verdict, f"gives Vietnamese back to the letter, {share:.2f} characters a token")


def _probe(base: Base, tokenizer: Tokenizer) -> _Probe:
    paragraph = tokenizer.encode(PARAGRAPH)[: base.config.max_seq_len]
    documents = [paragraph, *(render([Turn(q)], tokenizer, base.template).token_ids for q in QUESTIONS)]
    starts = [0]
    for document in documents:
        starts.append(starts[-1] + len(document))
    n_bytes = len(tokenizer.decode(paragraph[1:]).encode())
    return _Probe(torch.tensor([t for d in documents for t in d]), starts, n_bytes)


def _numbers(base: Base, tokenizer: Tokenizer, device: torch.device, console: Console) -> Iterator[Finding]:
    """Compare, on the same tokens, float32 with float16, and float16 with its weights in 8 and in 4 bits."""
    probe = _probe(base, tokenizer)
    with bar(console, "computing the model in 32, 16, 8 and 4 bits", 4 * len(base.config.shapes())) as advance:
        exact = _logits(base, "none", torch.float32, device, probe, advance)
        if not exact.isfinite().all():
            where = _overflow(base, "none", torch.float32, device, probe)
            yield Finding("weights", "bad", f"not finite in float32 either: {where}; download them again")
            return
        yield _loss(exact, probe, tokenizer)
        verdicts = set()
        variants: tuple[tuple[str, Quantize], ...] = (("float16", "none"), ("int8", "int8"), ("nf4", "nf4"))
        for name, quantize in variants:
            logits = _logits(base, quantize, torch.float16, device, probe, advance)
            compared = _compared(name, logits, exact, probe)
            verdicts.add(compared.verdict)
            yield compared
            if not logits.isfinite().all():
                yield Finding("overflow", "bad", _overflow(base, quantize, torch.float16, device, probe))
    if verdicts != {"good"}:
        yield _outliers(base, device, probe)


@torch.no_grad()
def _logits(
    base: Base,
    quantize: Quantize,
    dtype: torch.dtype,
    device: torch.device,
    probe: _Probe,
    advance: Callable[[int], None] = lambda _n: None,
) -> torch.Tensor:
    """Return the float32 logits [N, V] at the probe's rows, one matrix in memory at a time."""
    weights = LazyWeights(base.folder, quantize=quantize, device=device, dtype=dtype, advance=advance)
    model = MPT(base.config, weights, dtype)
    hidden = model.hidden(probe.tokens.to(device), probe.starts)
    return model.logits(hidden[probe.rows]).cpu()


def _loss(exact: torch.Tensor, probe: _Probe, tokenizer: Tokenizer) -> Finding:
    n = probe.n_paragraph
    nats = float(torch.nn.functional.cross_entropy(exact[: n - 1], probe.tokens[1:n]))
    bits = nats * (n - 1) / math.log(2) / probe.n_bytes
    text = f"{nats:.2f} nats a token, {bits:.2f} bits a byte on a paragraph of Vietnamese"
    chance = math.log(tokenizer.vocab_size)
    if not bits < _BITS_A_BYTE[1]:
        what = f"{text}; guessing blindly has {chance:.2f} nats: these weights, or this tokenizer, are not this model's"
        return Finding("loss", "bad", what)
    return Finding("loss", "good" if bits < _BITS_A_BYTE[0] else "doubtful", text)


def _compared(name: str, logits: torch.Tensor, exact: torch.Tensor, probe: _Probe) -> Finding:
    if not logits.isfinite().all():
        return Finding(
            name, "bad", "not finite: something overflows float16; use --dtype bfloat16 or float32 on this model"
        )
    log_p, log_q = exact.log_softmax(-1), logits.log_softmax(-1)
    kl = float((log_p.exp() * (log_p - log_q)).sum(-1).mean())
    same = float((exact.argmax(-1) == logits.argmax(-1)).float().mean())
    first = int((exact[probe.n_paragraph - 1 :].argmax(-1) == logits[probe.n_paragraph - 1 :].argmax(-1)).sum())
    text = (
        f"KL {kl:.4f} nats a token from float32, the same first choice at {same:.0%} of the tokens, "
        f"and {first} of {len(QUESTIONS)} answers begin alike"
    )
    doubtful, bad = _KL_NATS[name]
    if kl >= bad:
        return Finding(name, "bad", f"{text}: this is another model; use --quantize {'none' if name != 'nf4' else 'int8'}")
    return Finding(name, "good" if kl < doubtful else "doubtful", text)


def _outliers(base: Base, device: torch.device, probe: _Probe) -> Finding:
    """Name the tensor whose channels differ most: a few of hundreds of times the rest are what fewer bits spoil first."""
    weights = LazyWeights(base.folder, quantize="none", device=device, dtype=torch.float32)
    found = magnitudes(MPT(base.config, weights, torch.float32), probe.tokens.to(device), probe.starts)
    worst = max(found, key=lambda m: (m.n_outliers, m.largest))
    count = f"{worst.n_outliers} channels of more than 100 times the median {worst.median:.3g}"
    text = f"block {worst.block}, {worst.tensor}: {count}, the largest {worst.largest:,.0f}"
    return Finding("outliers", "doubtful" if worst.n_outliers else "good", text)


def _overflow(base: Base, quantize: Quantize, dtype: torch.dtype, device: torch.device, probe: _Probe) -> str:
    """Name the first tensor that is not finite."""
    weights = LazyWeights(base.folder, quantize=quantize, device=device, dtype=dtype)
    where = first_overflow(MPT(base.config, weights, dtype), probe.tokens.to(device), probe.starts)
    return where or "the logits"


def _answers(base: Base, tokenizer: Tokenizer, device: torch.device, console: Console) -> Iterator[Finding]:
    """Ask three questions of the model as a small GPU would hold it: NF4, and float16 where there is no bfloat16."""
    dtype = pick_dtype(device)
    with bar(console, "loading in NF4", len(base.config.shapes())) as advance:
        model = base.load(quantize="nf4", device=device, dtype=dtype, watch=lambda *_: advance(1))
    prompts = [render([Turn(q)], tokenizer, base.template).token_ids for q in QUESTIONS]
    room = max(map(len, prompts)) + _ANSWER_TOKENS
    engine = TorchEngine(model, tokenizer, max_batch=len(prompts), context_tokens=min(room, base.config.max_seq_len))
    sampling = Sampling(max_new_tokens=_ANSWER_TOKENS)
    texts = {engine.submit(Request(tuple(p), sampling, (base.template.stop,))): "" for p in prompts}
    with bar(console, "answering three questions", _ANSWER_TOKENS) as advance:
        while pieces := engine.step():
            advance(1)
            for piece in pieces:
                texts[piece.request_id] += piece.text
    blank = [question for question, text in zip(QUESTIONS, texts.values(), strict=True) if not text.strip()]
    for question, text in zip(QUESTIONS, texts.values(), strict=True):
        yield Finding("answer", "good" if text.strip() else "bad", f"{question} → {text.strip() or repr(text)}")
    if blank:
        what = f"{len(blank)} of {len(QUESTIONS)} answers in NF4 hold nothing but white space, as in PhoGPT's issue 27"
        yield Finding("answers", "bad", f"{what}; the lines above say which of 16, 8 and 4 bits is to blame")
