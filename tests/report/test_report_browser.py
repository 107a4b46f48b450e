"""The report page in headless Chromium: it loads alone and quietly, does what it offers, and runs no other script."""

import json
import shutil
import time
from pathlib import Path

import pytest
from command_line import harness
from forged_run import forge

selenium = pytest.importorskip("selenium", reason="no selenium: pip install -e .[dev]")
from selenium import webdriver  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.select import Select  # noqa: E402
from selenium.webdriver.support.wait import WebDriverWait  # noqa: E402

BROWSER = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="no chromium: apt-get install chromium chromium-driver"),
]

FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")
QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage")
PAYLOADS = (
    "<script>window.hit=1</script>",
    "</script><script>window.hit=2</script>",
    '<img src=x onerror="window.hit=3">',
    '"><svg onload=window.hit=4>',
    "' autofocus onfocus='window.hit=5",
    '<iframe srcdoc="<script>parent.hit=6</script>"></iframe>',
    '<a href="javascript:window.hit=7">x</a>',
    "{{ 7 * 7 }}{% for a in cycler.__init__.__globals__ %}{{ a }}{% endfor %}",
    "--><!--</title></style></textarea></noscript><script>window.hit=9</script>",
    "<style>@import 'http://127.0.0.1:9/x';</style><link rel=stylesheet href='http://127.0.0.1:9/y'>",
    "</svg><foreignObject><body onload=window.hit=11></foreignObject>]]>\u2028${window.hit=12}",
)
ALL = " ".join(PAYLOADS)
SSO, BASE = "sso", "base"


def said(where: str) -> str:
    return f"{where} {ALL}"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, *QUIET, f"--user-data-dir={tmp_path_factory.mktemp('profile')}", "--window-size=1200,900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """Of a run with 60 questions: on question n (from 0) sso scores n / 10 more than base, from 0.5 less on."""
    place = tmp_path_factory.mktemp("page")
    base, sso = [5.0] * 60, [4.5 + number / 10 for number in range(60)]
    values = {"mt-bench": {BASE: [base, base, base], SSO: [[None, *sso[1:]], sso, sso]}}
    values["math"] = {BASE: [[0, 100, 0]] * 3, SSO: [[100, 0, 0]] * 3}
    forge(place / "run", values, text=lambda where: "Needle-7 here" if where == "judgment 2" else where)
    harness("report", "run", cwd=place)
    return place / "run" / "report.html"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("hostile")
    values = {
        name: {BASE: [[10.0, 20.0], [10.0, 20.0]], "x'&lt;b&gt;=sso": [[30.0, None], [30.0, 40.0]]}
        for name in ("mt-bench", "alpaca-eval", "reward-bench", "math")
    }
    forge(place / "run", values, text=said)
    harness("report", "run", cwd=place)
    return place / "run" / "report.html"


def go(browser, page: Path, fragment: str = "", width: int = 1200, dark: bool = False, phone: bool = False):
    """Opens the page anew, with empty logs."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": phone}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [theme]})
    browser.get("about:blank")
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(f"{page.as_uri()}{fragment}")
    browser.execute_script("document.getElementById('samples').scrollIntoView()")
    until(browser, lambda: "questions" in browser.find_element(By.ID, "found").text)


def until(browser, ready):
    WebDriverWait(browser, 20, poll_frequency=0.05).until(lambda _: ready())


