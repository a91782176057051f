"""The report in a real browser, from the file system, with no network to lean on.

Needs Chromium and its driver; installed by apt-get where tests run as root, skipped with the reason elsewhere (tests/browser.py).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import synthetic_results as synthetic
from browser import NoBrowserError, browser_and_driver
from vlm_spatial.stages.figures import figures

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (pip install -e '.[test]')")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

pytestmark = [pytest.mark.workflow, pytest.mark.slow]

HOSTILE = "</script><script>window.broken = true</script><img src=x onerror='window.broken = true'>"
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --force-prefers-reduced-motion --window-size=1280,900"
)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    job = synthetic.write_results(tmp_path_factory.mktemp("results"), title=HOSTILE)
    figures(job)
    return job.outputs["report"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    try:
        chromium, chromedriver = browser_and_driver()
    except NoBrowserError as error:
        pytest.skip(str(error))
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: Any, report: Path) -> Any:
    """The report, freshly loaded and ready."""
    browser.get("about:blank")
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(report.as_uri())
    WebDriverWait(browser, 30).until(lambda d: d.execute_script("return document.documentElement.dataset.ready") == "true")
    return browser


def choose(page: Any, selector: str, value: str) -> None:
    Select(page.find_element(By.CSS_SELECTOR, selector)).select_by_value(value)


def chart(page: Any, figure: str) -> str:
    """The drawn chart, as markup."""
    return page.find_element(By.CSS_SELECTOR, f"#figure-{figure} .chart").get_attribute("innerHTML")


def points(page: Any, figure: str) -> int:
    return len(page.find_elements(By.CSS_SELECTOR, f"#figure-{figure} .chart .mark-symbol:not(.role-legend-symbol) path"))


# What reaches beyond the page, unless something around it scrolls.
_WIDER = """
const scrolls = e => e && (["auto", "scroll", "hidden"].includes(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
return [...document.querySelectorAll("body *")]
  .filter(e => Math.max(e.getBoundingClientRect().right, e.getBoundingClientRect().left + e.scrollWidth) > arguments[0] + 1)
  .filter(e => !scrolls(e))
  .map(e => e.tagName + "." + e.className + " " + e.textContent.trim().slice(0, 60));
"""


def until(page: Any, condition: Any) -> None:
    WebDriverWait(page, 10).until(lambda _: condition())


def test_it_loads_without_a_word_on_the_console_and_asks_for_nothing(page: Any, report: Path) -> None:
    assert [entry for entry in page.get_log("browser") if "favicon" not in entry["message"]] == []
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    assert {url for url in asked if not url.startswith(("data:", "blob:"))} == {report.as_uri()}


def test_the_page_is_small_and_the_datasets_are_in_it(page: Any, report: Path) -> None:
    assert report.stat().st_size < 15e6
    sheets = page.find_elements(By.CSS_SELECTOR, "#datasets img")
    assert len(sheets) == 2
    assert all(page.execute_script("return arguments[0].naturalWidth", sheet) > 500 for sheet in sheets)


def test_a_training_curve_is_there_for_models_trained_here(page: Any) -> None:
    until(page, lambda: points(page, "training") > 100)
    measure = '#figure-training [data-control="measure"]'
    before = chart(page, "training")
    choose(page, measure, "loss")
    until(page, lambda: chart(page, "training") not in ("", before))
    assert points(page, "training") == 10


def test_geometry_is_drawn_and_its_numbers_are_shown(page: Any) -> None:
    until(page, lambda: points(page, "geometry") > 20)
    until(page, lambda: len(page.find_elements(By.CSS_SELECTOR, "#figure-site_angles .chart .mark-text.role-mark text")) == 4 * 4 + 7 * 7)
    # One other dataset leaves nothing to choose, so its control is not shown.
    assert not page.find_element(By.CSS_SELECTOR, '#figure-geometry [data-control="against"]').is_displayed()
    assert page.find_element(By.CSS_SELECTOR, '#figure-geometry [data-control="subspace"]').is_displayed()


def test_nothing_in_the_title_is_executed(page: Any) -> None:
    assert page.execute_script("return window.broken") is None
    assert page.find_element(By.TAG_NAME, "h1").text == HOSTILE
    assert page.title == HOSTILE


def test_all_seven_figures_are_drawn(page: Any) -> None:
    choose(page, "#model", "strip-organism")
    for figure in ("accuracy", "probes", "vision_flips", "language_flips", "dominance", "amplification"):
        until(page, lambda figure=figure: points(page, figure) > 3)
        caption = page.find_element(By.CSS_SELECTOR, f"#figure-{figure} figcaption").text
        assert "n = " in caption, figure
    assert len(page.find_elements(By.CSS_SELECTOR, "#figure-strip_maps .picture")) == 6


def test_accuracy_before_and_after_is_drawn_for_all_models_of_the_dataset_chosen(page: Any) -> None:
    # Two models, each untouched and under two corrections.
    until(page, lambda: points(page, "amplified_models") == 6)
    # The numbers are the same on both datasets here, so that another drawing is told by its mark.
    page.execute_script("document.querySelector('#figure-amplified_models .chart').firstElementChild.id = 'before'")
    choose(page, "#amplified", "squares")
    until(page, lambda: not page.find_elements(By.ID, "before") and points(page, "amplified_models") == 6)


def test_selections_change_the_charts(page: Any) -> None:
    before = {figure: chart(page, figure) for figure in ("vision_flips", "dominance", "language_flips")}
    choose(page, "#model", "strip-organism")
    for figure, drawn in before.items():
        until(page, lambda figure=figure, drawn=drawn: chart(page, figure) not in ("", drawn))
    both = chart(page, "vision_flips")
    choose(page, "#axis", "vertical")
    until(page, lambda: chart(page, "vision_flips") not in ("", both))
    vertical = chart(page, "vision_flips")
    choose(page, '#figure-vision_flips [data-control="source"]', "unrelated")
    until(page, lambda: chart(page, "vision_flips") not in ("", vertical))
    shown = page.find_element(By.CSS_SELECTOR, "#figure-vision_flips .table").get_attribute("textContent")
    assert "vertical" in shown
    assert "horizontal" not in shown
    headings = [e.text for e in page.find_elements(By.CSS_SELECTOR, ".verdicts h3") if e.is_displayed()]
    assert headings == ["strip-organism on shapes"]


def test_a_site_is_marked_in_all_charts_and_in_the_maps(page: Any) -> None:
    choose(page, "#site", "language.2")
    until(page, lambda: "language.2" in page.find_element(By.CSS_SELECTOR, "#figure-strip_maps figcaption").text)
    assert "site=language.2" in page.current_url
    first = chart(page, "probes")
    choose(page, "#site", "vision.0")
    until(page, lambda: chart(page, "probes") != first)


def test_a_click_on_a_point_chooses_its_site(page: Any) -> None:
    point = page.find_elements(By.CSS_SELECTOR, "#figure-language_flips .chart .mark-symbol:not(.role-legend-symbol) path")[3]
    page.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", point)
    webdriver.ActionChains(page).move_to_element(point).click().perform()
    until(page, lambda: Select(page.find_element(By.ID, "site")).first_selected_option.text.startswith("language."))


def test_hover_shows_the_numbers(page: Any) -> None:
    point = page.find_elements(By.CSS_SELECTOR, "#figure-dominance .chart .mark-symbol:not(.role-legend-symbol) path")[0]
    page.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", point)
    webdriver.ActionChains(page).move_to_element(point).perform()
    until(page, lambda: "95% from" in page.find_element(By.ID, "vg-tooltip-element").text)


def test_the_explorer_shows_the_scene_asked_for(page: Any) -> None:
    choose(page, "#dataset", "squares")
    choose(page, "#scene", "main-vertical-test-00003")
    pictures = page.find_element(By.ID, "pictures")
    assert pictures.get_attribute("data-scene") == "main-vertical-test-00003"
    assert "main-vertical-test-00003" in pictures.text
    assert "scene=main-vertical-test-00003" in page.current_url
    asked = page.find_element(By.ID, "answers").text
    assert "what color is the top square ?" in asked
    # 8 × 8 cells of the strip map, and the three boxes.
    assert len(pictures.find_elements(By.CSS_SELECTOR, "svg rect[fill-opacity]")) == 64
    assert len(pictures.find_elements(By.CSS_SELECTOR, "svg rect[fill='none']")) == 6
    choose(page, "#overlay", "none")
    assert pictures.find_elements(By.CSS_SELECTOR, "svg rect[fill-opacity]") == []
    page.find_element(By.ID, "next").click()
    assert pictures.get_attribute("data-scene") == "main-vertical-test-00004"
    # The picture itself is in the page and is drawn.
    assert page.execute_script("return document.querySelector('#pictures image').href.baseVal").startswith("data:image/jpeg;base64,")


def test_the_explorer_shows_a_pair_clean_and_patched(page: Any) -> None:
    choose(page, "#model", "strip-organism")
    choose(page, "#scene", "vision-horizontal-00001")
    assert len(page.find_elements(By.CSS_SELECTOR, "#pictures .picture")) == 2
    answers = page.find_element(By.ID, "answers").text
    assert "Untouched, strip-organism answers “red” to the clean picture and “green” to the counterfactual." in answers
    assert "green (flip)" in answers


def test_an_address_opens_the_view_it_names(browser: Any, report: Path) -> None:
    browser.get("about:blank")
    browser.get(report.as_uri() + "#model=strip-organism&dataset=squares&axis=vertical&site=vision.2&scene=conflict-vertical-00002")
    WebDriverWait(browser, 30).until(lambda d: d.execute_script("return document.documentElement.dataset.ready") == "true")
    for control, value in (("model", "strip-organism"), ("dataset", "squares"), ("axis", "vertical"), ("site", "vision.2")):
        assert Select(browser.find_element(By.ID, control)).first_selected_option.text == value
    assert browser.find_element(By.ID, "pictures").get_attribute("data-scene") == "conflict-vertical-00002"


def test_keyboard_alone(page: Any) -> None:
    body = page.find_element(By.TAG_NAME, "body")
    body.send_keys(Keys.TAB)
    assert page.switch_to.active_element.text == "Skip to the findings"
    model = page.find_element(By.ID, "model")
    before = chart(page, "dominance")
    model.send_keys(Keys.ARROW_DOWN)
    until(page, lambda: chart(page, "dominance") not in ("", before))
    reached = page.execute_script(
        "return [...document.querySelectorAll('button, select, input, summary, a[href]')].filter(e => e.tabIndex < 0 && !e.disabled).length"
    )
    assert reached == 0


def test_dark_page(page: Any) -> None:
    light = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    drawn = chart(page, "dominance")
    page.find_element(By.ID, "theme").click()
    assert page.execute_script("return getComputedStyle(document.body).backgroundColor") != light
    until(page, lambda: chart(page, "dominance") not in ("", drawn))


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_is_wider_than_the_page(page: Any, width: int) -> None:
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    )
    try:
        page.refresh()
        WebDriverWait(page, 30).until(lambda d: d.execute_script("return document.documentElement.dataset.ready") == "true")
        wide = page.execute_script(_WIDER, width)
        assert page.execute_script("return document.documentElement.scrollWidth") <= width, wide
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
