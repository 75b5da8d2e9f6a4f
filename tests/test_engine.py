"""The engine: the same greedy text alone, together and in any order; honest sampling; every way an answer ends."""

import functools
import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_run import CONFIG, TOKENIZER

from hoidap.data.items import Item
from hoidap.errors import QueueFullError, RequestError
from hoidap.infer import torch_engine
from hoidap.infer.engine import Request, Sampling
from hoidap.infer.recital import Recital
from hoidap.infer.sample import choose, distribution, penalised
from hoidap.infer.stop import StopText
from hoidap.infer.torch_engine import TorchEngine
from hoidap.model.adapter import new_adapter
from hoidap.model.cache import cache_bytes_a_token
from hoidap.model.checkpoint import assemble, random_tensors
from hoidap.model.mpt import MPT
from hoidap.prompt import PHOGPT_4B_CHAT, Turn, render
from hoidap.tokenizer import Tokenizer

CPU = torch.device("cpu")
PIECE = st.text("ab#", max_size=4)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_file(TOKENIZER)


@pytest.fixture(scope="module")
def model() -> MPT:
    tensors = random_tensors(CONFIG, CPU, torch.float32, 3)
    return assemble(CONFIG, tensors, quantize="none", device=CPU, dtype=torch.float32)


def prompts(tokenizer, count):
    words = ["Dạ", "cửa", "hàng", "mở", "cửa", "lúc", "tám", "giờ", "sáng", "và", "đóng", "cửa", "lúc", "chín", "giờ"]
    return [tuple(tokenizer.encode(" ".join(words[: 1 + 3 * n]))) for n in range(count)]


def run_all(engine):
    """Step until nothing is left; return each request's tokens, text and reason."""
    tokens, texts, reasons = {}, {}, {}
    while pieces := engine.step():
        for piece in pieces:
            tokens.setdefault(piece.request_id, []).append(piece.token_id)
            texts[piece.request_id] = texts.get(piece.request_id, "") + piece.text
            if piece.finish_reason:
                assert piece.request_id not in reasons, "an answer ends once"
                reasons[piece.request_id] = piece.finish_reason
    return tokens, texts, reasons