def asked(browser) -> list[str]:
    """Addresses that the page asked for."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return [url for url in sent if not url.startswith(("data:", "about:", "blob:"))]


def choose(browser, name: str, value: str):
    Select(browser.find_element(By.ID, name)).select_by_value(value)


def listed(browser) -> list[str]:
    """Ids of the questions that are shown, in order."""
    script = "return [...document.querySelectorAll('#list summary .asked .small')].map((each) => each.textContent)"
    return browser.execute_script(script)


def test_it_loads_alone_and_quietly(browser, page):
    go(browser, page)
    assert browser.get_log("browser") == []
    assert asked(browser) == [page.as_uri()]
    assert browser.find_element(By.TAG_NAME, "h1").text == "Significantly better than base: sso on 1 of 2 benchmarks."
    assert page.stat().st_size < 5_000_000


def test_headings_sort_by_mouse_and_keyboard(browser, page):
    go(browser, page)

    def methods():
        return [each.text for each in browser.find_elements(By.CSS_SELECTOR, "#leaderboard tbody .method")]

    heads = browser.find_elements(By.CSS_SELECTOR, "#leaderboard thead th")
    button = heads[1].find_element(By.TAG_NAME, "button")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    assert methods() == [BASE, SSO]
    button.click()
    assert (methods(), heads[1].get_attribute("aria-sort")) == ([SSO, BASE], "descending")
    button.send_keys(Keys.ENTER)
    assert (methods(), heads[1].get_attribute("aria-sort")) == ([BASE, SSO], "ascending")
    heads[0].find_element(By.TAG_NAME, "button").send_keys(Keys.SPACE)
    assert methods() == [BASE, SSO]
    assert [head.get_attribute("aria-sort") for head in heads[:2]] == ["ascending", "none"]
    heads[3].find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER, Keys.ENTER)  # budget: base has none
    assert methods() == [SSO, BASE]


def test_filters_order_and_search(browser, page):
    """In seed 0 question 1 has no verdict; 2 to 5 are lost, 6 is equal, 7 to 60 are won; 60 by 5.4, 2 lost by 0.4."""
    go(browser, page)
    found = browser.find_element(By.ID, "found")
    assert found.text.startswith("60 of 60 questions. A better on 54, B on 4, no difference on 1.")
    assert listed(browser)[:2] == ["60", "59"] and len(listed(browser)) == 40
    browser.find_element(By.ID, "more").send_keys(Keys.ENTER)
    assert len(listed(browser)) == 60
    for name, ids in (("losses", ["2", "3", "4", "5"]), ("ties", ["6"]), ("open", ["1"])):
        choose(browser, "filter", name)
        assert listed(browser) == ids
    choose(browser, "seed", "1")
    assert listed(browser) == []
    choose(browser, "filter", "wins")
    choose(browser, "order", "given")
    assert listed(browser)[0] == "7"
    choose(browser, "first", BASE)
    choose(browser, "second", SSO)
    assert listed(browser) == ["1", "2", "3", "4", "5"]
    choose(browser, "filter", "all")
    search = browser.find_element(By.ID, "search")
    search.send_keys("nothing has this")
    until(browser, lambda: listed(browser) == [])
    search.clear()
    search.send_keys("NEEDLE-7")
    until(browser, lambda: len(listed(browser)) == 40)
    browser.find_element(By.CSS_SELECTOR, "#list summary").send_keys(Keys.ENTER)
    until(browser, lambda: browser.find_elements(By.TAG_NAME, "mark"))
    assert {each.text for each in browser.find_elements(By.TAG_NAME, "mark")} == {"Needle-7"}
    choose(browser, "benchmark", "math")
    until(browser, lambda: found.text.startswith("0 of 3"))
    assert browser.get_log("browser") == []


def test_a_link_opens_its_sample(browser, page):
    go(browser, page, "#sample/mt-bench/3/base/sso/1")
    until(browser, lambda: browser.find_elements(By.CSS_SELECTOR, "#list details[open] .sides"))
    opened = browser.find_element(By.CSS_SELECTOR, "#list details[open]")
    assert opened.find_element(By.CSS_SELECTOR, ".asked .small").text == "3"
    heads = [each.text.split("\n") for each in opened.find_elements(By.TAG_NAME, "h4")]
    assert heads == [["A: base", "5.00"], ["B: sso", "4.70"]]
    texts = [each.text for each in opened.find_elements(By.CSS_SELECTOR, ".side:last-child .said")]
    assert texts == ["answer 1", "judgment 1", "answer 2", "Needle-7 here"]
    link = opened.find_element(By.LINK_TEXT, "Link to this sample").get_attribute("href")
    assert link == f"{page.as_uri()}#sample/mt-bench/3/base/sso/1"
    browser.execute_script("location.hash = '#sample/math/test%2F0/sso/base/0'")
    until(browser, lambda: listed(browser)[:1] == ["test/0"])
    until(browser, lambda: browser.find_elements(By.CSS_SELECTOR, "#list details[open] .sides"))
    for wrong in ("#sample/none/1", "#sample/math/nowhere/sso/base/0", "#sample/%E0%A4%A"):
        browser.execute_script("location.hash = arguments[0]", wrong)
    until(browser, lambda: "does not have" in browser.find_element(By.ID, "found").text)
    assert browser.get_log("browser") == []


def test_light_dark_and_a_phone(browser, page):
    def back() -> int:
        color = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        return int(color.split("(")[1].split(",")[0])

    go(browser, page, width=390, phone=True)
    assert back() > 200
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    sizes = "return [...document.querySelectorAll('.chart text')].filter((each) => each.getBBox().height)"
    sizes += ".map((each) => [each.getScreenCTM(), parseFloat(getComputedStyle(each).fontSize)])"
    sizes += ".map(([place, size]) => Math.hypot(place.a, place.b) * size)"
    assert min(browser.execute_script(sizes)) >= 9.5  # pixels
    go(browser, page, dark=True)
    assert back() < 60
    switch = browser.find_element(By.ID, "theme")
    assert switch.text == "Light"
    switch.send_keys(Keys.ENTER)
    assert back() > 200 and switch.text == "Dark"


def test_marks_of_charts_tell_what_they_are(browser, page):
    go(browser, page)
    mark = browser.find_element(By.CSS_SELECTOR, "#differences .chart path[aria-label]")
    browser.execute_script("arguments[0].dispatchEvent(new PointerEvent('pointerover', {bubbles: true}))", mark)
    assert browser.find_element(By.ID, "tip").text.startswith("sso minus base: +2.")


def test_texts_run_no_script(browser, hostile):
    """Everything that models, judges and files say is shown as it is. A payload that became markup would run, ask for
    something, or be told by the page's policy on the console."""
    for benchmark, texts in (
        ("mt-bench", ("question 1", "answer 1", "judgment 2")),
        ("alpaca-eval", ("instruction", "reference", "output", "letter")),
        ("reward-bench", ("prompt", "chosen", "rejected")),
        ("math", ("problem", "response", "extracted")),
    ):
        go(browser, hostile)
        choose(browser, "benchmark", benchmark)
        until(browser, lambda: len(listed(browser)) == 2)
        browser.find_element(By.ID, "search").send_keys("hit=1<")
        time.sleep(0.4)  # longer than typing is waited for
        assert len(listed(browser)) == 2
        for summary in browser.find_elements(By.CSS_SELECTOR, "#list summary"):
            summary.send_keys(Keys.ENTER)
        until(browser, lambda: len(browser.find_elements(By.CSS_SELECTOR, "#list .sides")) == 2)
        shown = browser.execute_script(
            "return [...document.querySelectorAll('.said, dd')].map((each) => each.textContent)"
        )
        for where in texts:  # the benchmark may add to a problem
            assert any(text.startswith(said(where)) for text in shown), where
        check_quiet(browser, hostile)
    whole = browser.execute_script("return document.querySelector('main').textContent")
    for where in ("warning", "reason", "note", "judge", "part"):
        assert said(where) in whole, where
    assert "x'&lt;b&gt;" in whole


