"""The page in a real browser, from a portrait and a voice handed in to a video that plays."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import wave
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from omnihuman_jax.media import example, probe_video, read_audio

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (apt install chromium)"),
]
WAIT = 90_000  # ms, for a video on a slow and busy machine
# Every text of the status card is kept, however short it was there.
WATCH = """
window.seen = [];
new MutationObserver(() => seen.push(document.querySelector('#status')?.innerText || ''))
  .observe(document, {subtree: true, childList: true, characterData: true});
"""
PLAYED = """async () => {
  const video = document.querySelector('#video video');
  video.pause(); video.currentTime = 0;
  await video.play();
  const until = Date.now() + 15000;
  while (video.currentTime < 0.1 && Date.now() < until) await new Promise(r => setTimeout(r, 20));
  return {ready: video.readyState, duration: video.duration, at: video.currentTime,
          sound: video.webkitAudioDecodedByteCount, width: video.videoWidth};
}"""


# The server, which names every machine that it turns to.
SERVER = """
import sys
def heard(event, given):
    if event == "socket.connect" and isinstance(given[1], tuple):
        if given[1][0] not in ("127.0.0.1", "::1"):
            print("OUTSIDE", given[1], file=sys.stderr, flush=True)
    if event == "socket.getaddrinfo" and given[0] not in ("127.0.0.1", "localhost", None):
        print("OUTSIDE", given[0], file=sys.stderr, flush=True)
