"""The visitor's page, the owner's and the widget as people use them: in a browser, by keys, by fingers, with ill will."""

import csv
import io
import json
import re
from contextlib import contextmanager
from pathlib import Path

import pytest

from hoidap.serve.owner import MOST_ANSWER

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = Path("/usr/bin/chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no {CHROMIUM} here: the page is tested in a browser"),
]

from fake_serve import CONTACT, HOSTILE, HOSTILE_TEXT, serving  # noqa: E402 - needs what may be skipped
from playwright.sync_api import expect  # noqa: E402

KNOWN = "Ngày thường tiệm mở cửa từ mấy giờ đến mấy giờ?"
ANSWER = "Từ thứ Hai đến thứ Sáu, cả ba chi nhánh mở cửa từ 8h30 đến 20h30 ạ."
UNKNOWN = "Tiệm có bán ghế mây không?"
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}
WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => window.violations.push(event.violatedDirective));
window.said = [];
document.addEventListener("DOMContentLoaded", () => {
  const status = document.getElementById("status");
  const note = () => window.said.push(status.textContent);
  if (status) new MutationObserver(note).observe(status, { childList: true, characterData: true, subtree: true });
});
"""
TAGS = {
    *(
        "ARTICLE",
        "DIV",
        "SECTION",
        "H3",
        "P",
        "UL",
        "OL",
        "LI",
        "BR",
        "STRONG",
        "CODE",
        "A",
        "SPAN",
        "BUTTON",
        "svg",
        "path",
        "H2",
    )
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("serve")) as served:
        yield served


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def visit(browser, server):
    """Opens pages as new visitors; nothing that goes wrong in one of them goes unseen."""
    contexts, problems = [], []

    @contextmanager
    def expecting(*_kinds):
        before = len(problems)
        yield
        del problems[before:]

    def opened(path="/", **options):
        context = browser.new_context(locale="vi-VN", **{"viewport": {"width": 1280, "height": 800}, **options})
        contexts.append(context)
        context.add_init_script(WATCH)
        page = context.new_page()
        page.set_default_timeout(8000)
        page.on("console", lambda m: problems.append(f"{m.type}: {m.text}") if m.type in {"error", "warning"} else None)
        page.on("pageerror", lambda error: problems.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (problems.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda r: None if allowed(r.url) else problems.append(f"request: {r.url}"))
        page.goto(path if path.startswith("http") else server.home + path)
        return page

    def allowed(url):
        return url.startswith((f"{server.home}/", f"{server.elsewhere}/", "data:", f"blob:{server.home}/"))

    opened.expecting = expecting
    yield opened
    for context in contexts:
        for page in context.pages:
            problems += page.evaluate("window.violations")
        context.close()
    assert problems == []


def ask(page, question, *, waits=True):
    page.locator("#question").fill(question)
    page.keyboard.press("Enter")
    if waits:
        expect(page.locator("article").last.locator(".actions")).to_be_visible()


def last(page):
    return page.locator("article").last


def answer(page):
    return last(page).locator(".answer-text")


def chats(page):
    return page.locator(".chat-open")


def stream(*events):
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events)


def answer_with(page, body):
    page.route("**/api/ask", lambda route: route.fulfill(content_type="text/event-stream", body=body))


def said(page):
    return [text for text in page.evaluate("window.said") if text]


def test_an_answer_appears_as_it_is_written_and_is_announced_once(visit):
    page = visit()
    ask(page, "Trình bày các chi nhánh", waits=False)
    expect(page.locator("article[aria-busy=true]")).to_be_visible()
    expect(answer(page).locator("p").first).to_have_text(re.compile("^Dạ"))
    expect(last(page).locator(".actions")).to_be_visible()
    expect(page.locator("article[aria-busy]")).to_have_count(0)
    assert answer(page).locator("ol > li").all_inner_texts() == ["Tú Xương, quận 3", "Thảo Điền", "Phan Xích Long"]
    assert answer(page).locator("strong").inner_text() == "ba chi nhánh"
    links = answer(page).locator("a").evaluate_all("links => links.map((a) => [a.getAttribute('href'), a.rel])")
    rel = "noopener noreferrer nofollow"
    addresses = ("tel:0900000216", "mailto:tiem@mocnhien.example", "https://mocnhien.example/cua-hang")
    assert links == [[address, rel] for address in addresses]
    told = said(page)
    assert told[0] == "Đang trả lời…"
    assert len(told) == 2
    assert "Tú Xương" in told[1]
    assert page.locator("#log").get_attribute("aria-live") == "off"


@pytest.mark.parametrize("by", ["button", "Escape"])
def test_an_answer_stops_and_what_was_written_is_kept(visit, server, by):
    page = visit()
    question = f"Thật chậm nhé {by}"
    ask(page, question, waits=False)
    expect(answer(page)).to_contain_text("chữ-3")
    expect(page.locator(".composer .send")).to_be_hidden()
    page.locator(".composer .stop").click() if by == "button" else page.keyboard.press("Escape")
    expect(last(page).locator(".note")).to_have_text("Đã dừng.")
    expect(page.locator("#question")).to_be_focused()
    written = answer(page).inner_text()
    assert "chữ-399" not in written
    page.wait_for_function("() => document.querySelectorAll('.chat-open').length === 1")
    assert question in server.desk.cancelled
    page.reload()
    expect(last(page).locator(".note")).to_have_text("Đã dừng.")
    kept = answer(page).inner_text()
    assert kept.startswith("chữ-0 chữ-1")
    assert "chữ-399" not in kept


def test_what_is_stopped_before_its_first_word_is_gone_on_with(visit):
    page = visit()
    ask(page, "Im lặng một lúc", waits=False)
    expect(page.locator(".waiting")).to_be_visible()
    page.keyboard.press("Escape")
    expect(last(page).locator(".note")).to_have_text("Đã dừng.")
    expect(page.locator(".composer .send")).to_be_visible()
    ask(page, KNOWN)
    expect(chats(page)).to_have_count(1)
    page.reload()
    expect(page.locator(".question")).to_have_text(["Im lặng một lúc", KNOWN])
    page.locator("article").first.locator(".again").click()
    expect(page.locator("article")).to_have_count(1)
    expect(page.locator(".waiting")).to_be_visible()
    page.keyboard.press("Escape")
    expect(last(page).locator(".note")).to_have_text("Đã dừng.")


def test_what_never_reaches_the_server_can_be_stopped(visit):
    page = visit()
    page.route("**/api/ask", lambda _: None)
    ask(page, KNOWN, waits=False)
    page.keyboard.press("Escape")
    expect(last(page).locator(".note")).to_have_text("Đã dừng.")
    page.unroute("**/api/ask")
    last(page).locator(".again").click()
    expect(answer(page)).to_contain_text(ANSWER)
    expect(page.locator("article")).to_have_count(1)
    page.reload()
    expect(page.locator("article")).to_have_count(1)


def test_a_stopped_answer_is_known_without_asking_for_it(visit):
    page = visit()
    ask(page, KNOWN)
    looked_up = []
    page.on("request", lambda request: looked_up.append(request.url) if "/api/conversations/" in request.url else None)
    ask(page, "Im lặng nhé", waits=False)
    page.keyboard.press("Escape")
    expect(last(page).locator(".note")).to_have_text("Đã dừng.")
    last(page).locator(".again").click()
    page.keyboard.press("Escape")
    expect(last(page).locator(".note")).to_have_text("Đã dừng.")
    ask(page, UNKNOWN)
    assert looked_up == []
    page.reload()
    expect(page.locator(".question")).to_have_text([KNOWN, "Im lặng nhé", UNKNOWN])


def test_answering_again_takes_the_place_of_the_answer(visit, server):
    page = visit()
    ask(page, KNOWN)
    before = len(server.desk.asked)
    last(page).locator(".again").click()
    expect(page.locator("#question")).to_be_focused()
    expect(page.locator("article[aria-busy]")).to_have_count(0)
    expect(answer(page)).to_contain_text(ANSWER)
    assert len(server.desk.asked) == before + 1
    assert server.desk.asked[-1].history == ()
    page.reload()
    expect(answer(page)).to_contain_text(ANSWER)
    assert page.locator("article").count() == 1


def test_an_edited_question_drops_what_came_after_it(visit, server):
    page = visit()
    for question in ("Tiệm có tất cả mấy chi nhánh?", KNOWN, UNKNOWN):
        ask(page, question)
    second = page.locator("article").nth(1)
    second.locator(".asked").hover()
    second.locator(".edit").click()
    field = second.locator("textarea")
    expect(field).to_be_focused()
    expect(second.locator(".editor .hint")).to_have_text("Những câu hỏi sau câu này sẽ bị bỏ.")
    page.keyboard.press("Escape")
    expect(second.locator(".question")).to_have_text(KNOWN)
    expect(second.locator(".edit")).to_be_focused()
    page.keyboard.press("Enter")
    field.fill("Trà sen giá bao nhiêu một hộp?")
    page.keyboard.press("Enter")
    expect(answer(page)).to_contain_text("220.000đ")
    expect(page.locator("article")).to_have_count(2)
    assert [turn.question for turn in server.desk.asked[-1].history] == ["Tiệm có tất cả mấy chi nhánh?"]
    page.reload()
    expect(page.locator("article")).to_have_count(2)
    assert page.locator(".question").all_inner_texts()[1] == "Trà sen giá bao nhiêu một hộp?"


def test_an_unfinished_composition_is_not_sent(visit):
    page = visit()
    box = page.locator("#question")
    box.fill("Tiệm mở cửa mấy giờ")
    page.evaluate("""() => {
      const box = document.getElementById("question");
      const usual = { key: "Enter", bubbles: true, cancelable: true };
      const press = (init) => box.dispatchEvent(new KeyboardEvent("keydown", { ...usual, ...init }));
      box.dispatchEvent(new CompositionEvent("compositionstart", { bubbles: true }));
      window.isTaken = [press({ isComposing: true }), press({ keyCode: 229 })].includes(false);
      box.dispatchEvent(new CompositionEvent("compositionend", { bubbles: true }));
    }""")
    assert not page.evaluate("window.isTaken")
    expect(box).to_have_value("Tiệm mở cửa mấy giờ")
    expect(page.locator("article")).to_have_count(0)
    page.keyboard.press("End")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("và đóng cửa")
    expect(box).to_have_value("Tiệm mở cửa mấy giờ\nvà đóng cửa")
    expect(page.locator("article")).to_have_count(0)
    page.keyboard.press("Enter")
    expect(last(page).locator(".actions")).to_be_visible()
    assert last(page).locator(".question").inner_text() == "Tiệm mở cửa mấy giờ\nvà đóng cửa"


def test_empty_questions_are_not_sent(visit):
    page = visit()
    page.locator("#question").fill("   \n ")
    page.keyboard.press("Enter")
    expect(page.locator(".send")).to_be_disabled()
    expect(page.locator("article")).to_have_count(0)


def test_conversations_are_searched_renamed_downloaded_and_deleted(visit):
    page = visit()
    for question in (KNOWN, "Trà sen giá bao nhiêu một hộp?"):
        page.locator("#new-chat").click()
        ask(page, question)
    expect(chats(page)).to_have_count(2)
    page.locator("#chat-search").fill("huong lieu")  # stands in the answer, with marks
    expect(chats(page)).to_have_count(1)
    page.locator("#chat-search").fill("không ở đâu cả")
    expect(page.locator(".chats .hint")).to_have_text("Không tìm thấy gì.")
    page.locator("#chat-search").fill("")
    expect(chats(page)).to_have_count(2)

    row = page.locator(".chat", has=page.locator("text=Trà sen"))
    row.hover()
    row.locator(".chat-more").click()
    row.get_by_text("Đổi tên").click()
    page.keyboard.type("Đặt trà cho mẹ")
    page.keyboard.press("Enter")
    expect(chats(page).first).to_be_focused()
    expect(chats(page).first).to_have_text("Đặt trà cho mẹ")

    row = page.locator(".chat", has=page.locator("text=Đặt trà cho mẹ"))
    row.hover()
    row.locator(".chat-more").click()
    with page.expect_download() as downloading:
        row.get_by_text("Tải về máy").click()
    assert downloading.value.suggested_filename == "Đặt trà cho mẹ.txt"
    text = downloading.value.path().read_text(encoding="utf-8")
    assert "Bạn hỏi: Trà sen giá bao nhiêu một hộp?" in text
    assert "220.000đ" in text

    row.hover()
    row.locator(".chat-more").click()
    row.get_by_text("Xoá", exact=True).click()
    expect(page.locator("dialog")).to_contain_text("“Đặt trà cho mẹ” sẽ bị xoá hẳn")
    page.keyboard.press("Escape")
    expect(chats(page)).to_have_count(2)
    row.hover()
    row.locator(".chat-more").click()
    row.get_by_text("Xoá", exact=True).click()
    page.locator("dialog .danger").click()
    expect(chats(page)).to_have_count(1)
    expect(page.locator("#toast")).to_have_text("Đã xoá cuộc trò chuyện.")
    expect(page.locator("article")).to_have_count(0)
    chats(page).first.click()
    expect(answer(page)).to_contain_text(ANSWER)
    expect(chats(page).first).to_have_attribute("aria-current", "true")


def test_thumbs_and_comments_are_kept(visit, server):
    page = visit()
    ask(page, "Thớt gỗ me tây có mấy cỡ, giá sao?")
    down = last(page).get_by_role("button", name="Câu trả lời chưa tốt")
    down.click()
    expect(down).to_have_attribute("aria-pressed", "true")
    last(page).locator(".comment input").fill("Giá này cũ rồi <b>")
    page.keyboard.press("Enter")
    expect(last(page).locator(".comment")).to_have_text("Cảm ơn góp ý của bạn.")
    page.reload()
    expect(down).to_have_attribute("aria-pressed", "true")
    owner = page.request.get(
        f"{server.home}/api/owner/asked?filter=down", headers={"Authorization": f"Bearer {server.key}"}
    )
    assert [turn["comment"] for turn in owner.json()["turns"]] == ["Giá này cũ rồi <b>"]
    down.click()
    expect(down).to_have_attribute("aria-pressed", "false")
    expect(last(page).locator(".comment")).to_have_count(0)


def test_the_language_is_switched_and_remembered(visit):
    page = visit()
    ask(page, UNKNOWN)
    assert page.locator("html").get_attribute("lang") == "vi"
    page.get_by_role("button", name="English").click()
    expect(page.locator("html")).to_have_attribute("lang", "en")
    expect(page.locator("#new-chat")).to_have_text("New conversation")
    expect(page.locator("#question")).to_have_attribute("placeholder", "Ask a question…")
    expect(last(page).locator(".near-title").first).to_have_text("Did you mean")
    assert page.get_by_role("button", name="Copy the answer").count() == 1
    page.reload()
    expect(page.locator("html")).to_have_attribute("lang", "en")
    expect(page.locator(".caution")).to_have_text(re.compile("AI can be wrong"))
    page.get_by_role("button", name="Tiếng Việt").click()
    expect(page.locator("#new-chat")).to_have_text("Cuộc trò chuyện mới")


def test_hostile_text_stays_text_wherever_it_comes_from(visit):
    page = visit()
    ask(page, HOSTILE[1])  # question, title of the conversation, answer, source
    last(page).get_by_role("button", name="Nguồn").click()
    expect(last(page).locator(".source-answer")).to_have_text(HOSTILE_TEXT)
    ask(page, "Từ chối độc hại")
    expect(last(page).locator(".offer").first).to_have_text(HOSTILE[1])
    ask(page, "Độc hại\n" + HOSTILE_TEXT)
    page.reload()
    expect(page.locator("article")).to_have_count(3)
    expect(chats(page).first).to_have_text(HOSTILE[1])
    page.locator(".chat").hover()
    page.locator(".chat-more").click()
    page.locator(".chat").get_by_text("Xoá", exact=True).click()
    expect(page.locator("dialog p")).to_contain_text(HOSTILE[1])
    page.keyboard.press("Escape")
    for part in ("#log", "#chats", "dialog"):
        found = page.evaluate(
            """(part) => [...document.querySelectorAll(part + " *")].flatMap((node) => [
                 node.tagName, ...[...node.attributes].filter((a) => /^on|^src|^style$/i.test(a.name)).map((a) => a.name),
                 ...(node.href && !/^(https:|mailto:|tel:)/.test(node.href) ? [node.href] : [])])""",
            part,
        )
        assert set(found) <= TAGS
    shown = page.locator("article").first.locator(".answer-text").inner_text()
    for text in (*HOSTILE[:5], HOSTILE[6], "[x](data:text/html", '<a href="https://evil.example" onclick=alert(5)>'):
        assert text in shown
    assert page.title() == "Tiệm gốm Mộc Nhiên"


LINKED = {
    "gọi 0900.000.216 nha": ["tel:0900000216"],
    "0900 000 216/0900 000 217": ["tel:0900000216", "tel:0900000217"],
    "(028) 3820 0000 hoặc +84 28 3820 0000": ["tel:02838200000", "tel:+842838200000"],
    "tổng đài 1900 6035.": ["tel:19006035"],
    "giá 1.450.000đ, 0900000216đ, 18000000, 1800 0000đ, 2.0900000216": [],
    "ngày 02/09/2026 từ 08.00 - 21.30, STK 0071000123456": [],
    "tiem@mocnhien.example, a@b": ["mailto:tiem@mocnhien.example"],
    "**https://a.example/x** (xem https://b.example/y).": ["https://a.example/x", "https://b.example/y"],
    "[web](https://a.example/) ![ảnh](https://b.example/c.png)": ["https://a.example/", "https://b.example/c.png"],
    "javascript:alert(1) [x](JAVASCRIPT:alert(1)) [y](//evil.example) [z](data:,x) ftp://a.example http://": [],
}
SHOWN = """async (text) => {
  const links = [...document.querySelectorAll("link[rel=modulepreload]")].map((link) => link.href);
  const { showText } = await import(links.find((address) => address.endsWith("markdown.js")));
  const node = document.createElement("div");
  showText(node, text);
  return [node.textContent, [...node.querySelectorAll("a")].map((link) => link.getAttribute("href"))];
}"""


def test_numbers_and_addresses_become_links_and_nothing_else_does(visit):
    page = visit()
    for text, links in LINKED.items():
        assert page.evaluate(SHOWN, text)[1] == links, text


def test_a_text_of_signs_alone_is_shown_whole(visit):
    page = visit()
    signs = [
        "[",
        "*",
        "0 ",
        "0",
        "a@",
        "`",
        "[a](",
        "https://",
        "<b>",
        "&lt;",
        "](",
        "+84 ",
        "(0",
        "__",
        "# ",
        "| ",
        "\u202e",
        "❤️",
    ]
    for sign in signs:
        text = sign * (8000 // len(sign))
        assert page.evaluate(SHOWN, text)[0] == text, sign


def test_everything_is_reached_by_keys_alone(visit):
    page = visit()
    expect(page.locator("#question")).to_be_focused()
    page.keyboard.type(UNKNOWN)
    page.keyboard.press("Enter")
    expect(page.locator(".offer").first).to_be_visible()
    expect(page.locator("#question")).to_be_focused()
    expect(chats(page)).to_have_count(1)
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        name = page.evaluate(
            "document.activeElement.id || document.activeElement.className || document.activeElement.tagName"
        )
        reached.append(name)
        if name == "question":
            break
    for name in (
        "new-chat",
        "chat-search",
        "chat-open",
        "icon-button chat-more",
        "language",
        "settings",
        "offer",
        "A",
        "icon-button",
    ):
        assert name in reached
    assert page.evaluate("getComputedStyle(document.activeElement.closest('form')).borderTopColor") != "rgba(0, 0, 0, 0)"
    page.locator(".offer").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("article")).to_have_count(2)
    expect(last(page).locator(".actions")).to_be_visible()
    source = last(page).get_by_role("button", name="Nguồn")
    source.focus()
    page.keyboard.press("Space")
    expect(source).to_have_attribute("aria-expanded", "true")
    expect(last(page).locator(".source")).to_be_visible()
    page.locator("#settings").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#settings-menu")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#settings-menu")).to_be_hidden()
    expect(page.locator("#settings")).to_be_focused()


UNNAMED = """() => [...document.querySelectorAll("button, input, textarea, select, a, iframe")]
  .filter((node) => node.checkVisibility({ visibilityProperty: true, opacityProperty: true }))
  .filter((node) => !(node.ariaLabel || node.innerText?.trim() || node.labels?.length || node.title))
  .map((node) => node.outerHTML)"""
SMALL = """() => [...document.querySelectorAll(
    "button, input:not([type=radio], [type=checkbox]), textarea, select, .choice, .themes label, .other, .contact a")]
  .filter((node) => node.checkVisibility({ visibilityProperty: true, opacityProperty: true }))
  .map((node) => [node.className || node.id, node.getBoundingClientRect()])
  .filter(([, box]) => box.width < 43.9 || box.height < 43.9)
  .map(([name, box]) => `${name} ${box.width} × ${box.height}`)"""
FAINT = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => rgb.slice(0, 3).map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, n) => sum + c * [0.2126, 0.7152, 0.0722][n], 0);
  const ground = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const faint = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode.parentElement;
    const isShown = node.checkVisibility({ visibilityProperty: true, opacityProperty: true });
    if (!walk.currentNode.data.trim() || !isShown || node.closest(":disabled, .unseen")) continue;
    const [a, b] = [light(parse(getComputedStyle(node).color)), light(ground(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) faint.push(`${walk.currentNode.data.trim()} ${ratio.toFixed(2)}`);
  }
  return faint;
}"""


