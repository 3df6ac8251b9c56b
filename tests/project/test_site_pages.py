"""Built pages in headless Chromium, as wide as a phone and a desktop: they fit, and nothing comes from elsewhere."""

import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

SITE = Path(__file__).parents[2] / "out" / "docs"
MISSING = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
    pytest.mark.skipif(not (SITE / "index.html").exists(), reason="the site is not built; run make docs"),
]
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
PAGES = (
    "index.html",
    "quick_start.html",
    "which_backend.html",
    "backends/risk.html",
    "zoo.html",
    "sharp_bits.html",
    "api/cai.html",
    "tutorials/07_gaussian_duality.html",
    "play/index.html",
)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass


@pytest.fixture(scope="module")
def address():
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(SITE))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.mark.parametrize("page", PAGES)
def test_a_page_fits_and_loads_nothing_from_elsewhere(browser, address, page):
    for width in (390, 1280):
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        browser.get(f"{address}/{page}")
        browser.execute_async_script(
            "const done = arguments[0]; window.MathJax?.startup?.promise.then(() => done()) ?? done();"
        )
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        loaded = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
        assert loaded
        assert [name for name in loaded if not name.startswith((address, "data:"))] == []
        errors = [said["message"] for said in browser.get_log("browser") if "favicon" not in said["message"]]
        assert errors == []


def test_equations_are_drawn(browser, address):
    browser.get(f"{address}/backends/risk.html")
    browser.execute_async_script("const done = arguments[0]; MathJax.startup.promise.then(() => done());")
    assert len(browser.find_elements("css selector", "mjx-container")) >= 5
    assert browser.find_elements("css selector", "mjx-merror") == []
