"""The recursions of the page to play with, in JavaScript, against backend `risk`; and the page itself in Chromium."""

import json
import random
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import cai
from cai.models import bridge, lottery

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # the sources of the site are no part of the package

from docs.play_tables import play_tables

PLAY = ROOT / "docs" / "play"
RANGES = ("slip", "temperature", "horizon", "eta")
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


def expected(name, slip, temperature, horizon, eta):
    """(believed return, real return, luck) of the backend."""
    problem = (
        bridge(slip, temperature=temperature, horizon=horizon) if name == "bridge" else lottery(temperature=temperature)
    )
    answer = cai.infer(problem, "risk", eta=eta)
    outcome = cai.evaluate(cai.extract_policy(answer), problem, num_rollouts=2)
    return [float(answer.believed_return), float(outcome.expected_return), float(answer.luck)]


def settings(count, seed):
    """Random settings of both models, with the ends of every range among them."""
    draw = random.Random(seed)
    return [
        {
            "name": ("bridge", "lottery")[i % 2],
            "slip": draw.choice([0.0, 1.0, draw.random(), draw.random()]),
            "temperature": draw.choice([0.1, 10.0, draw.uniform(0.1, 10), 10 ** draw.uniform(-1, 1)]),
            "horizon": draw.choice([1, 60, draw.randint(1, 60)]),
            "eta": draw.choice([0, 1, -5.0, 5.0, 1e-9, draw.uniform(-5, 5), draw.uniform(-5, 5)]),
        }
        for i in range(count)
    ]


def computed(asked):
    """The same three numbers from the script of the page, run by node."""
    script = (PLAY / "recursions.js").read_text()
    script += f"""
    const found = {json.dumps(asked)}.map((asked) => {{
      const model = RECURSIONS.models[asked.name](TABLES[asked.name], asked);
      const answer = RECURSIONS.answer(model, asked.eta);
      return [answer.believed, answer.real, answer.luck];
    }});
    console.log(JSON.stringify(found));
    """
    done = subprocess.run(["node", "-"], input=play_tables() + script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def compare(count, seed):
    asked = settings(count, seed)
    for one, found in zip(asked, computed(asked), strict=True):
        # sums over 60 steps of returns up to 60 in size: rounding, a hundred times over
        assert found == pytest.approx(expected(**one), rel=1e-10, abs=1e-10), one


@needs_node
def test_the_script_answers_what_risk_answers():
    compare(16, seed=0)


@needs_node
@pytest.mark.campaign
def test_the_script_answers_what_risk_answers_in_two_hundred_settings():
    compare(200, seed=1)


def test_the_tables_hold_the_defaults_of_the_zoo():
    tables = json.loads(play_tables().partition("= ")[2].rstrip(";\n"))
    assert tables["bridge"]["rows"][2] == "S.===.G"
    assert tables["bridge"]["fall_reward"] == -20.0
    assert tables["lottery"]["lose_reward"] == -10.0


# ---- in a browser ----

MISSING = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
needs_chromium = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
MOVE = """
const [id, value] = arguments, control = document.getElementById(id);
control.value = value;
control.dispatchEvent(new Event(control.tagName === "SELECT" ? "change" : "input", {bubbles: true}));
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page, opened from a file as a visitor of a copied folder would."""
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    folder = tmp_path_factory.mktemp("site") / "play"
    shutil.copytree(PLAY, folder)
    (folder / "tables.js").write_text(play_tables())
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    driver.get((folder / "index.html").as_uri())
    yield driver
    driver.quit()


def read(page):
    return [float(page.find_element("id", key).get_attribute("data-value")) for key in ("believed", "real", "luck")]


@needs_chromium
@pytest.mark.browser
def test_the_page_shows_what_risk_answers(page):
    assert read(page) == pytest.approx(expected("bridge", 0.2, 1.0, 20, 1.0), rel=1e-10)
    for asked in settings(6, seed=2):
        shown = {"slip": round(asked["slip"], 2), "temperature": max(0.1, round(asked["temperature"], 1))}
        shown |= {"horizon": asked["horizon"], "eta": round(asked["eta"], 1)}
        page.execute_script(MOVE, "model", asked["name"])
        for name, value in shown.items():
            page.execute_script(MOVE, name, str(value))
        assert read(page) == pytest.approx(expected(asked["name"], **shown), rel=1e-10, abs=1e-10), shown
        off = {name for name in RANGES if page.find_element("id", name).get_attribute("disabled")}
        assert off == ({"slip", "horizon"} if asked["name"] == "lottery" else set())
    assert page.get_log("browser") == []


@needs_chromium
@pytest.mark.browser
def test_the_page_fits_a_phone_and_a_desktop(page):
    for width in (390, 1280):
        page.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
        )
        assert page.execute_script("return document.documentElement.scrollWidth") <= width


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass


@needs_chromium
@pytest.mark.browser
def test_the_page_loads_nothing_from_elsewhere(page):
    folder = Path(urlsplit(page.current_url).path).parent
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        page.get(f"{address}/index.html")
        loaded = page.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
        server.shutdown()
    files = {name.removeprefix(address) for name in loaded} - {"/favicon.ico"}
    assert files == {"/play.css", "/tables.js", "/recursions.js", "/page.js"}
