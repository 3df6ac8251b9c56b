"""The page of `cai explore` in headless Chromium: sliders are moved by keyboard, and picture and numbers follow."""

import base64
import contextlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
from explorer_answers import answers, pixels

from cai.models import bridge

MISSING = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (Debian: chromium, chromium-driver)"
    ),
]

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1500,1300"
)
EVERY = {"exact", "variational", "risk"}
PATIENCE = 180  # seconds; two busy cores are slow to start a server
# Widgets live in shadow trees, which selectors do not enter.
FIND = """
const found = [];
const walk = root => { for (const e of root.querySelectorAll('*')) {
    if (e.matches(arguments[0]) && (!arguments[1] || within(e, arguments[1]))) found.push(e);
    if (e.shadowRoot) walk(e.shadowRoot);
} };
const within = (e, selector) => {
    for (; e; e = e.parentNode || e.host) if (e.matches && e.matches(selector)) return true;
    return false;
};
walk(document);
return found;
"""
READ = """
const [caption] = find('.cai-caption', '.cai-answers').slice(-1), images = find('.cai-columns img');
const cells = find('.cai-numbers td').map(e => [e.parentNode.dataset.backend, e.dataset.column, e.textContent]);
return {caption: caption && caption.textContent, sources: images.map(e => e.src), cells,
        width: images.reduce((sum, e) => sum + e.naturalWidth, 0),
        waiting: find('.pn-loading').length,
        messages: find('.cai-message').map(e => e.textContent)};
"""
READ = f"const find = function () {{ {FIND} }};" + READ