def assert_accessible(page, *, is_touched=False):
    assert page.evaluate(UNNAMED) == []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        expect(page.locator("html")).to_have_attribute("data-theme", scheme)
        assert page.evaluate(FAINT) == []
    if is_touched:
        assert page.evaluate(SMALL) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]


def test_a_phone_shows_all_of_it_without_scrolling_sideways(visit):
    page = visit(**PHONE)
    expect(page.locator(".starter").first).to_be_visible()
    assert_accessible(page, is_touched=True)
    page.locator(".starter").first.tap()
    expect(last(page).locator(".actions")).to_be_visible()
    ask(page, "a" * 300 + " " + "https://mocnhien.example/" + "b" * 200)
    ask(page, "Trình bày")
    ask(page, UNKNOWN)
    expect(last(page).locator(".contact a")).to_have_count(3)
    assert_accessible(page, is_touched=True)
    for place in ("#composer", ".top", ".caution"):
        box = page.locator(place).bounding_box()
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= 844
    page.locator("#open-drawer").tap()
    expect(page.locator("#close-drawer")).to_be_focused()
    expect(chats(page)).to_have_count(1)
    assert page.evaluate("[...document.querySelectorAll('#main, #skip')].every((part) => part.inert)")
    assert_accessible(page, is_touched=True)
    page.keyboard.press("Escape")
    expect(page.locator("#open-drawer")).to_be_focused()
    expect(page.locator("#drawer")).not_to_be_visible()


