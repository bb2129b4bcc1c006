"""Every command in the README and in the guides runs, in the order in which a reader would type it."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDES = sorted((ROOT / "docs").glob("*.md"))
PART = re.compile(r"^```sh\n(?P<block>.*?)^```$|^<!-- wait: (?P<wait>[a-z ]+) -->$", re.MULTILINE | re.DOTALL)
# What a reader does by waiting "a few seconds".
WAITS = {
    "at rest": "for i in $(seq 240); do lockgate lag --json | python -m tests.docs.at_rest && break; sleep 0.5; done"
}


def script(page: Path) -> str:
    """The commands of a page, one after the other."""
    parts = []
    for part in PART.finditer(page.read_text(encoding="utf-8")):
        parts.append(WAITS[part["wait"]] if part["wait"] else part["block"])
    return "\n".join(parts)


def run(text: str, folder: Path, bound_s: int, env: dict[str, str] | None = None) -> str:
    """Runs a script as a reader's shell would, in the checkout; what it writes goes to a folder of its own."""
    bin_dir = ROOT / ".venv" / "bin"
    environment = {
        **os.environ,
        "PATH": f"{bin_dir}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "LOCKGATE_DATA_DIR": str(folder / "data"),
        **(env or {}),
    }
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-m"],
        # Whatever ends the script also ends the worker that it started.
        input=f"trap 'kill $(jobs -p) 2> /dev/null || true' EXIT\ncd {ROOT}\n{text}",
        env=environment,
        capture_output=True,
        text=True,
        timeout=bound_s,
    )
    assert done.returncode == 0, f"{text}\n--- stdout\n{done.stdout[-3000:]}\n--- stderr\n{done.stderr[-3000:]}"
    return done.stdout


def in_folder(text: str, folder: Path) -> str:
    """The pages write small files into the reader's folder; a test writes them beside the checkout."""
    for name in {*re.findall(r"> ([a-z]+\.(?:log|jsonl|csv|py))\b", text), "done.sqlite"}:
        text = re.sub(rf"(?<![\w/.]){re.escape(name)}\b", str(folder / name), text)
    return text


@pytest.mark.broker
@pytest.mark.timeout(600)
def test_the_readme_runs_from_top_to_bottom(tmp_path):
    text = in_folder(script(ROOT / "README.md"), tmp_path)
    assert text.count("lockgate ") > 20
    try:
        out = run(text, tmp_path, 560)
    finally:
        subprocess.run(["bash", "-c", "lockgate down"], env=os.environ | _env(tmp_path), cwd=ROOT, check=False)
    (shown,) = re.findall(r"^```\n(place .*?)^```$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert shown.strip() in out, "the demo no longer shows what the README says it shows"


@pytest.mark.broker
@pytest.mark.timeout(600)
def test_the_guides_run_from_top_to_bottom(tmp_path):
    start = "lockgate up\nlockgate topics apply\nlockgate samples --context-only\n"
    start += f"lockgate worker > {tmp_path}/w.log 2>&1 &\nlockgate samples\n{WAITS['at rest']}"
    pages = [page for page in GUIDES if page.name != "figures.md"]
    text = "\n".join([start, *(script(page) for page in pages), "kill %1 && wait %1"])
    try:
        run(in_folder(text, tmp_path), tmp_path, 560)
    finally:
        subprocess.run(["bash", "-c", "lockgate down"], env=os.environ | _env(tmp_path), cwd=ROOT, check=False)


def _env(folder: Path) -> dict[str, str]:
    return {"PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}", "LOCKGATE_DATA_DIR": str(folder / "data")}


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *GUIDES], ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


def test_every_make_target_that_the_pages_name_is_there():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set()
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        named |= set(re.findall(r"(?:`|^ *)make ([a-z]+)", page.read_text(encoding="utf-8"), re.MULTILINE))
    assert named <= targets
