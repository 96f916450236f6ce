"""The page of a tiny agent, in Node and in headless Chromium: the same tokens, calls and answers as in PyTorch."""

import copy
import dataclasses
import functools
import hashlib
import json
import re
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from tests.phases.edge.pages import ask_page, need_browser_runtime
from tests.phases.edge.web_agents import MUSING, PLACES, QUESTIONS, SUMS, by_torch, designed_folder, loaded

from agent_forge.agent.dialogue import Dialogue
from agent_forge.errors import HandoffError
from agent_forge.phases.edge.web_export import MAX_TOKENS, MODULES, export_web
from agent_forge.phases.edge.web_parity import compared_answers, page_answers
from agent_forge.phases.edge.web_runtime import BINARY, MODULE
from agent_forge.pipeline.talk import Talk

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The agent's folder, its page, and the facts of the export."""
    need_browser_runtime()
    place = tmp_path_factory.mktemp("page")
    folder = designed_folder(place / "agent")
    return folder, place / "page", export_web(folder, place / "page", name="Salt & <b>Co</b>")


def test_every_token_of_the_page_is_that_of_pytorch(exported):
    _, page, facts = exported
    assert facts["equal_tokens"] == facts["compared_tokens"] >= 150
    assert facts["equal_answers"] == facts["compared_answers"] >= 20
    assert facts["folder_bytes"] == sum(path.stat().st_size for path in page.iterdir())
    assert facts["folder_bytes"] == facts["runtime_bytes"] + facts["agent_bytes"]
    assert facts["folder_bytes"] < 5_000_000
    assert (facts["tools_not_in_page"], facts["design_not_in_page"]) == ("none", "none")
    assert facts["design"].endswith("2 kinds of question with a way of their own; experts twist")


@pytest.fixture(scope="module")
def answers(exported):
    """What the page says to the questions, in Node."""
    return page_answers(exported[1], QUESTIONS, MAX_TOKENS)


def test_thoughts_calls_and_chains_are_those_of_pytorch(exported, answers):
    assert answers == [by_torch(exported[0], question) for question in QUESTIONS]
    assert max(len(answer.attempts) for answer in answers) == 4
    kinds = {kind for answer in answers for kind, _ in answer.turns}
    assert kinds == {"thought", "call", "result", "answer"}


def test_the_page_says_what_chat_says(exported, answers, tmp_path):
    talk = Talk.start(str(exported[0]), tmp_path, {"max_tokens": MAX_TOKENS})
    said = [[(turn.kind, turn.text) for turn in talk.ask(question).turns] for question in QUESTIONS]
    assert said == [answer.turns for answer in answers]