@contextlib.contextmanager
def served(model):
    """The address of a page of the command line, in a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "cai", "explore", model, "--port", str(port), "--no-browser"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        said = process.stdout.readline()
        address = f"http://127.0.0.1:{port}"
        assert address in said, said + (process.stdout.read() if process.poll() is not None else "")
        until(lambda: reachable(address), "the server to answer")
        yield address
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def reachable(address):
    try:
        with urllib.request.urlopen(address, timeout=PATIENCE) as reply:
            return reply.status == 200
    except OSError:
        return False


def until(holds, what):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = holds()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"waited {PATIENCE} s for {what}")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def bridge_address():
    with served("bridge") as address:
        yield address


class Visit:
    """A page that was opened, read and moved as a visitor would."""

    def __init__(self, browser, address):
        self.browser = browser
        browser.get(address)
        until(lambda: self.settled(), "the first answer")

    def find(self, selector, within=None):
        return self.browser.execute_script(FIND, selector, within)

    def widths(self):
        """Of the pictures as they were sent."""
        return [picture.get_property("naturalWidth") for picture in self.find(".cai-columns img")]

    def settled(self, caption=None):
        """What the page shows, once it is not waiting and its caption has left the given one."""
        seen = self.browser.execute_script(READ)
        moved = seen["caption"] and seen["caption"] != caption
        return seen if moved and not seen["waiting"] and (seen["width"] or seen["messages"]) else None

    def press(self, name, selector, *keys):
        """Sends keys to a control, and returns what is shown before and after."""
        before = self.settled()
        (handle,) = self.find(selector, f".cai-{name}")
        handle.send_keys(*keys)
        return before, until(lambda: self.settled(before["caption"]), f"the answer to {name}")


@pytest.fixture
def visit(browser, bridge_address):
    return Visit(browser, bridge_address)


def table(seen):
    return {(backend, column): text for backend, column, text in seen["cells"]}


def picture(seen):
    parts = [source.split(",", 1) for source in seen["sources"]]
    assert {head for head, _ in parts} == {"data:image/png;base64"}
    return np.concatenate([pixels(base64.b64decode(data)) for _, data in parts], 1)


def value_of(name, seen):
    return float(re.search(rf"\b{name} ([-\d.e]+)", seen["caption"]).group(1))


@pytest.mark.parametrize(
    ("name", "key", "presses", "expected", "rows"),
    [
        ("slip", "ARROW_RIGHT", 3, 0.23, {"exact", "variational"}),
        ("temperature", "ARROW_RIGHT", 3, 2.0, EVERY),  # a tenth of a decade each, to three digits
        ("discount", "ARROW_LEFT", 3, 0.97, EVERY),
        ("eta", "ARROW_RIGHT", 15, 0.5, {"risk"}),
        ("horizon", "ARROW_LEFT", 10, 10, EVERY),
    ],
)
def test_a_slider_moves_picture_and_numbers(visit, name, key, presses, expected, rows):
    from selenium.webdriver.common.keys import Keys

    before, after = visit.press(name, ".noUi-handle", getattr(Keys, key) * presses)
    after = until(lambda: (seen := visit.settled()) and abs(value_of(name, seen) - expected) < 1e-9 and seen, name)
    assert after["messages"] == []
    shown, was = picture(after), picture(before)
    assert shown.shape[1] == after["width"] == 1250
    assert shown.shape != was.shape or (shown != was).any(-1).sum() > 500
    eta = expected if name == "eta" else -1.0
    numbers = answers(bridge(**({} if name == "eta" else {name: expected})), eta)
    cells = table(after)
    for backend, columns in numbers.items():
        for column, value in columns.items():
            text = cells[backend, column]
            assert text == "-" if value is None else float(text) == pytest.approx(value, abs=5.001e-5)  # four digits
    changed = {key for key, text in table(before).items() if cells.get(key) != text}
    assert rows <= {backend for backend, column in changed if column == "real return"}
    assert name != "eta" or {backend for backend, _ in changed} == rows


def test_a_refused_value_is_said_and_taken_back(visit):
    from selenium.webdriver.common.keys import Keys

    before, after = visit.press("horizon", "input", Keys.CONTROL, "a", Keys.NULL, "1000000000", Keys.ENTER)
    (text,) = after["messages"]
    assert "horizon is 1,000,000,000" in text
    assert "lower it" in text
    assert after["cells"] == []
    assert after["sources"] == []
    visit.press("horizon", "input", Keys.CONTROL, "a", Keys.NULL, "20", Keys.ENTER)
    again = until(lambda: (seen := visit.settled()) and seen["cells"] and seen["width"] and seen, "the answer")
    assert again["messages"] == []
    assert table(again) == table(before)
    assert (picture(again) == picture(before)).all()


def test_an_answer_that_fails_leaves_the_others(browser):
    from selenium.webdriver.common.keys import Keys

    with served("gridworld") as address:  # waiting costs there, and a cautious walker may be blown about for ever
        _, after = Visit(browser, address).press("infinite_horizon", "input", Keys.SPACE)
    (text,) = after["messages"]
    assert text.startswith("risk: diverged: over an infinite horizon")
    cells = table(after)
    assert cells["risk", "bound"] == "-"
    assert float(cells["variational", "bound"]) < float(cells["exact", "log p(O)"]) < 0


def test_a_key_held_down_is_answered_at_its_end(visit):
    from selenium.webdriver.common.keys import Keys

    visit.press("slip", ".noUi-handle", Keys.ARROW_RIGHT * 12)
    seen = until(lambda: (seen := visit.settled()) and value_of("slip", seen) == 0.32 and seen, "slip 0.32")
    assert float(table(seen)["exact", "luck"]) == pytest.approx(
        answers(bridge(slip=0.32), 0)["exact"]["luck"], abs=1e-4
    )


@pytest.mark.parametrize("model", ["bridge", "river-swim", "inventory"])
def test_the_page_loads_nothing_from_elsewhere(browser, model, request):
    with contextlib.ExitStack() as stack:
        known = model == "bridge"
        address = request.getfixturevalue("bridge_address") if known else stack.enter_context(served(model))
        visit = Visit(browser, address)
        assert picture(visit.settled()).shape[1] == 1250
        loaded = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
        assert len(loaded) > 3
        assert [name for name in loaded if not name.startswith((f"{address}/", "data:", "blob:"))] == []
        wrong = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        assert wrong == []
        assert browser.title == f"cai explore {model}"


@pytest.mark.parametrize("width", [375, 1280])
def test_pages_of_a_phone_and_of_a_desktop(visit, width):
    """Nothing is wider than the window; pictures stand below each other there, and side by side here."""
    browser = visit.browser
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 700}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page = Visit(browser, browser.current_url)
        assert browser.execute_script("return [innerWidth, document.documentElement.scrollWidth]") == [width, width]
        boxes = [image.rect for image in page.find(".cai-columns img")]
        assert len({round(box["y"]) for box in boxes}) == (3 if width < 700 else 1)
        scales = {round(box["width"] / wide, 2) for box, wide in zip(boxes, page.widths(), strict=True)}
        assert min(scales) > 0.7
        assert width < 700 or len(scales) == 1
        (table,) = page.find(".cai-numbers")
        assert table.rect["x"] + table.rect["width"] <= width
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def choose(visit, name):
    """A step towards a backend that is chosen from the list, unless it is; a new layout closes the list."""
    if name in values(visit, ".choices__list--multiple .choices__item"):
        return
    (box,) = visit.find("input", ".cai-backends")
    if not visit.find(".choices__list--dropdown.is-active", ".cai-backends"):
        box.click()
    elif box.get_property("value") != name:
        box.clear()
        box.send_keys(name)
    elif values(visit, MARKED) == [name]:
        visit.find(MARKED, ".cai-backends")[0].click()


MARKED = ".choices__item--choice.is-highlighted"


def values(visit, selector):
    return [entry.get_attribute("data-value") for entry in visit.find(selector, ".cai-backends")]


def test_other_backends_can_be_chosen_and_what_is_shown_saved(visit, browser, tmp_path):
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    exceptions = pytest.importorskip("selenium.common.exceptions")

    def shown():
        now = visit.settled()
        if now and ("max-product", "luck") in table(now):
            return now
        with contextlib.suppress(exceptions.ElementNotInteractableException, exceptions.StaleElementReferenceException):
            choose(visit, "max-product")
        return None

    seen = until(shown, "max-product")
    assert len(seen["sources"]) == 4
    for kind, name in (("picture", "bridge.png"), ("numbers", "bridge.csv")):
        (button,) = until(lambda kind=kind: visit.find("a", f".cai-save-{kind}"), "the button")
        browser.execute_script("arguments[0].click()", button)  # the list of backends may be open above it
        until((tmp_path / name).exists, name)
    lines = (tmp_path / "bridge.csv").read_text().splitlines()
    assert [line.split(",")[10] for line in lines] == ["answer", "exact", "variational", "risk", "max-product"]
    assert pixels((tmp_path / "bridge.png").read_bytes()).shape[1] > 1250


def test_a_port_that_is_taken():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "cai", "explore", "bridge", "--port", port, "--no-browser"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 2
    assert f"port {port} of 127.0.0.1 cannot be used" in done.stderr
    assert "Traceback" not in done.stderr