def check_quiet(browser, page):
    assert browser.execute_script("return window.hit") is None
    assert browser.find_elements(By.CSS_SELECTOR, "iframe, img, link, object, embed, foreignObject, main script") == []
    assert browser.get_log("browser") == []
    assert asked(browser) == [page.as_uri()]


def test_the_check_for_scripts_sees_one(browser, hostile, tmp_path):
    """The same page with one text unescaped: the policy stops it, and the console says so."""
    for payload in (PAYLOADS[0], PAYLOADS[2], PAYLOADS[3]):
        broken = tmp_path / "broken.html"
        broken.write_text(hostile.read_text().replace("<h1>", f"<h1>{payload}", 1))
        go(browser, broken)
        assert browser.execute_script("return window.hit") is None
        assert any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))


def test_two_methods_are_compared_either_way(browser, page):
    go(browser, page)
    until(browser, lambda: browser.find_elements(By.CSS_SELECTOR, "#compared tbody tr"))

    def rows():
        found = browser.find_elements(By.CSS_SELECTOR, "#compared tbody tr")
        return [[cell.text for cell in row.find_elements(By.TAG_NAME, "td")] for row in found]

    chosen = [Select(browser.find_element(By.ID, name)).first_selected_option.text for name in ("one", "other")]
    assert chosen == [SSO, BASE]
    judged, math = rows()
    assert judged[1].startswith("+2.4") and math[1] == "0.0"
    choose(browser, "one", BASE)
    choose(browser, "other", SSO)
    assert rows()[0][1] == judged[1].replace("+", "\N{MINUS SIGN}")
    low, high = judged[2].strip("[]").split(", ")
    turned = [each.replace("+", "\N{MINUS SIGN}") for each in (high, low)]
    assert rows()[0][2] == f"[{', '.join(turned)}]" and rows()[0][3:] == judged[3:]