def test_the_folder_holds_what_it_needs_and_nothing_else(exported):
    _, page, facts = exported
    told = json.loads((page / "page.json").read_text(encoding="utf-8"))
    loaded_files = {row["name"]: row for row in told["loaded"]}
    notices = {"onnxruntime-web-LICENSE", "onnxruntime-web-ThirdPartyNotices.txt"}
    assert {path.name for path in page.iterdir()} == {*MODULES, *loaded_files, *notices, MODULE, "page.json"}
    for name, row in loaded_files.items():
        content = (page / name).read_bytes()
        assert (row["bytes"], row["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert dict(told["card"])["Size"].startswith(f"{facts['folder_bytes']:,} bytes")
    assert "MIT License" in (page / "onnxruntime-web-LICENSE").read_text(encoding="utf-8")
    for name in MODULES:
        links = re.findall(r"https?://[^\s\"'<>]+", (page / name).read_text(encoding="utf-8"))
        assert {link.split("/")[2] for link in links} <= {"127.0.0.1:8000"}, name


def test_a_long_text_is_read_in_bounded_memory_and_a_conversation_as_python_writes_it(exported):
    folder, page, _ = exported
    model, tokenizer = loaded(folder).model, loaded(folder).tokenizer
    ids = tokenizer("Ada Vane is a baker. Bo Lock is a miller, and lives in Belmere. " * 12)["input_ids"][:200]
    messages = [
        {"role": "user", "content": "My name is <|user|> Ünal."}, {"role": "assistant", "content": " Good day."},
        {"role": "system", "content": ""}, {"role": "user", "content": SUMS[0]},
    ]  # fmt: skip
    got = ask_page("follow", page=str(page), ids=ids, messages=messages, stopAfter=30)
    with torch.inference_mode():
        wanted = model(torch.tensor([ids]), use_cache=False).logits[0].argmax(-1).tolist()
    equal = sum(one == other for one, other in zip(got["found"], wanted, strict=True))
    assert equal >= 0.98 * len(ids)
    assert got["longest"] < 32 + 2 * 64 + len(ids) / 8
    assert got["prompt"] == Dialogue(tokenizer, messages).prompt()
    assert (got["count"], got["stopped"]) == (30, "cancelled")  # in the second attempt


def test_a_page_of_another_model_is_noticed(exported, answers):
    asked = loaded(exported[0])
    other = copy.deepcopy(asked.model)
    with torch.no_grad():
        other.model.layers[0].attention.v_proj.weight.neg_()
    places = [n for n, question in enumerate(QUESTIONS) if question not in PLACES][:3]  # an expert knows its model
    figures = compared_answers(
        dataclasses.replace(asked, model=other), [QUESTIONS[n] for n in places], [answers[n] for n in places]
    )
    assert figures["equal_tokens"] < figures["compared_tokens"]
    assert figures["equal_answers"] < 3


def test_a_page_that_reads_other_tokens_is_refused(exported, answers):
    wrong = dataclasses.replace(answers[0], prompt=[*answers[0].prompt[:-1], 5])
    with pytest.raises(HandoffError, match="reads other tokens than the model's: 'What is 17"):
        compared_answers(loaded(exported[0]), QUESTIONS[:1], [wrong])


class Quiet(SimpleHTTPRequestHandler):
    """Any static file host."""

    def log_message(self, *arguments):
        return


def served(folder):
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (make browser)")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("Chromium and chromedriver are not installed (make browser)")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=900,800"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


class Chat:
    """The page as a person meets it."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, url):
        self.driver.get(url)
        self.wait(lambda: self.state() == "ready" or self.one("#error").is_displayed())

    def wait(self, done):
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, 240, poll_frequency=0.05).until(lambda _: done())

    def state(self):
        return self.driver.execute_script("return document.body.dataset.state")

    def one(self, selector):
        return self.driver.find_element("css selector", selector)

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def ask(self, question):
        field = self.one("#question")
        self.driver.execute_script("arguments[0].value = arguments[1]", field, question)  # keys know no 🙂
        field.send_keys("\n")
        self.wait(
            lambda: self.state() == "ready" and "data-tokens" in self.all("li.agent")[-1].get_attribute("outerHTML")
        )
        return self.all("li.agent")[-1]


@pytest.fixture(scope="module")
def chat(exported):
    driver = browser()
    server = served(exported[1])
    try:
        talk = Chat(driver)
        talk.open(f"http://127.0.0.1:{server.server_port}/")
        yield talk
    finally:
        driver.quit()
        server.shutdown()
        server.server_close()


def test_in_chromium_every_token_is_that_of_pytorch(exported, chat):
    folder = exported[0]
    compared = 0
    for question in [*QUESTIONS, *(f"What is {17 + 13 * n} plus {5 + 7 * n}?" for n in range(10))]:
        place, wanted = chat.ask(question), by_torch(folder, question)
        tokens = [token for attempt in wanted.attempts for token in attempt]
        assert [int(token) for token in place.get_attribute("data-tokens").split()] == tokens
        assert place.find_element("css selector", ".answer").get_attribute("textContent") == wanted.turns[-1][1]
        compared += len(tokens)
    assert compared >= 200
    assert not chat.one("#error").is_displayed()
    assert [entry for entry in chat.driver.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_in_chromium_thoughts_and_calls_are_folded_and_open_on_request(exported, chat):
    place = chat.ask("What is 1 / 0?")
    step = place.find_element("css selector", "details")
    assert step.text == "Used calculator (it did not work)"
    step.find_element("css selector", "summary").click()
    assert step.text.splitlines()[1:] == ["calculator(1 / 0)", "error: division by zero"]
    place = chat.ask(MUSING[0])
    assert place.find_element("css selector", "summary").text == "Thought"
    chat.one("#options summary").click()
    chat.one("#unfold").click()
    assert place.find_element("css selector", "details p").text == MUSING[1]


def test_in_chromium_several_attempts_are_told_and_the_one_that_won_is_shown(exported, chat):
    place, wanted = chat.ask(SUMS[1]), by_torch(exported[0], SUMS[1])
    number = len(wanted.attempts)
    assert re.fullmatch(rf"Attempt [1-{number}] of {number} was chosen\. .*", chat.one("#status").text)
    assert place.find_elements("css selector", ".attempt") == []
    assert place.find_element("css selector", "details p").get_attribute("textContent") == wanted.turns[0][1]


def test_in_chromium_nothing_but_the_folder_is_loaded(exported, chat):
    loaded_from = chat.driver.execute_script("return performance.getEntriesByType('resource').map((each) => each.name)")
    home = chat.driver.current_url
    assert {name.split("/")[2] for name in loaded_from if not name.startswith("data:")} == {home.split("/")[2]}


def test_in_chromium_the_page_says_what_it_is(exported, chat):
    chat.one("#about summary").click()
    assert chat.one("h1").text == chat.driver.title == "Salt & <b>Co</b>"
    assert "You are <b>Salt</b>." in chat.one("#card").text
    assert f"{exported[2]['folder_bytes']:,} bytes" in chat.one("#card").text
    nameless = [each.get_attribute("outerHTML") for each in chat.all("button, select, textarea, input, progress")
                if each.is_displayed() and not each.accessible_name]  # fmt: skip
    assert nameless == []
    assert chat.one("#log").get_attribute("aria-live") == "polite"


def test_in_chromium_a_damaged_file_is_said_so(exported, chat, tmp_path):
    shutil.copytree(exported[1], tmp_path / "page")
    whole = (tmp_path / "page" / f"{BINARY}.gz").read_bytes()
    (tmp_path / "page" / f"{BINARY}.gz").write_bytes(whole[:-1000])
    server = served(tmp_path / "page")
    try:
        chat.open(f"http://127.0.0.1:{server.server_port}/")
        assert "was damaged or cut off" in chat.one("#error").text
        assert not chat.one("#question").is_enabled()
    finally:
        server.shutdown()
        server.server_close()


def test_in_chromium_a_page_opened_as_a_file_says_how_to_open_it(exported, chat):
    chat.driver.get((exported[1] / "index.html").as_uri())
    chat.wait(lambda: chat.one("#closed").is_displayed())
    assert "python3 -m http.server" in chat.one("#closed").text
