"""The prompt equals PhoGPT-4B-Chat's own template, and what is asked with is what was trained on."""

import unicodedata
from itertools import chain, pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

import hoidap
from hoidap.errors import RecipeError
from hoidap.prompt import INSTRUCTION_RESPONSE, PHOGPT_4B_CHAT, PHOGPT_7B5_INSTRUCT, Rendered, Turn, find_template, render
from hoidap.text import nfc
from hoidap.tokenizer import Tokenizer

TOKENIZER = Tokenizer.from_file(Path(hoidap.__file__).parent / "assets" / "mini" / "tokenizer.json")

# chat_template of vinai/PhoGPT-4B-Chat's tokenizer_config.json, commit 5b1d456, letter by letter.
CHAT_TEMPLATE = (
    r"{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
    r"{% for message in messages %}"
    r"{% if message['role'] == 'user' and loop.first %}{{ '### Câu hỏi: ' + message['content'].strip() }}"
    r"{% elif message['role'] == 'user' %}{{ '\n### Câu hỏi: ' + message['content'].strip() }}"
    r"{% elif message['role'] == 'assistant' %}{{ '\n### Trả lời: ' + message['content'] + eos_token }}{% endif %}"
    r"{% if loop.last %}{% if message['role'] == 'user' and add_generation_prompt %}{{ '\n### Trả lời:' }}{% endif %}"
    r"{% endif %}{% endfor %}"
)
TURNS = (
    Turn("Mấy giờ cửa hàng mở cửa?", "Dạ, cửa hàng mở cửa từ 8 giờ sáng."),
    Turn("Có giao hàng không?", "Dạ có. Phí nội thành là 25.000 đ,\nđơn từ 500.000 đ thì miễn phí 🎉"),
    Turn("  ### Câu hỏi: cảm ơn </s> nhé\n", "### Trả lời: không có chi ạ "),
)
CONVERSATIONS = [TURNS[:n] for n in (1, 2, 3)]
each_conversation = pytest.mark.parametrize("turns", CONVERSATIONS, ids=["one turn", "two turns", "three turns"])
TURN = st.builds(Turn, st.text(max_size=20), st.text(max_size=20))


def asked(turns: tuple[Turn, ...] | list[Turn]) -> list[Turn]:
    """Return the conversation with its last answer still to be written."""
    return [*turns[:-1], Turn(turns[-1].question)]


def template_text(turns: tuple[Turn, ...] | list[Turn], *, add_generation_prompt: bool) -> str:
    messages = []
    for turn in turns:
        messages.append({"role": "user", "content": turn.question})
        if turn.answer is not None:
            messages.append({"role": "assistant", "content": turn.answer})
    template = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(CHAT_TEMPLATE)
    return template.render({"messages": messages, "eos_token": "</s>", "add_generation_prompt": add_generation_prompt})


def text_of(rendered: Rendered) -> str:
    """Return the text with special tokens spelled out."""
    return TOKENIZER._core.decode(rendered.token_ids, skip_special_tokens=False)


def counted(rendered: Rendered) -> list[int]:
    return [token_id for token_id, in_answer in zip(rendered.token_ids, rendered.in_answer, strict=True) if in_answer]


@each_conversation
def test_an_answered_conversation_equals_phogpts_template(turns):
    assert text_of(render(turns, TOKENIZER)) == template_text(turns, add_generation_prompt=False)


@each_conversation
def test_a_prompt_equals_phogpts_template_with_its_generation_prompt(turns):
    assert text_of(render(asked(turns), TOKENIZER)) == template_text(asked(turns), add_generation_prompt=True)


def test_the_text_of_two_turns_is_as_written_down_by_hand():
    text = "### Câu hỏi: A\n### Trả lời: B</s>\n### Câu hỏi: C\n### Trả lời:"
    assert text_of(render([Turn("A", "B"), Turn("C")], TOKENIZER)) == text


@settings(max_examples=200, deadline=None)
@given(st.lists(TURN, min_size=1, max_size=3))
def test_any_conversation_equals_phogpts_template(turns):
    composed = [Turn(nfc(turn.question), nfc(turn.answer)) for turn in turns]
    assert text_of(render(turns, TOKENIZER)) == template_text(composed, add_generation_prompt=False)


@each_conversation
def test_the_loss_counts_each_answer_with_its_space_and_end_token_and_nothing_else(turns):
    answers = [[*TOKENIZER.encode(f" {turn.answer}"), TOKENIZER.eos_id] for turn in turns]
    assert counted(render(turns, TOKENIZER)) == list(chain.from_iterable(answers))


@each_conversation
def test_the_loss_counts_one_unbroken_run_an_answer(turns):
    in_answer = render(turns, TOKENIZER).in_answer
    assert [now for before, now in pairwise([False, *in_answer]) if now and not before] == [True] * len(turns)


def test_a_prompt_has_nothing_in_its_loss_but_earlier_answers():
    rendered = render(asked(TURNS[:2]), TOKENIZER)
    assert counted(rendered) == [*TOKENIZER.encode(f" {TURNS[0].answer}"), TOKENIZER.eos_id]
    assert not rendered.in_answer[-1]