def test_texts_are_readable_and_buttons_named_in_both_themes(visit):
    page = visit()
    ask(page, KNOWN)
    last(page).get_by_role("button", name="Nguồn").click()
    last(page).get_by_role("button", name="Câu trả lời tốt").click()
    ask(page, UNKNOWN)
    page.locator("#settings").click()
    assert_accessible(page)
    page.locator("#settings-menu").get_by_text("Sáng").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "light")
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", "light")


def test_a_reload_keeps_conversation_and_draft(visit):
    page = visit()
    ask(page, KNOWN)
    page.locator("#question").fill("Còn cuối tuần thì sao")
    page.reload()
    expect(answer(page)).to_contain_text(ANSWER)
    expect(page.locator("#question")).to_have_value("Còn cuối tuần thì sao")
    ask(page, "Tiệm có tất cả mấy chi nhánh?")
    expect(page.locator("#question")).to_have_value("")
    page.reload()
    expect(page.locator("article")).to_have_count(2)
    expect(page.locator("#question")).to_have_value("")


def test_another_visitor_sees_nothing_of_it(visit):
    first, second = visit(), visit()
    ask(first, KNOWN)
    expect(second.locator(".chats .hint")).to_have_text("Chưa có cuộc trò chuyện nào.")
    id_ = first.evaluate("sessionStorage.getItem('hoidap.conversation')")
    with visit.expecting("404"):
        second.evaluate("id => sessionStorage.setItem('hoidap.conversation', id)", id_)
        second.reload()
        expect(second.locator("#toast")).to_have_text("Cuộc trò chuyện này không còn nữa.")
    assert second.locator("article").count() == 0