def test_samples_have_addresses_neighbours_and_a_file(browser, page):
    go(browser, page, "#samples")
    until(browser, lambda: listed(browser))
    browser.find_elements(By.CSS_SELECTOR, "#list details summary")[0].click()
    until(browser, lambda: "#sample/" in browser.current_url)
    first = browser.current_url
    next(each for each in browser.find_elements(By.CSS_SELECTOR, ".step") if each.text == "Next").click()
    until(browser, lambda: browser.current_url != first)
    assert len(browser.find_elements(By.CSS_SELECTOR, "#list details[open]")) == 1
    open_buttons = browser.find_elements(By.CSS_SELECTOR, "#list details[open] .step")
    next(each for each in open_buttons if each.text == "Previous").click()
    until(browser, lambda: browser.current_url == first)
    link = browser.find_element(By.ID, "csv")
    assert link.get_attribute("download") == "mt-bench-seed0.csv" and link.get_attribute("href").startswith("blob:")


def test_training_examples_are_shown_with_their_principles(browser, tmp_path_factory, testbed_model_dir):
    place = tmp_path_factory.mktemp("trained")
    small = ("--budget", "6e10", "--limit", "4", "--benchmark", "math", "--name", "pairs")
    harness("run", "--method", "sso", *small, cwd=place)
    harness("report", "pairs", cwd=place)
    run = place / "results" / "runs" / "pairs"
    go(browser, run / "report.html", "#samples")
    choose(browser, "benchmark", "pairs: sso, policy")
    file = run / "arms" / "sso-seed0" / "preferences" / "policy.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    until(browser, lambda: listed(browser) == [row["id"] for row in rows[:40]])
    browser.find_elements(By.CSS_SELECTOR, "#list details summary")[0].click()
    until(browser, lambda: browser.find_elements(By.CSS_SELECTOR, "#list details[open] .sides"))
    opened = browser.find_element(By.CSS_SELECTOR, "#list details[open]")
    texts = [each.text for each in opened.find_elements(By.CSS_SELECTOR, ".side .said")]
    assert texts == [rows[0]["chosen"].strip(), rows[0]["rejected"].strip()]
    assert rows[0]["good_principle"] in opened.text