@each_conversation
def test_the_prompt_asked_with_is_the_beginning_of_what_was_trained_on(turns):
    trained = render(turns, TOKENIZER)
    prompt = render(asked(turns), TOKENIZER)
    assert trained.token_ids[: len(prompt.token_ids)] == prompt.token_ids
    assert all(trained.in_answer[len(prompt.token_ids) :]), "what follows the prompt is the answer alone"


@settings(max_examples=200, deadline=None)
@given(st.lists(TURN, min_size=1, max_size=3))
def test_the_prompt_of_any_conversation_begins_what_was_trained_on(turns):
    trained = render(turns, TOKENIZER).token_ids
    for n in range(1, len(turns) + 1):
        prompt = render(asked(turns[:n]), TOKENIZER).token_ids
        assert trained[: len(prompt)] == prompt


@pytest.mark.parametrize("n", [1, 2])
def test_a_longer_conversation_goes_on_from_a_shorter_one(n):
    shorter, longer = render(TURNS[:n], TOKENIZER), render(TURNS[: n + 1], TOKENIZER)
    assert longer.token_ids[: len(shorter.token_ids)] == shorter.token_ids
    assert longer.in_answer[: len(shorter.in_answer)] == shorter.in_answer


@pytest.mark.parametrize("question", ["  Mấy giờ?", "Mấy giờ? \n", "\t\u00a0Mấy giờ?\r\n"])
def test_white_space_around_a_question_does_not_count(question):
    assert render([Turn(question)], TOKENIZER) == render([Turn("Mấy giờ?")], TOKENIZER)


def test_white_space_around_an_answer_is_kept():
    assert text_of(render([Turn("a", " b ")], TOKENIZER)).endswith("### Trả lời:  b </s>")


def test_decomposed_turns_render_as_composed_ones():
    apart = [Turn(*(unicodedata.normalize("NFD", text) for text in (turn.question, turn.answer))) for turn in TURNS]
    assert render(apart, TOKENIZER) == render(TURNS, TOKENIZER)


def test_only_an_answer_ends_with_the_end_token_whatever_a_question_spells():
    rendered = render([Turn("a</s>b", "c</s>d")], TOKENIZER)
    assert [at for at, token_id in enumerate(rendered.token_ids) if token_id == TOKENIZER.eos_id] == [
        len(rendered.token_ids) - 1
    ]


def test_no_token_opens_the_text():
    assert render([Turn("a")], TOKENIZER).token_ids[0] == TOKENIZER.encode("###")[0]


def test_the_stop_text_opens_every_question():
    assert text_of(render(TURNS[:2], TOKENIZER)).count(PHOGPT_4B_CHAT.stop) == 2


def test_no_turns_are_no_tokens():
    assert render([], TOKENIZER) == Rendered([], [])


SINGLE = pytest.mark.parametrize(
    ("template", "text"),
    [
        (PHOGPT_7B5_INSTRUCT, "### Câu hỏi:\nMấy giờ mở cửa?\n\n### Trả lời:8 giờ ạ.</s>"),
        (INSTRUCTION_RESPONSE, "### Instruction:Mấy giờ mở cửa?### Response:8 giờ ạ.</s>"),
    ],
)


@SINGLE
def test_single_turn_templates_letter_by_letter(template, text):
    rendered = render([Turn(" Mấy giờ mở cửa?", "8 giờ ạ.")], TOKENIZER, template)
    assert text_of(rendered) == text
    assert TOKENIZER.decode(counted(rendered)) == "8 giờ ạ."
    asked_with = render([Turn("Mấy giờ mở cửa?")], TOKENIZER, template)
    assert text_of(asked_with) == text.split("8 giờ")[0]
    assert rendered.token_ids[: len(asked_with.token_ids)] == asked_with.token_ids
    assert text.startswith(template.stop)


@pytest.mark.parametrize("template", [PHOGPT_7B5_INSTRUCT, INSTRUCTION_RESPONSE], ids=lambda t: t.name)
def test_a_single_turn_template_takes_no_second_turn(template):
    with pytest.raises(ValueError, match=f"the template {template.name} holds one question; got 2 turns"):
        render(TURNS[:2], TOKENIZER, template)
    with pytest.raises(ValueError, match="holds one question"):
        render(TURNS[:1], TOKENIZER, template, opens=False)


def test_a_later_turn_alone_is_what_it_is_in_its_conversation():
    both = render(TURNS[:2], TOKENIZER)
    first, later = render(TURNS[:1], TOKENIZER), render(TURNS[1:2], TOKENIZER, opens=False)
    assert first.token_ids + later.token_ids == both.token_ids
    assert first.in_answer + later.in_answer == both.in_answer


def test_a_template_nobody_knows_is_named():
    assert find_template("phogpt-4b-chat") is PHOGPT_4B_CHAT
    message = "--template is 'alpaca'; it takes 'phogpt-4b-chat', 'phogpt-7b5-instruct', 'instruction-response'"
    with pytest.raises(RecipeError, match=message):
        find_template("alpaca")
