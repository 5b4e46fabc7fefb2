"""Static files: media types, cache headers, security policy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from api.conftest import calling, make_access, problem
from rehydrate.api import static_files as pages
from rehydrate.api.app import create_app

UI = Path(pages.__file__).parent / "ui"
FILES = sorted(UI.iterdir())
MOST_BYTES = 200_000


@pytest.fixture
async def client(standin):
    app = create_app(standin, make_access(), inspector=standin)
    async with calling(app) as client:
        yield client


async def test_the_page_is_public_and_contains_no_secret(client):
    answer = await client.get("/ui")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.text.startswith("<!doctype html>")


async def test_the_page_refers_to_its_files_by_digest_so_that_they_are_cached(client):
    page = (await client.get("/ui")).text
    names = re.findall(r'(?:href|src)="(ui/[^"]+)"', page)
    assert len(names) > 20
    for name in names:
        answer = await client.get(f"/{name}")
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    # a page of another version gets what there is, and does not keep it
    other = await client.get(f"/ui/another/{names[0].rpartition('/')[2]}")
    assert (other.status_code, other.headers["cache-control"]) == (200, "no-cache")


@pytest.mark.parametrize("name", ["", *(f"/v/{path.name}" for path in FILES)])
async def test_every_file_has_a_strict_policy_and_an_etag(client, name):
    answer = await client.get(f"/ui{name}")
    assert answer.status_code == 200
    policy = dict(each.strip().split(" ", 1) for each in
                  answer.headers["content-security-policy"].split(";"))  # fmt: skip
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    kept = {"If-None-Match": answer.headers["etag"]}
    assert (await client.get(f"/ui{name}", headers=kept)).status_code == 304


async def test_a_trailing_slash_redirects_to_the_page(client):
    answer = await client.get("/ui/")
    assert (answer.status_code, answer.headers["location"]) == (308, "../ui")


async def test_other_names_are_not_found(client):
    problem(await client.get("/ui/main.js"), 404, "not_found")
    for name in ("nothing.js", "..%2Fapp.py", "%2e%2e", "ui%2Findex.html", "index.html%00"):
        problem(await client.get(f"/ui/v/{name}"), 404, "not_found")


async def test_the_client_module_may_be_loaded_by_other_origins(client):
    answer = await client.get("/client.js")
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert "@rehydrate/client" in answer.text


async def test_without_an_inspector_there_is_no_page(standin):
    async with calling(create_app(standin, make_access())) as client:
        problem(await client.get("/ui"), 404, "not_found")


def test_the_page_is_small_and_loads_nothing_from_other_hosts():
    assert sum(path.stat().st_size for path in FILES) <= MOST_BYTES
    for path in FILES:
        text = path.read_text()
        # the name of SVG's namespace is a name, and is not loaded
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), path.name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
        assert not re.search(r"<script(?![^>]*src=)|<style| style=| on[a-z]+=\"", text), path.name


def test_every_module_is_preloaded():
    asked = re.findall(
        r'(?:src|modulepreload" href)="ui/([\w.]+)"', (UI / "index.html").read_text()
    )
    assert sorted(asked) == sorted(path.name for path in FILES if path.suffix == ".js")


def _luminance(colour):
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_enough_contrast(scheme):
    css = (UI / "base.css").read_text()
    pairs = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", css)
    colours = {name: (light, dark)[scheme == "dark"] for name, light, dark in pairs}
    papers = ("bg", "surface", "sunken", "raised", "bubble", "accent-wash")
    used = [(ink, paper) for ink in ("ink", "muted") for paper in papers]
    used += [(ink, paper) for ink in ("accent", "danger") for paper in ("bg", "surface")]
    used += [(ink, f"{ink}-wash") for ink in ("danger", "warn")] + [("on-accent", "accent")]
    used += [("live", "surface"), ("live", "bg")]
    for ink, paper in used:
        light, dark = sorted(map(_luminance, (colours[ink], colours[paper])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, f"{ink} on {paper}, {scheme}"


def test_the_files_stay_small():
    wrong = {path.name: n for path in FILES if (n := len(path.read_text().splitlines())) > 350}
    assert not {name: n for name, n in wrong.items() if not name.endswith(".css")}