def plain_greedy(model, prompt, count):
    """Decode without a cache, one whole forward pass a token."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            ids.append(int(model.logits(model.hidden(torch.tensor(ids), [0, len(ids)])[-1]).argmax()))
    return ids[len(prompt) :]


def test_greedy_answers_equal_plain_decoding_whatever_the_company(model, tokenizer):
    wanted = [plain_greedy(model, prompt, 10) for prompt in prompts(tokenizer, 5)]
    for max_batch in (1, 2, 5):
        engine = TorchEngine(model, tokenizer, max_batch=max_batch)
        ids = [engine.submit(Request(p, Sampling(max_new_tokens=10))) for p in prompts(tokenizer, 5)]
        tokens, _, reasons = run_all(engine)
        assert [tokens[i] for i in ids] == wanted
        assert set(reasons.values()) == {"length"}


def test_requests_that_join_later_change_nothing(model, tokenizer):
    first, second, third = prompts(tokenizer, 3)
    engine = TorchEngine(model, tokenizer, max_batch=2)
    a = engine.submit(Request(first, Sampling(max_new_tokens=12)))
    tokens = {a: []}
    for _ in range(4):
        tokens[a] += [piece.token_id for piece in engine.step()]
    b, c = (
        engine.submit(Request(second, Sampling(max_new_tokens=9))),
        engine.submit(Request(third, Sampling(max_new_tokens=7))),
    )
    rest, _, _ = run_all(engine)
    assert tokens[a] + rest[a] == plain_greedy(model, first, 12)
    assert rest[b] == plain_greedy(model, second, 9)
    assert rest[c] == plain_greedy(model, third, 7)


def test_a_cancelled_request_frees_its_row_and_leaves_the_others_alone(model, tokenizer):
    first, second, third = prompts(tokenizer, 3)
    engine = TorchEngine(model, tokenizer, max_batch=2)
    a, b, c = (engine.submit(Request(p, Sampling(max_new_tokens=8))) for p in (first, second, third))
    engine.step()
    last = engine.cancel(a)
    assert last is not None
    assert last.finish_reason == "cancelled"
    assert engine.cancel(a) is None
    tokens, _, reasons = run_all(engine)
    assert set(reasons) == {b, c}
    assert tokens[c] == plain_greedy(model, third, 8), "the third got the freed row"


def test_a_waiting_request_can_be_cancelled(model, tokenizer):
    engine = TorchEngine(model, tokenizer, max_batch=1)
    a, b = (engine.submit(Request(p, Sampling(max_new_tokens=3))) for p in prompts(tokenizer, 2))
    engine.step()
    assert engine.cancel(b) is not None
    assert set(run_all(engine)[2]) == {a}


def test_the_text_is_the_tokens_decoded(model, tokenizer):
    engine = TorchEngine(model, tokenizer)
    request_id = engine.submit(Request(prompts(tokenizer, 1)[0], Sampling(max_new_tokens=30)))
    tokens, texts, _ = run_all(engine)
    assert tokenizer.decode(tokens[request_id]).startswith(texts[request_id])
    assert len(texts[request_id]) > 0


def test_an_answer_ends_at_the_end_token_and_does_not_show_it(tokenizer):
    tensors = random_tensors(CONFIG, CPU, torch.float32, 3)
    model = assemble(CONFIG, tensors, quantize="none", device=CPU, dtype=torch.float32)
    prompt = prompts(tokenizer, 2)[1]
    with torch.no_grad():  # make </s> the likeliest token of all
        hidden = model.hidden(torch.tensor(prompt), [0, len(prompt)])[-1]
        model.weights["transformer.wte.weight"][tokenizer.eos_id] = hidden * 10
    engine = TorchEngine(model, tokenizer)
    request_id = engine.submit(Request(prompt, Sampling(max_new_tokens=5)))
    tokens, texts, reasons = run_all(engine)
    assert (tokens[request_id], texts[request_id], reasons[request_id]) == ([tokenizer.eos_id], "", "stop")


def test_an_answer_ends_before_a_stop_text(model, tokenizer):
    prompt = prompts(tokenizer, 3)[2]
    text = tokenizer.decode(plain_greedy(model, prompt, 20))
    stop = text[len(text) // 2 :][:3]
    engine = TorchEngine(model, tokenizer)
    request_id = engine.submit(Request(prompt, Sampling(max_new_tokens=20), stop=(stop,)))
    _, texts, reasons = run_all(engine)
    assert texts[request_id] == text[: text.index(stop)]
    assert reasons[request_id] == "stop"


def test_an_answer_ends_where_the_context_does(model, tokenizer):
    engine = TorchEngine(model, tokenizer, context_tokens=16)
    prompt = tuple(range(10, 22))
    request_id = engine.submit(Request(prompt, Sampling(max_new_tokens=100)))
    tokens, _, reasons = run_all(engine)
    assert len(tokens[request_id]) == 4
    assert reasons[request_id] == "length"


def test_logprobs_are_those_of_the_chosen_tokens(model, tokenizer):
    prompt = prompts(tokenizer, 2)[1]
    engine = TorchEngine(model, tokenizer)
    engine.submit(Request(prompt, Sampling(max_new_tokens=3)))
    pieces = list(itertools.chain.from_iterable(iter(engine.step, [])))
    ids = [*prompt, *(p.token_id for p in pieces)]
    with torch.no_grad():
        nats = model.logits(model.hidden(torch.tensor(ids), [0, len(ids)])).log_softmax(-1)
    for at, piece in enumerate(pieces, start=len(prompt) - 1):
        assert piece.logprob_nats == pytest.approx(float(nats[at, piece.token_id]), abs=1e-4)


def test_a_seed_gives_the_same_text_in_any_company(model, tokenizer):
    prompt = prompts(tokenizer, 2)[1]
    drawn = []
    for others in (0, 3):
        engine = TorchEngine(model, tokenizer, max_batch=8)
        for n in range(others):
            engine.submit(Request(prompt, Sampling(max_new_tokens=10, temperature=1.0, seed=100 + n)))
        request_id = engine.submit(Request(prompt, Sampling(max_new_tokens=10, temperature=1.0, seed=7)))
        drawn.append(run_all(engine)[0][request_id])
    assert drawn[0] == drawn[1]
    engine = TorchEngine(model, tokenizer)
    request_id = engine.submit(Request(prompt, Sampling(max_new_tokens=10, temperature=1.0, seed=8)))
    assert run_all(engine)[0][request_id] != drawn[0]


def test_draws_follow_the_distribution():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    sampling = Sampling(temperature=0.7)
    generator = torch.Generator().manual_seed(0)
    count = 4000
    tokens, _ = choose(logits.expand(count, -1), [sampling] * count, [generator] * count, [()] * count)
    seen = torch.tensor(tokens).bincount(minlength=4).double()
    expected = (logits.double() / 0.7).softmax(-1) * count
    chi_square = float(((seen - expected) ** 2 / expected).sum())
    assert chi_square < 16.27, "3 degrees of freedom, p = 0.001"


@pytest.mark.parametrize(
    ("limits", "kept"),
    [({"top_k": 2}, [0, 1]), ({"top_p": 0.6}, [0, 1]), ({"top_p": 0.5}, [0]), ({"top_k": 9}, [0, 1, 2])],
)
def test_top_k_and_top_p_keep_the_likeliest(limits, kept):
    logits = torch.tensor([0.5, 0.3, 0.2]).log()
    (probabilities,) = distribution(logits[None], [Sampling(temperature=1.0, **limits)])
    assert probabilities.nonzero().flatten().tolist() == kept
    assert float(probabilities.sum()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"temperature": -1.0}, "temperature is -1.0; it takes a number from 0 to 100"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"top_p": 0.0}, "top_p is 0.0; it takes a number above 0 to 1"),
        ({"top_k": -1}, "top_k is -1"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_values_out_of_range_are_refused_by_name(wrong, message):
    with pytest.raises(RequestError, match=message):
        Sampling(**wrong)


@pytest.mark.parametrize(
    ("prompt", "stop", "message"),
    [
        ((), (), "the prompt is empty"),
        ((1,), ("",), "stop holds 1 texts; it takes at most 16"),
        ((1,), ("a",) * 17, "stop holds 17 texts"),
        ((1,), ("a" * 1001,), "of 1 to 1,000 characters each"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(prompt, stop, message):
    with pytest.raises(RequestError, match=message):
        Request(prompt, stop=stop)


def test_a_prompt_that_cannot_fit_or_holds_a_strange_token_is_refused(model, tokenizer):
    engine = TorchEngine(model, tokenizer, context_tokens=16)
    with pytest.raises(RequestError, match="the prompt has 16 tokens; prompt and answer together may have 16"):
        engine.submit(Request(tuple(range(16))))
    with pytest.raises(RequestError, match="the prompt holds token 8192; this model has tokens 0 to 8191"):
        engine.submit(Request((8192,)))
    assert engine.step() == [], "nothing was left behind"


@settings(max_examples=200, derandomize=True, deadline=None)
@given(
    st.lists(st.text("ab#", min_size=0, max_size=4), max_size=12),
    st.lists(st.text("ab#", min_size=1, max_size=4), max_size=3),
)
def test_stop_text_shows_exactly_what_stands_before_the_first_stop(pieces, stops):
    stream = StopText(stops)
    shown = ""
    whole = ""
    for piece in pieces:
        shown += stream.push(piece)
        whole += piece
        ends = [whole.find(stop) for stop in stops if stop in whole]
        assert stream.stopped == bool(ends)
        if ends:
            assert shown == whole[: min(ends)]
            return
        assert whole.startswith(shown)
    assert shown + stream.flush() == whole


def test_the_cache_keeps_to_its_memory_and_requests_wait_their_turn(model, tokenizer):
    a_row = 64 * cache_bytes_a_token(CONFIG, torch.float32)
    assert a_row == 64 * 2 * 2 * 64 * 4
    engine = TorchEngine(model, tokenizer, context_tokens=64, cache_bytes=2 * a_row + 1)
    for prompt in prompts(tokenizer, 5):
        engine.submit(Request(prompt, Sampling(max_new_tokens=3)))
    assert {piece.request_id for piece in engine.step()} == {0, 1}, "room for two"
    assert len(run_all(engine)[2]) == 5
    engine = TorchEngine(model, tokenizer, context_tokens=64, cache_bytes=1)
    engine.submit(Request((1,), Sampling(max_new_tokens=1)))
    assert len(engine.step()) == 1, "one at least"


@pytest.mark.parametrize("has_adapter", [False, True])
def test_a_small_model_answers_decoded_as_it_does_in_codes(has_adapter, tokenizer, monkeypatch):
    tensors = random_tensors(CONFIG, CPU, torch.float32, 3)
    model = assemble(CONFIG, tensors, quantize="nf4", device=CPU, dtype=torch.float32)
    adapter = new_adapter(CONFIG, 4, 8.0, CPU, torch.Generator().manual_seed(1)) if has_adapter else None
    for delta in adapter.deltas.values() if adapter else ():
        delta.B.data.normal_(generator=torch.Generator().manual_seed(2))

    def answers():
        engine = TorchEngine(model, tokenizer, adapter, context_tokens=64)
        for prompt in prompts(tokenizer, 3):
            engine.submit(Request(prompt, Sampling(max_new_tokens=12)))
        return run_all(engine)

    light = answers()
    monkeypatch.setattr(MPT, "is_cheap_decoded", False)
    assert light == answers()


def test_a_decoded_model_computes_what_its_codes_compute_to_the_bit():
    tensors = random_tensors(CONFIG, CPU, torch.float32, 3)
    model = assemble(CONFIG, tensors, quantize="nf4", device=CPU, dtype=torch.float32)
    tokens = torch.arange(5, 40)[None]
    decoded = model.decoded()
    assert all(isinstance(weight, torch.Tensor) for weight in decoded.weights.values())
    assert torch.equal(decoded.forward(tokens), model.forward(tokens))


def steps_of(engine):
    """Step until nothing is left; return the tokens of each request and the number of steps."""
    tokens, steps = {}, 0
    while pieces := engine.step():
        steps += 1
        for piece in pieces:
            tokens.setdefault(piece.request_id, []).append(piece.token_id)
    return tokens, steps


@pytest.mark.parametrize("how", ["right", "wrong at the end", "wrong within", "of another", "all"])
@pytest.mark.parametrize("limit", [1, 7, 40])
def test_guesses_change_no_greedy_answer(how, limit, model, tokenizer):
    wanted = [plain_greedy(model, prompt, 40) for prompt in prompts(tokenizer, 5)]
    texts = {
        "right": wanted,
        "wrong at the end": [[*text[:20], 5] for text in wanted],
        "wrong within": [[*text[:9], 5, *text[10:]] for text in wanted],
        "of another": [[text[0], *wanted[n - 1][1:]] for n, text in enumerate(wanted)],
    }
    texts["all"] = [text for some in texts.values() for text in some]
    engine = TorchEngine(model, tokenizer, recital=Recital(texts[how]), max_batch=3, context_tokens=90)
    ids = [engine.submit(Request(p, Sampling(max_new_tokens=limit))) for p in prompts(tokenizer, 5)]
    tokens, steps = steps_of(engine)
    assert [tokens[i] for i in ids] == [text[:limit] for text in wanted]
    if how == "right" and limit == 40:
        assert steps <= 2 * 5, "two rounds of one prompt, one token, and 38 tokens in guesses of 16"


def test_guesses_stop_where_the_context_does(model, tokenizer):
    (prompt,) = prompts(tokenizer, 1)
    long = plain_greedy(model, prompt, 30)
    engine = TorchEngine(model, tokenizer, recital=Recital([long]), context_tokens=len(prompt) + 12)
    engine.submit(Request(prompt))
    tokens, _, reasons = run_all(engine)
    assert (list(tokens.values()), list(reasons.values())) == ([long[:12]], ["length"])


def test_drawn_answers_are_drawn_whatever_is_guessed(model, tokenizer):
    drawn = []
    for recital in (Recital(), Recital([plain_greedy(model, prompts(tokenizer, 1)[0], 20)])):
        engine = TorchEngine(model, tokenizer, recital=recital)
        engine.submit(Request(prompts(tokenizer, 1)[0], Sampling(20, temperature=1.0, seed=4)))
        drawn.append(run_all(engine)[0])
    assert drawn[0] == drawn[1]


def test_a_guess_is_what_all_texts_share_that_begin_so():
    recital = Recital([(7, 8, 9, 2), (7, 8, 5, 2), (6, 1, 2)])
    assert recital.after([7], 10) == (8,)
    assert recital.after([7, 8], 10) == (), "9 or 5"
    assert recital.after([7, 8, 9], 10) == recital.after([6, 1], 10) == (2,)
    assert recital.after([6], 1) == (1,)
    assert recital.after([], 10) == recital.after([3], 10) == recital.after([7, 8, 9, 2], 10) == recital.after([6], 0) == ()


def test_a_text_is_begun_until_it_ends_or_another_goes_on():
    recital = Recital([(1, 2, 3), (1, 2, 4, 5), (7,)])
    for said, begun in [((), True), ((1,), True), ((1, 2), True), ((1, 2, 3), False), ((1, 2, 4), True), ((1, 3), False),
                        ((7,), False), ((8,), False)]:  # fmt: skip
        assert recital.is_begun(said) == begun, said
    assert not Recital().is_begun(())


def test_items_are_guessed_as_they_are_trained_on(tokenizer):
    item = Item("Mấy giờ mở cửa?", "Từ 8h30 đến 20h30 ạ.")
    trained = render([Turn(item.question, item.answer)], tokenizer)
    labels = [token for token, is_label in zip(trained.token_ids, trained.in_answer, strict=True) if is_label]
    assert Recital.of_items([item], tokenizer, PHOGPT_4B_CHAT).after(labels[:1], 99) == tuple(labels[1:])


def test_guesses_and_a_stop_text_within_them_end_where_the_stop_stands(model, tokenizer):
    (prompt,) = prompts(tokenizer, 1)
    plain = plain_greedy(model, prompt, 30)
    stop = tokenizer.decode(plain[8:11])
    texts = []
    for recital in (Recital(), Recital([plain])):
        engine = TorchEngine(model, tokenizer, recital=recital)
        request_id = engine.submit(Request(prompt, Sampling(max_new_tokens=30), (stop,)))
        _, found, reasons = run_all(engine)
        texts.append((found[request_id], reasons[request_id]))
    assert texts[0] == texts[1]
    assert texts[0][1] == "stop"


def test_a_request_cancelled_amid_guesses_leaves_the_others_alone(model, tokenizer):
    first, second = prompts(tokenizer, 2)
    wanted = plain_greedy(model, second, 60)
    engine = TorchEngine(model, tokenizer, recital=Recital([plain_greedy(model, first, 60), wanted]))
    gone, kept = (engine.submit(Request(prompt, Sampling(max_new_tokens=60))) for prompt in (first, second))
    said = [piece.token_id for piece in engine.step() if piece.request_id == kept]
    engine.cancel(gone)
    assert said + run_all(engine)[0][kept] == wanted


def test_int8_guesses_nothing(tokenizer):
    """Its products pick outlier columns by all tokens of a call: a guess would change how the others are rounded."""
    tensors = random_tensors(CONFIG, CPU, torch.float32, 3)
    model = assemble(CONFIG, tensors, quantize="int8", device=CPU, dtype=torch.float32)
    (prompt,) = prompts(tokenizer, 1)
    plain = plain_greedy(model, prompt, 20)
    engine = TorchEngine(model, tokenizer, recital=Recital([plain]))
    engine.submit(Request(prompt, Sampling(max_new_tokens=20)))
    tokens, steps = steps_of(engine)
    assert (list(tokens.values()), steps) == ([plain], 19), "two in the first step, then one a step"


def test_a_long_prompt_does_not_keep_answers_waiting(model, tokenizer, monkeypatch):
    monkeypatch.setattr(torch_engine, "_PAUSE_TOKENS", {"cpu": 8})
    short, long = prompts(tokenizer, 1)[0], tuple(range(10, 70))
    engine = TorchEngine(model, tokenizer, context_tokens=100)
    a = engine.submit(Request(short, Sampling(max_new_tokens=30)))
    engine.step()
    b = engine.submit(Request(long, Sampling(max_new_tokens=5)))
    seen = [[piece.request_id for piece in engine.step()] for _ in range(7)]
    assert seen == [[a]] * 7, "the other is read 8 tokens a step"
    tokens, _, _ = run_all(engine)
    assert tokens[b] == plain_greedy(model, long, 5)


def test_a_prompt_read_alone_is_read_at_once(model, tokenizer, monkeypatch):
    monkeypatch.setattr(torch_engine, "_PROMPT_TOKENS_A_STEP", 7)
    prompt = tuple(range(10, 70))
    engine = TorchEngine(model, tokenizer)
    engine.submit(Request(prompt, Sampling(max_new_tokens=4)))
    assert len(engine.step()) == 2, "its first token, and the second"
    assert [p.token_id for p in engine.step()] == plain_greedy(model, prompt, 4)[2:3]


def counted(monkeypatch):
    """Count the tokens that the model reads."""
    count = []
    hidden = MPT.hidden

    def counting(self, tokens, *rest):
        count.append(len(tokens))
        return hidden(self, tokens, *rest)

    monkeypatch.setattr(MPT, "hidden", counting)
    return count


def test_a_conversations_next_turn_goes_on_behind_what_was_read(model, tokenizer, monkeypatch):
    first = tuple(range(20, 60))
    engine = TorchEngine(model, tokenizer, context_tokens=200)
    engine.submit(Request(first, Sampling(max_new_tokens=10), client="a"))
    said = tuple(run_all(engine)[0][0])
    following = (*first, *said, *range(70, 80))
    wanted = plain_greedy(model, following, 8)
    count = counted(monkeypatch)
    again = engine.submit(Request(following, Sampling(max_new_tokens=8), client="a"))
    assert run_all(engine)[0][again] == wanted
    assert count[0] == 11, "the last token said, whose keys were not kept, and the new turn"
    other = engine.submit(Request(following, Sampling(max_new_tokens=8), client="b"))
    del count[:]
    assert run_all(engine)[0][other] == wanted
    assert count[0] == len(following), "nobody goes on behind another's"


def test_the_same_prompt_again_reads_its_last_token_alone(model, tokenizer, monkeypatch):
    prompt = tuple(range(20, 60))
    engine = TorchEngine(model, tokenizer, context_tokens=200)
    engine.submit(Request(prompt, Sampling(max_new_tokens=5)))
    wanted = run_all(engine)[0][0]
    count = counted(monkeypatch)
    again = engine.submit(Request(prompt, Sampling(max_new_tokens=5)))
    assert run_all(engine)[0][again] == wanted
    assert count[0] == 1


def shifted(seed: int, rank: int = 4):
    adapter = new_adapter(CONFIG, rank, 8.0, CPU, torch.Generator().manual_seed(seed))
    for delta in adapter.deltas.values():
        delta.B.data.normal_(generator=torch.Generator().manual_seed(seed)).mul_(0.5)
    return adapter


@pytest.mark.parametrize("quantize", ["none", "nf4"])
def test_each_request_has_the_adapter_that_it_names(quantize, tokenizer):
    tensors = list(random_tensors(CONFIG, CPU, torch.float32, 3))
    model = assemble(CONFIG, tensors, quantize=quantize, device=CPU, dtype=torch.float32)
    own, shop, school = shifted(1), shifted(2), shifted(3, rank=2)
    wanted = {}
    for name, adapter in (("", own), ("shop", shop), ("school", school)):
        alone = TorchEngine(model, tokenizer, adapter)
        alone.submit(Request(prompts(tokenizer, 3)[2], Sampling(max_new_tokens=12)))
        wanted[name] = run_all(alone)[0][0]
    assert len({tuple(tokens) for tokens in wanted.values()}) == 3
    engine = TorchEngine(model, tokenizer, own, adapters={"shop": shop, "school": school}, max_batch=4)
    asked = ["shop", "", "school", "shop", "", "shop"]
    ids = [engine.submit(Request(prompts(tokenizer, 3)[2], Sampling(max_new_tokens=12), adapter=name)) for name in asked]
    tokens, _, _ = run_all(engine)
    assert [tokens[i] for i in ids] == [wanted[name] for name in asked]
    with pytest.raises(RequestError, match="the adapter is 'bank'; this engine has '', 'shop', 'school'"):
        engine.submit(Request((1,), adapter="bank"))


def test_too_many_waiting_are_refused_and_nothing_is_lost(model, tokenizer):
    engine = TorchEngine(model, tokenizer, max_batch=1, max_waiting=2)
    first, second = (engine.submit(Request(p, Sampling(max_new_tokens=3))) for p in prompts(tokenizer, 2))
    with pytest.raises(QueueFullError, match="2 requests are waiting already, as many as may"):
        engine.submit(Request((1,)))
    engine.step()
    third = engine.submit(Request((5, 6), Sampling(max_new_tokens=3)))
    assert set(run_all(engine)[2]) == {first, second, third}


def test_clients_are_served_by_turns(model, tokenizer):
    engine = TorchEngine(model, tokenizer, max_batch=1)
    one = Sampling(max_new_tokens=1)
    ids = {engine.submit(Request((1, 2), one, client="busy")): "busy" for _ in range(5)}
    ids |= {engine.submit(Request((1, 2), one, client=name)): name for name in ("other", "third", "other")}
    served = []
    while pieces := engine.step():
        served += [ids[piece.request_id] for piece in pieces]
    assert served == ["busy", "other", "third", "busy", "other", "busy", "busy", "busy"]


def test_a_deadline_ends_a_request_wherever_it_is(model, tokenizer, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(torch_engine.time, "monotonic", lambda: clock[0])
    engine = TorchEngine(model, tokenizer, max_batch=1)
    a = engine.submit(Request(prompts(tokenizer, 1)[0], Sampling(max_new_tokens=50), seconds=5))
    b = engine.submit(Request(prompts(tokenizer, 2)[1], Sampling(max_new_tokens=3), seconds=4))
    c = engine.submit(Request(prompts(tokenizer, 2)[1], Sampling(max_new_tokens=3)))
    for _ in range(3):
        engine.step()
    clock[0] = 104.0
    assert [(p.request_id, p.finish_reason) for p in engine.step() if p.finish_reason] == [(b, "deadline")]
    clock[0] = 105.0
    reasons = run_all(engine)[2]
    assert reasons == {a: "deadline", c: "length"}
    with pytest.raises(RequestError, match="seconds is 0; it takes a number above 0"):
        Request((1,), seconds=0)


@pytest.mark.parametrize("moment", ["reading", "writing"])
def test_one_requests_crash_ends_that_request_alone(moment, model, tokenizer, monkeypatch):
    first, second, third = prompts(tokenizer, 3)
    wanted = [plain_greedy(model, prompt, 8) for prompt in (first, third)]
    engine = TorchEngine(model, tokenizer, max_batch=3)
    hidden = MPT.hidden

    def failing(self, tokens, starts, cache, delta):
        # The second row's is poisoned: in its prompt, or once it writes.
        if 1 in cache.numbers and (moment == "reading" or cache.past[cache.numbers.index(1)]):
            raise RuntimeError("CUDA error: an illegal memory access")
        return hidden(self, tokens, starts, cache, delta)

    monkeypatch.setattr(MPT, "hidden", failing)
    a, b, c = (engine.submit(Request(p, Sampling(max_new_tokens=8))) for p in (first, second, third))
    tokens, _, reasons = run_all(engine)
    assert reasons == {a: "length", b: "error", c: "length"}
    assert [tokens[a], tokens[c]] == wanted
    monkeypatch.setattr(MPT, "hidden", hidden)
    again = engine.submit(Request(second, Sampling(max_new_tokens=8)))
    assert run_all(engine)[0][again] == plain_greedy(model, second, 8), "the row is good again"


@pytest.mark.parametrize("runs_few", [False, True], ids=["many", "few"])
@settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_schedule_gives_the_plain_answers_and_leaks_no_row(data, runs_few, model, tokenizer, monkeypatch):
    """Requests that join, leave, share prefixes and are cancelled at any moment: each answer is the plain decoder's."""
    if runs_few:  # in four bits, through the network for few tokens, a step ahead where nothing is recited
        model = coded_model()
        monkeypatch.setattr(torch_engine, "_most_few", lambda *_: 64)
        monkeypatch.setattr(MPT, "is_cheap_decoded", False)
    known = plain_answers(model, tokenizer)
    guessed = [answer[:n] for answer, n in zip(known.values(), (20, 7, 0, 20, 3), strict=True)]
    engine = TorchEngine(
        model, tokenizer, max_batch=data.draw(st.integers(1, 4)), context_tokens=64,
        recital=Recital(guessed if data.draw(st.booleans()) else []),
    )  # fmt: skip
    plan, tokens, gone = {}, {}, set()
    for _ in range(data.draw(st.integers(5, 30))):
        action = data.draw(st.sampled_from(["submit", "step", "step", "cancel"]))
        if action == "submit":
            prompt, length = data.draw(st.sampled_from(list(known))), data.draw(st.integers(1, 20))
            client = data.draw(st.sampled_from("ab"))
            plan[engine.submit(Request(prompt, Sampling(max_new_tokens=length), client=client))] = (prompt, length)
        elif action == "cancel" and plan:
            request_id = data.draw(st.sampled_from(list(plan)))
            gone |= {request_id} if engine.cancel(request_id) else set()
        else:
            for piece in engine.step():
                tokens.setdefault(piece.request_id, []).append(piece.token_id)
    while pieces := engine.step():
        for piece in pieces:
            tokens.setdefault(piece.request_id, []).append(piece.token_id)
    for request_id, (prompt, length) in plan.items():
        answer = known[prompt][:length]
        found = tokens.get(request_id, [])
        assert found == answer[: len(found)] if request_id in gone else found == answer
    assert len(engine._free) == len(engine._cache.lengths)
    assert not engine._running
    assert engine._cache.lengths == [0] * len(engine._cache.lengths)