def test_a_declined_question_is_handed_on(visit):
    page = visit()
    ask(page, UNKNOWN)
    assert answer(page).inner_text() == "Xin lỗi, tôi chưa có câu trả lời chắc chắn cho câu hỏi này."
    assert last(page).locator(".contact p").last.inner_text() == CONTACT
    links = last(page).locator(".contact a").evaluate_all("links => links.map((a) => a.getAttribute('href'))")
    assert links == ["tel:0900000216", "mailto:tiem@mocnhien.example", "https://mocnhien.example/lien-he"]
    offered = last(page).locator(".offer").first
    question = offered.inner_text()
    page.reload()
    expect(last(page).locator(".contact a")).to_have_count(3)
    offered.click()
    expect(page.locator("article")).to_have_count(2)
    expect(last(page).locator(".actions")).to_be_visible()
    assert last(page).locator(".question").inner_text() == question
    expect(last(page).locator(".offer")).to_have_count(0)


def test_what_is_turned_away_is_sent_again_by_itself(visit):
    page = visit()
    refused = []

    def turn_away(route):
        refused.append(route.request.post_data_json["question"])
        if len(refused) > 1:
            route.continue_()
            return
        error = {"error": {"message": "slow down", "type": "rate_limit_error", "param": None, "code": "rate_limited"}}
        route.fulfill(status=429, headers={"Retry-After": "1"}, content_type="application/json", body=json.dumps(error))

    page.route("**/api/ask", turn_away)
    with visit.expecting("429"):
        ask(page, KNOWN, waits=False)
        expect(last(page).locator(".failure")).to_contain_text("Bạn hỏi hơi nhanh. Tự gửi lại sau 1 giây.")
        expect(answer(page)).to_contain_text(ANSWER)
    assert refused == [KNOWN, KNOWN]
    assert page.locator("article").count() == 1