sys.addaudithook(heard)
from omnihuman_jax.cli import main
sys.exit(main())
"""


@contextmanager
def serving(work):
    """A server as a process of its own: its address, then a clean end by Ctrl-C."""
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "GRADIO_ALLOWED_PATHS": "/etc",  # left from another server of this user: opens nothing
    }
    command = [sys.executable, "-c", SERVER, "serve", "--port", "0", "--json"]
    log = work.with_name("log")
    with log.open("w") as err:
        server = subprocess.Popen(
            [*command, "--work", str(work), "--max-seconds", "2"],
            env=env, text=True, stdout=subprocess.PIPE, stderr=err,
        )  # fmt: skip
    late = threading.Timer(120, server.kill)  # a line that never comes would be waited for forever
    late.start()
    try:
        line = server.stdout.readline()
        late.cancel()
        assert line, log.read_text()
        yield json.loads(line)["url"]
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 130, log.read_text()
    finally:
        late.cancel()
        server.kill()
    said = log.read_text()
    assert "Traceback" not in said and "OUTSIDE" not in said, said


@contextmanager
def browsing():
    """A browser that finds no other machine, and every address that its pages asked for."""
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--autoplay-policy=no-user-gesture-required",
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            ],
        )
        context = browser.new_context(viewport={"width": 1200, "height": 900})
        context.set_default_timeout(WAIT)
        asked = []
        context.on("request", lambda request: asked.append(request.url))
        yield context, asked
        browser.close()


def status(url, path):
    """The answer to a path as it is written, which a browser would tidy first."""
    try:
        with urllib.request.urlopen(url.rstrip("/") + path, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as refusal:
        return refusal.code


def handed_in(url, path):
    """Whether the click takes a portrait that was never uploaded: the last word of its event."""
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    data = [file, *[None] * 8, "auto", "unipc", None, None]
    body = {"data": data, "fn_index": 0, "session_hash": "forged"}
    join = urllib.request.Request(
        f"{url}gradio_api/queue/join",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    urllib.request.urlopen(join, timeout=30).close()
    with urllib.request.urlopen(
        f"{url}gradio_api/queue/data?session_hash=forged", timeout=60
    ) as told:
        for line in told:
            if b"process_completed" in line or b"process_generating" in line:
                return json.loads(line.removeprefix(b"data:"))["success"]
    raise AssertionError("the event never ended")


@pytest.fixture
def inputs(tmp_path):
    """A portrait, a voice, and a text that says it is a voice."""
    Image.open(example("puppet.png")).convert("RGB").save(tmp_path / "me.jpg")
    speech = np.round(read_audio(example("speech.flac"))[:16_000] * 32767).astype("<i2")
    with wave.open(str(tmp_path / "hello.wav"), "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(16_000)
        file.writeframes(speech.tobytes())
    (tmp_path / "notes.wav").write_text("This is no sound.")
    return tmp_path


def test_a_visitor_hands_in_a_portrait_and_a_voice_and_sees_them_speak(inputs):
    work = inputs / "work"
    (inputs / "secret.txt").write_text("mine")
    with serving(work) as url, browsing() as (context, asked):
        page = context.new_page()
        page.add_init_script(WATCH)
        page.goto(url)
        page.set_input_files("#portrait input[type=file]", inputs / "me.jpg")
        page.set_input_files("#voice input[type=file]", inputs / "hello.wav")
        page.get_by_text("More settings").click()
        page.get_by_label("Length").fill("0.36")
        page.get_by_label("Size").fill("32x32")
        page.get_by_label("Steps").fill("2")
        page.get_by_label("Seed").fill("7")
        page.get_by_label("Text", exact=True).fill("<b>a woman</b> nods")
        page.click("#make")
        page.wait_for_selector("#repeat")
        page.wait_for_selector("#video video")

        seen = page.evaluate("seen")
        shares = {text for text in seen if "Denoising" in text}
        assert len(shares) >= 2 and any("2 of 2" in text for text in shares), seen
        played = page.evaluate(PLAYED)
        assert played["ready"] >= 2 and played["width"] == 32, played
        assert played["duration"] == pytest.approx(0.36, abs=0.1) and played["at"] > 0, played
        (video,) = work.rglob("video.mp4")
        facts = probe_video(video)
        assert facts.frames == 9 and facts.audio_seconds == pytest.approx(0.36, abs=0.05)
        page.get_by_text("Settings", exact=True).click()
        assert "--reference me.jpg --audio hello.wav" in page.inner_text("#command")

        again = context.new_page()
        again.goto(url + page.get_attribute("#repeat", "href"))
        again.wait_for_selector("#portrait img")
        again.wait_for_selector("#video video")
        again.get_by_text("More settings").click()
        fields = {"Length": "0.36", "Size": "32x32", "Steps": "2", "Seed": "7"}
        assert {name: again.get_by_label(name).input_value() for name in fields} == fields
        assert again.get_by_label("Text", exact=True).input_value() == "<b>a woman</b> nods"
        assert "hello.wav" in json.loads((video.parent / "form.json").read_text())["audio"]

        again.locator("#voice").get_by_label("Clear").click()
        again.set_input_files("#voice input[type=file]", inputs / "notes.wav")
        again.click("#make")
        said = again.wait_for_selector("#status [role=alert]").inner_text()
        assert said.startswith("notes.wav cannot be read") and str(work) not in said
        again.get_by_label("Size").fill("4096x4096")
        again.locator("#voice").get_by_label("Clear").click()
        again.click("#make")
        again.get_by_text("Choose a smaller size").wait_for()

        served = f"/gradio_api/file={video}"
        assert status(url, served) == 200
        model = example("speech.flac").parent.parent / "mini" / "model.json"
        for path in (
            "/gradio_api/file=/etc/passwd",
            f"/gradio_api/file={model}",
            f"/gradio_api/file={video.parent}/../../../../secret.txt",
            f"/gradio_api/file={video.parent}/%2e%2e/%2e%2e/%2e%2e/%2e%2e/secret.txt",
            f"/gradio_api/file={video.parent}/..%2f..%2f..%2f..%2fsecret.txt",
            f"/gradio_api/file={work}",
            "/gradio_api/file=pyproject.toml",
            "/gradio_api/file=https://example.com/",
            "/static/../../../../../../../../etc/passwd",
            "/assets/..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
            "/gradio_api/proxy=https://example.com/",
            "/gradio_api/info",
            "/gradio_api/runs",
            "/docs",
        ):
            assert status(url, path) in (403, 404), path

        assert handed_in(
            url, str(video.parent / "reference/me.jpg")
        )  # so that a refusal says something
        for path in ("/etc/passwd", str(inputs / "secret.txt"), "http://example.com/a.png"):
            assert not handed_in(url, path), path

        foreign = [one for one in asked if not one.startswith((url, "blob:", "data:"))]
        assert len(asked) > 10 and not foreign