_PLAIN: dict = {}


@functools.cache
def coded_model() -> MPT:
    tensors = random_tensors(replace(CONFIG, d_model=64, n_heads=4), CPU, torch.float32, 3)
    return assemble(replace(CONFIG, d_model=64, n_heads=4), tensors, quantize="nf4", device=CPU, dtype=torch.float32)


def plain_answers(model, tokenizer):
    """Return five prompts, two of them beginning alike, and their plain answers; computed once a model."""
    if model not in _PLAIN:
        shared = tuple(range(30, 52))
        inputs = (*prompts(tokenizer, 3), shared, (*shared, 7, 8, 9))
        _PLAIN[model] = {prompt: plain_greedy(model, prompt, 20) for prompt in inputs}
    return _PLAIN[model]


def test_a_row_is_the_same_to_the_bit_whatever_its_neighbours_ask_for():
    logits = torch.randn(3, 500, generator=torch.Generator().manual_seed(0))
    plain = Sampling(temperature=0.7)
    alone = distribution(logits[:1], [plain])
    for other in (
        Sampling(temperature=2.0, top_k=3),
        Sampling(temperature=1.0, top_p=0.5),
        Sampling(temperature=1.0, min_p=0.2),
    ):
        assert torch.equal(distribution(logits, [plain, other, other])[:1], alone)