def test_a_full_queue_counts_down_and_can_be_left(visit):
    page = visit()
    with visit.expecting("503"):
        ask(page, "Quá tải rồi", waits=False)
        expect(last(page).locator(".failure")).to_contain_text(
            re.compile("Đang có nhiều người hỏi. Tự gửi lại sau [12] giây")
        )
        last(page).get_by_role("button", name="Huỷ").click()
        expect(last(page).locator(".failure")).to_have_text(re.compile("^Đang có nhiều người hỏi. *Thử lại$"))
        last(page).get_by_role("button", name="Thử lại").click()
        expect(last(page).locator(".countdown")).to_contain_text("Tự gửi lại")
    page.locator("#new-chat").click()
    expect(page.locator("article")).to_have_count(0)
    ask(page, KNOWN)


def test_a_failure_amid_an_answer_is_told_and_can_be_tried_again(visit):
    page = visit()
    failed = {"type": "error", "message": "x", "code": "engine_failed", "retry_after": None}
    ends = [
        ({"type": "text", "text": "Dạ, tiệm"}, "Kết nối bị đứt giữa chừng."),
        (failed, "Có lỗi khi trả lời câu này."),
        ({**failed, "code": "queue_full", "retry_after": 9}, "Tự gửi lại sau 9 giây."),
    ]
    for n, (end, shown) in enumerate(ends):
        body = stream({"type": "turn", "conversation": None, "turn": None, "stored": False}, end)
        answer_with(page, body)
        ask(page, KNOWN, waits=False)
        expect(last(page).locator(".failure")).to_contain_text(shown)
        page.unroute("**/api/ask")
        last(page).locator(".failure .button").first.click()
        expect(answer(page)).to_contain_text(ANSWER)
        assert page.locator("article").count() == n + 1


def test_it_says_that_it_is_offline_and_what_is_not_stored(visit):
    page = visit()
    end = {"type": "end", "finish_reason": "stop", "declined": False, "corrected": False, "confidence": 1, "source": None}
    turn = {"type": "turn", "conversation": None, "turn": None, "stored": False}
    body = stream(turn, {"type": "text", "text": "Dạ."}, {**end, "near": []}).replace("\n", "\r\n")
    answer_with(page, body)
    ask(page, KNOWN)
    expect(last(page).locator(".note")).to_have_text("Câu này không được lưu; tải lại trang sẽ mất.")
    assert last(page).get_by_role("button", name="Câu trả lời tốt").count() == 0
    page.unroute("**/api/ask")
    with visit.expecting("offline"):
        page.context.set_offline(True)
        expect(page.locator("#offline")).to_be_visible()
        ask(page, KNOWN, waits=False)
        expect(last(page).locator(".failure")).to_contain_text("Không kết nối được tới máy chủ.")
        page.context.set_offline(False)
        expect(page.locator("#offline")).to_be_hidden()
    last(page).get_by_role("button", name="Thử lại").click()
    expect(answer(page)).to_contain_text(ANSWER)


