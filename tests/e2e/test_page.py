"""The page, in a real browser against a real server."""

from __future__ import annotations

import os
import re
import shutil
import time

import httpx2
import pytest
from playwright.sync_api import expect, sync_playwright

from conftest import RECORDINGS
from e2e.conftest import ENGINE, Server
from tingdao.database import Database
from tingdao.keys import KeyStore

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.fail("no Chromium found: apt-get install chromium, or set CHROMIUM to a browser's path")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
                  "--disable-background-networking", "--disable-component-update"],
        )  # fmt: skip
        yield browser
        browser.close()


@pytest.fixture
def page(browser, server):
    context = browser.new_context(locale="en-US", accept_downloads=True)
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=server.url)
    page = context.new_page()
    problems, elsewhere = [], []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on(
        "request",
        lambda request: elsewhere.append(request.url) if not request.url.startswith((server.url, "blob:")) else None,
    )
    page.goto(server.url)
    yield page
    context.close()
    assert elsewhere == []
    # The browser itself writes a line for each answer that is an error; that is not one of the page.
    assert [problem for problem in problems if "Failed to load resource" not in problem] == []


def transcribe(page, name):
    page.get_by_test_id("file").set_input_files(RECORDINGS / name)
    start = page.get_by_test_id("start")
    if start.is_visible() and start.is_enabled():
        start.click()


def test_a_recording_becomes_a_transcript_and_subtitles(page):
    if ENGINE.stand_in:
        expect(page.get_by_test_id("notice")).to_contain_text("Qwen3-ASR")
    else:
        expect(page.get_by_test_id("notice")).to_be_hidden()
    transcribe(page, "jfk.flac")
    expect(page.get_by_test_id("transcript")).to_contain_text("fellow Americans", timeout=60_000)

    page.get_by_test_id("copy").click()
    assert "fellow Americans" in page.evaluate("navigator.clipboard.readText()")

    with page.expect_download() as caught:
        page.get_by_test_id("download-srt").click()
    assert caught.value.suggested_filename == "jfk.srt"
    subtitles = caught.value.path().read_text(encoding="utf-8")
    assert re.match(r"1\r?\n00:00:0\d,\d{3} --> 00:00:\d\d,\d{3}\r?\n", subtitles)
    assert "Americans" in subtitles


def test_an_error_says_what_to_do(page, tmp_path):
    (tmp_path / "letter.wav").write_text("not audio")
    page.get_by_test_id("file").set_input_files(tmp_path / "letter.wav")
    start = page.get_by_test_id("start")
    if start.is_visible() and start.is_enabled():
        start.click()
    expect(page.get_by_test_id("error")).to_contain_text("WAV", timeout=30_000)
    transcribe(page, "librivox_ss_0880.flac")
    expect(page.get_by_test_id("transcript")).to_contain_text("young man", timeout=60_000)
    expect(page.get_by_test_id("error")).to_be_hidden()


def test_languages_come_from_the_model(page, server):
    expect(page.get_by_test_id("language").locator("option[value=zh]")).to_have_count(1)
    offered = page.get_by_test_id("language").locator("option").evaluate_all("all => all.map(one => one.value)")
    known = httpx2.get(f"{server.url}/v1/models").json()["data"][0]["languages"]
    assert len(known) >= 30
    assert set(known) <= set(offered)


def test_a_service_with_keys_asks_for_one(browser, weights, tmp_path):
    database = Database(None, tmp_path / "own")
    key = KeyStore(database).add("page")
    database.close()
    server = Server(tmp_path / "own", TINGDAO_EMBEDDED_PATH=str(weights))
    context = browser.new_context(locale="en-US")
    try:
        server.wait_until_ready()
        page = context.new_page()
        page.goto(server.url)
        expect(page.get_by_test_id("key")).to_be_focused()
        expect(page.get_by_test_id("file")).to_be_hidden()
        for wrong in ("nonsense", key[:-1]):
            page.get_by_test_id("key").fill(wrong)
            page.get_by_test_id("enter").click()
            expect(page.get_by_text("does not take this key")).to_be_visible()
        page.get_by_test_id("key").fill(f" {key} ")
        page.get_by_test_id("key").press("Enter")
        expect(page.get_by_test_id("key")).to_be_hidden()
        transcribe(page, "jfk.flac")
        expect(page.get_by_test_id("transcript")).to_contain_text("fellow Americans", timeout=60_000)
        page.reload()
        expect(page.get_by_test_id("key")).to_be_hidden()  # the tab remembers it
        expect(page.get_by_test_id("language").locator("option[value=zh]")).to_have_count(1)
        assert key not in page.url
        assert page.evaluate("Object.values(localStorage).join()").find(key) < 0

        store = KeyStore(Database(None, tmp_path / "own"))
        store.revoke("page")
        time.sleep(1.1)
        transcribe(page, "jfk.flac")
        expect(page.get_by_text("does not take this key")).to_be_visible()
    finally:
        context.close()
        server.stop()
    assert key not in server.log.read_text()
    assert key[3:20] not in server.log.read_text()
    requests = [line for line in server.lines() if line["message"] == "request"]
    assert {line["key"] for line in requests if line["path"] == "/v1/audio/transcriptions"} == {"page", None}