@pytest.mark.parametrize("temperature", [1e-300, 1e-38, 1e-3])
def test_a_temperature_near_zero_draws_the_likeliest(temperature):
    logits = torch.tensor([[-800.0, 900.0, 3.0], [5.0, 4.0, 4.9]])
    probabilities = distribution(logits, [Sampling(temperature=temperature)] * 2)
    assert probabilities.tolist() == [[0, 1, 0], pytest.approx([1, 0, 0])]


def test_min_p_keeps_what_is_nearly_as_likely():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    for share, kept in ((0.0, 4), (0.09, 4), (0.25, 3), (0.5, 2), (1.0, 1)):
        (probabilities,) = distribution(logits[None], [Sampling(temperature=1.0, min_p=share)])
        assert int((probabilities > 0).sum()) == kept
        assert float(probabilities.sum()) == pytest.approx(1)


def test_a_repetition_penalty_lowers_what_stands_there_already():
    logits = torch.tensor([2.0, 1.9, -1.0, -1.1])
    twice = Sampling(repetition_penalty=2.0)
    (scores, same) = penalised(logits.expand(2, -1), [twice, twice], [[0, 0, 2], []])
    assert scores.tolist() == pytest.approx([1.0, 1.9, -2.0, -1.1])
    assert same.tolist() == logits.tolist()
    greedy = Sampling(repetition_penalty=2.0)
    tokens, nats = choose(logits[None], [greedy], [torch.Generator()], [[0]])
    assert tokens == [1]
    assert nats[0] == pytest.approx(float(logits.log_softmax(-1)[1])), "the model's own, whatever the penalty"