def test_who_has_scrolled_up_is_not_moved(visit):
    page = visit()
    ask(page, "Dài dòng")
    expect(page.locator("#to-end")).to_be_hidden()
    ends = (
        "() => { const s = document.getElementById('scroller'); return s.scrollHeight - s.scrollTop - s.clientHeight < 3; }"
    )
    page.wait_for_function(ends)
    expect(last(page).locator(".note")).to_have_text("Câu trả lời bị ngắt vì quá dài.")
    ask(page, "Thật chậm", waits=False)
    expect(answer(page)).to_contain_text("chữ-2")
    page.locator("#scroller").hover()
    page.mouse.wheel(0, -3000)
    page.wait_for_function("() => document.getElementById('scroller').scrollTop < 200")
    before = page.evaluate("document.getElementById('scroller').scrollTop")
    expect(answer(page)).to_contain_text("chữ-30")
    assert page.evaluate("document.getElementById('scroller').scrollTop") == before
    page.locator("#to-end").click()
    page.wait_for_function(ends)
    expect(page.locator("#to-end")).to_be_hidden()
    page.keyboard.press("Escape")


def test_answers_are_copied(visit, server):
    page = visit()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=server.home)
    ask(page, "Trình bày")
    last(page).get_by_role("button", name="Sao chép câu trả lời").click()
    page.wait_for_function("() => window.said.at(-1) === 'Đã sao chép.'")
    assert page.evaluate("navigator.clipboard.readText()").startswith("Dạ, tiệm có **ba chi nhánh**")


def test_a_visitor_deletes_all_their_data(visit):
    page = visit()
    ask(page, KNOWN)
    before = page.evaluate("localStorage.getItem('hoidap.visitor')")
    assert re.fullmatch("[0-9a-f]{32}", before)
    page.locator("#settings").click()
    page.locator("#remove-all").click()
    page.locator("dialog .danger").click()
    expect(page.locator("#toast")).to_have_text("Đã xoá mọi dữ liệu của bạn.")
    expect(page.locator("article")).to_have_count(0)
    expect(chats(page)).to_have_count(0)
    kept = page.request.get(page.url + "api/conversations", headers={"X-Hoidap-Visitor": before})
    assert kept.json() == {"conversations": []}
    ask(page, KNOWN)
    assert page.evaluate("localStorage.getItem('hoidap.visitor')") != before
    assert page.context.cookies() == []


def sign_in(page, key):
    page.locator("#key").fill(key)
    page.keyboard.press("Enter")


def signed_in(visit, server, view="Khách hỏi"):
    page = visit("/owner")
    sign_in(page, server.key)
    page.get_by_role("tab", name=view).click()
    expect(page.locator(".row").first).to_be_visible()
    return page


def write(row, text):
    row.locator(".answer-field").fill(text)
    row.get_by_role("button", name="Lưu và dùng ngay").click()
    expect(row.locator(".saved")).to_have_text("Đã lưu. Bot trả lời theo câu này ngay từ bây giờ.")


def test_the_owners_page_opens_to_the_owners_key_alone(visit, server):
    page = visit("/owner")
    with visit.expecting("401", "403"):
        for wrong in ("khoá", "hd-wrong", server.chat_key):
            sign_in(page, wrong)
            expect(page.locator("#sign-in-failure")).to_contain_text("Khoá không đúng")
            expect(page.locator("#key")).to_have_value("")
            expect(page.locator("#book")).to_be_hidden()
    sign_in(page, server.key)
    expect(page.locator("#book")).to_be_visible()
    assert server.key not in page.url + page.evaluate("JSON.stringify(localStorage)")
    assert page.context.cookies() == []
    page.reload()
    expect(page.locator("#book")).to_be_visible()
    page.locator("#settings").click()
    page.locator("#sign-out").click()
    expect(page.locator("#key")).to_be_focused()
    assert page.evaluate("sessionStorage.getItem('hoidap.key')") is None
    assert page.locator(".row, .tile:visible").count() == 0


def test_a_view_that_is_chosen_at_once_stays(visit, server):
    page, held = visit("/owner"), []

    def hold(route):
        held.append(route)

    page.route("**/api/site", hold)
    with page.expect_request("**/api/site"):
        sign_in(page, server.key)
    expect(page.locator("#book")).to_be_hidden()  # until all of it is there
    held[0].continue_()
    page.get_by_role("tab", name="Các mục").click()
    expect(page.locator(".row")).to_have_count(50)
    expect(page.get_by_role("tab", name="Các mục")).to_have_attribute("aria-selected", "true")


def test_the_owner_finds_what_was_asked(visit, server):
    visitor = visit()
    question = "Tiệm có mở lớp học vẽ không?"
    ask(visitor, question)
    for n in range(22):
        asked = {"bot": None, "conversation": None, "question": f"{UNKNOWN} {n}", "replaces": None}
        visitor.request.post(f"{server.home}/api/ask", data=asked, headers={"X-Hoidap-Visitor": "5" * 32})
    page = signed_in(visit, server)
    expect(page.locator("dd")).to_have_count(6)
    figures = dict(zip(page.locator("dt").all_inner_texts(), page.locator("dd").all_inner_texts(), strict=True))
    assert int(figures["câu hỏi"]) >= 23
    expect(page.locator(".row")).to_have_count(20)
    page.get_by_role("button", name="Xem thêm").click()
    expect(page.locator(".row").nth(22)).to_be_visible()
    shown = page.locator(".row-question").all_inner_texts()
    assert shown[:22] == [f"{UNKNOWN} {n}" for n in reversed(range(22))]
    page.get_by_label("Tìm trong câu hỏi và câu trả lời").fill("hoc ve")
    expect(page.locator(".row-question")).to_have_text([question])
    page.get_by_label("Đã sửa").check(force=True)
    expect(page.locator(".rows .hint")).to_have_text("Chưa có câu hỏi nào ở đây.")
    assert_accessible(page)