def test_a_penalised_answer_repeats_less_and_is_the_same_whatever_is_guessed(model, tokenizer):
    (prompt,) = prompts(tokenizer, 1)
    plain = plain_greedy(model, prompt, 20)
    texts = []
    for recital in (Recital(), Recital([plain])):
        engine = TorchEngine(model, tokenizer, recital=recital)
        engine.submit(Request(prompt, Sampling(max_new_tokens=20, repetition_penalty=5.0)))
        texts.append(run_all(engine)[0][0])
    assert texts[0] == texts[1]
    assert len(set(texts[0])) > len(set(plain))


def test_a_next_turn_never_goes_on_behind_a_wrong_guess(model, tokenizer):
    """An answer that ends where a guess was wrong leaves the guess's keys in the row, not its last token's."""
    first = tuple(range(20, 60))
    plain = plain_greedy(model, first, 6)
    wrong = (plain[5] + 1) % CONFIG.vocab_size
    engine = TorchEngine(model, tokenizer, recital=Recital([[*plain[:5], wrong, wrong, wrong]]), context_tokens=200)
    a = engine.submit(Request(first, Sampling(max_new_tokens=6)))
    said = run_all(engine)[0][a]
    assert said == plain
    ((_, tokens),) = [held for held in engine._free._free.values() if held[1]]
    assert tokens == (*first, *plain[:5])


@pytest.mark.parametrize("where", ["logits", "text"])
def test_a_failure_behind_the_model_spoils_nothing(where, model, tokenizer, monkeypatch):
    wanted = [plain_greedy(model, prompt, 8) for prompt in prompts(tokenizer, 3)]
    engine = TorchEngine(model, tokenizer, max_batch=3)
    ids = [engine.submit(Request(prompt, Sampling(max_new_tokens=8))) for prompt in prompts(tokenizer, 3)]
    if where == "logits":
        logits = MPT.logits

        def failing(self, hidden):
            if len(hidden) > 1:
                raise torch.OutOfMemoryError("no room for so many")
            return logits(self, hidden)

        monkeypatch.setattr(MPT, "logits", failing)
    else:
        take = TorchEngine._take_one

        def failing(self, running, token, nats):
            if running.id == ids[1] and len(running.said) == 3:
                raise ValueError("half a character")
            return take(self, running, token, nats)

        monkeypatch.setattr(TorchEngine, "_take_one", failing)
    found, _, reasons = run_all(engine)
    assert [found[ids[0]], found[ids[2]]] == [wanted[0], wanted[2]]
    assert reasons[ids[1]] == ("length" if where == "logits" else "error")
    assert found[ids[1]] == (wanted[1] if where == "logits" else [*wanted[1][:3], None])