def test_an_answer_to_the_unanswered_is_given_at_once(visit, server):
    visitor = visit()
    question, written = "Tiệm có dạy nặn gốm cho trẻ em không?", "Dạ có, sáng thứ Bảy hằng tuần <b>ạ</b>."
    ask(visitor, question)
    page = signed_in(visit, server, "Chưa trả lời được")
    group = page.locator(".group", has=page.locator(f"text={question}"))
    group.get_by_role("button", name="Viết câu trả lời").click()
    expect(group.locator(".question-field")).to_have_value(question)
    expect(group.locator(".answer-field")).to_be_focused()
    group.get_by_role("button", name="Lưu và dùng ngay").click()
    expect(group.locator(".problem")).to_have_text("Bạn viết đủ câu hỏi và câu trả lời nhé.")
    write(group, written)
    ask(visitor, question)
    assert answer(visitor).inner_text() == written


def test_an_answer_is_for_the_questions_that_are_ticked_and_the_others_stay(visit, server):
    visitor = visit()
    first = "Tiệm có chỗ gửi xe ô tô miễn phí không?"
    same, like = f"dạ {first.replace('không?', 'ko ạ')}", first.replace("ô tô", "máy")
    other = first.replace("chỗ", "nơi")
    for question in (first, first, same, like, other):
        ask(visitor, question)
    page = signed_in(visit, server, "Chưa trả lời được")
    group = page.locator(".group", has=page.locator(f"text={first}"))
    group.get_by_role("button", name="Viết câu trả lời").click()
    box = page.get_by_role("group", name="Câu trả lời này cũng dùng cho").get_by_role
    expect(box("checkbox")).to_have_count(3)
    expect(box("checkbox", name=same)).to_be_checked()
    expect(box("checkbox", name=other)).not_to_be_checked()
    expect(box("checkbox", name=like)).not_to_be_checked()
    assert_accessible(page)
    box("checkbox", name=other).check()
    group.locator(".answer-field").focus()
    page.keyboard.insert_text("ạ" * 40_000)
    assert len(group.locator(".answer-field").input_value()) == MOST_ANSWER
    write(group, group.locator(".answer-field").input_value())
    page.reload()
    page.get_by_role("tab", name="Chưa trả lời được").click()
    expect(page.get_by_text(like)).to_be_visible()
    assert page.get_by_text(first).count() == page.get_by_text(same).count() == page.get_by_text(other).count() == 0


def test_all_the_questions_of_a_group_are_ticked_at_once(visit, server):
    visitor = visit()
    questions = [f"Tiệm nhận in logo công ty lên ly sứ {size} không?" for size in ("nhỏ", "vừa", "to", "rất to")]
    for question in questions:
        ask(visitor, question)
    page = signed_in(visit, server, "Chưa trả lời được")
    group = page.locator(".group", has=page.locator(f"text={questions[0]}"))
    group.get_by_role("button", name="Viết câu trả lời").click()
    assert group.locator("input:checked").count() == 0
    group.get_by_role("button", name="Chọn tất cả").click()
    write(group, "Dạ có, từ 50 chiếc ạ.")
    for question in questions:
        ask(visitor, question)
        assert answer(visitor).inner_text() == "Dạ có, từ 50 chiếc ạ."


@pytest.mark.parametrize(("view", "label"), [("Các mục", "Tìm mục"), ("Khách hỏi", "Tìm trong câu hỏi và câu trả lời")])
def test_what_is_being_written_stays_when_a_search_finds_others(visit, server, view, label):
    visitor = visit()
    for question in (KNOWN, "Trà sen giá bao nhiêu một hộp?"):
        ask(visitor, question)
    page = signed_in(visit, server, view)
    page.get_by_label(label).fill("huong lieu")
    expect(page.locator(".row-question", has_text="Ngày thường")).to_have_count(0)
    expect(page.locator(".row-question", has_text="Trà sen giá bao nhiêu")).not_to_have_count(0)
    row = page.locator(".row").first
    row.get_by_role("button", name="Sửa câu trả lời").click()
    row.locator(".answer-field").fill("Đang viết dở")
    with page.expect_response(lambda response: "search=th%E1%BB%A9" in response.url):
        page.get_by_label(label).fill("thứ Hai đến thứ Sáu")
        row.locator(".answer-field").focus()
    expect(page.locator(".row").nth(1).locator(".row-question")).to_have_text(KNOWN)
    expect(row.locator(".answer-field")).to_have_value("Đang viết dở")
    expect(row.locator(".answer-field")).to_be_focused()
    with page.expect_response(lambda response: "search=huong" in response.url):
        page.get_by_label(label).fill("huong lieu")
    expect(page.locator(".row-question", has_text="Ngày thường")).to_have_count(0)
    expect(row.locator(".answer-field")).to_have_value("Đang viết dở")
    row.get_by_role("button", name="Huỷ").click()
    with page.expect_response(lambda response: "search=th%E1%BB%A9" in response.url):
        page.get_by_label(label).fill("thứ Hai đến thứ Sáu")
    expect(page.locator(".row-question").first).to_have_text(KNOWN)


def test_a_list_that_the_server_cuts_says_so(visit, server):
    page = signed_in(visit, server, "Các mục")
    expect(page.locator(".row")).to_have_count(50)
    total = len(server.desk.items) + len(server.desk.run.additions())
    expect(page.locator(".more .hint")).to_have_text(f"Đang hiện 50 trong {total} mục.")
    row = {"question": "Câu?", "answer": "Đáp.", "corrected": False, "added": False}
    items = [{**row, "question": f"Câu {n}?"} for n in range(60)]
    page.route("**/api/owner/items*", lambda route: route.fulfill(json={"items": items, "total": 1234}))
    page.get_by_label("Tìm mục").fill("câu")
    expect(page.locator(".row").last.locator(".row-question")).to_have_text("Câu 49?")
    page.get_by_role("button", name="Xem thêm").click()
    cut = "Chỉ hiện 60 trong 1.234 mục; bạn tìm theo từ khoá để thấy các mục khác."
    expect(page.locator(".more")).to_have_text(cut)
    page.get_by_role("button", name="English").click()
    expect(page.locator(".more")).to_have_text("60 of 1,234 items shown; search for the others.")


def test_a_correction_is_given_at_once_and_goes_into_the_data(visit, server):
    question, corrected = "Trà sen giá bao nhiêu một hộp?", "Trà sen hộp 100 g nay 235.000đ ạ."
    page = signed_in(visit, server, "Các mục")
    page.get_by_label("Tìm mục").fill("tra sen gia bao nhieu mot hop")
    expect(page.locator(".row")).to_have_count(1)
    row = page.locator(".row")
    row.get_by_role("button", name="Sửa câu trả lời").click()
    expect(row.locator(".question-field")).not_to_be_editable()
    expect(row.locator(".answer-field")).to_have_value(re.compile("220.000đ"))
    write(row, corrected)
    expect(row.locator(".row-answer")).to_have_text(corrected)
    visitor = visit()
    ask(visitor, question)
    assert answer(visitor).inner_text() == corrected
    expect(last(visitor).locator(".badge")).to_have_text("Câu trả lời do nhân viên viết")
    with page.expect_download() as downloading:
        page.get_by_role("button", name="Tải dữ liệu").click()
    content = downloading.value.path().read_bytes()
    assert downloading.value.suggested_filename == "moc-nhien.csv"
    assert content.startswith(b"\xef\xbb\xbf")
    rows = csv.DictReader(io.StringIO(content.decode("utf-8-sig")))
    assert {row["câu hỏi"]: row["trả lời"] for row in rows}[question] == corrected


def test_an_owners_phone_shows_all_of_it(visit, server):
    ask(visit(), HOSTILE[1])
    page = visit("/owner", **PHONE)
    assert_accessible(page, is_touched=True)
    page.locator("#key").fill(server.key)
    page.keyboard.press("Enter")
    expect(page.locator(".row-question").first).to_have_text(HOSTILE[1])
    assert page.locator(".row img, .row script, .row b").count() == 0
    assert_accessible(page, is_touched=True)
    page.get_by_role("tab", name="Khách hỏi").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Chưa trả lời được")).to_be_focused()
    expect(page.locator(".group").first).to_be_visible()
    assert_accessible(page, is_touched=True)
    page.reload()
    expect(page.locator(".row").first).to_be_visible()


@pytest.mark.parametrize("is_phone", [False, True], ids=["desk", "phone"])
def test_the_widget_opens_on_another_site_and_gives_the_focus_back(visit, server, is_phone):
    page = visit(server.elsewhere + "/sample", **(PHONE if is_phone else {}))
    button = page.get_by_role("button", name="Hỏi đáp")
    button.click()
    frame = page.frame_locator("hoidap-chat iframe")
    rests = frame.locator("#scroller" if is_phone else "#question")  # no keyboard rises before somebody wants to write
    expect(rests).to_be_focused()
    expect(frame.locator("#chats")).to_be_hidden()
    assert not re.search(r"top-navigation|modals", page.locator("iframe").get_attribute("sandbox"))
    frame.locator("#question").fill(KNOWN)
    page.keyboard.press("Enter")
    expect(frame.locator(".answer-text")).to_contain_text(ANSWER)
    box = page.locator("hoidap-chat .panel").bounding_box()
    if is_phone:
        assert (box["x"], box["y"], box["width"], box["height"]) == (0, 0, 390, 844)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        frame.get_by_role("button", name="Đóng").tap()
    else:
        assert box["x"] + box["width"] <= 1280
        assert box["y"] >= 0
        page.keyboard.press("Escape")
    expect(page.locator("hoidap-chat .panel")).to_be_hidden()
    expect(page.locator("hoidap-chat .button")).to_be_focused()
    assert page.evaluate("document.documentElement.style.overflow") == ""
    page.keyboard.press("Enter")
    expect(frame.locator(".answer-text")).to_contain_text(ANSWER)
    expect(rests).to_be_focused()


def test_the_widget_goes_on_with_the_conversation_on_the_sites_next_page(visit):
    with visit.expecting("a warning: here the site is of the server's own origin, where the sandbox keeps nothing apart"):
        page = visit("/sample")
        frame = page.frame_locator("hoidap-chat iframe")
        page.get_by_role("button", name="Hỏi đáp").click()
        frame.locator(".starter").first.click()
        expect(frame.locator(".answer-text")).to_contain_text(ANSWER)
        page.reload()
        page.get_by_role("button", name="Hỏi đáp").click()
        expect(frame.locator(".answer-text")).to_contain_text(ANSWER)


def test_a_site_that_is_not_allowed_cannot_frame_the_page(visit, server):
    page = visit(server.elsewhere + "/sample")
    add = "(home) => { document.body.append(Object.assign(document.createElement('iframe'), { src: home + '/owner' })); }"
    with visit.expecting("frame-ancestors"):
        with page.expect_console_message(lambda message: "frame-ancestors" in message.text):
            page.evaluate(add, server.home)
        assert page.frame_locator("body > iframe").locator("#key").count() == 0
