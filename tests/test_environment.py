"""The set-up: one place of pins, PyTorch first, and a repository that speaks of the project alone."""

import gzip
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from lib.paths import REPOSITORY

ENVIRONMENT = yaml.safe_load((REPOSITORY / "environment.yml").read_text())
PINS = next(entry["pip"] for entry in ENVIRONMENT["dependencies"] if isinstance(entry, dict))


def committed(*patterns):
    listed = subprocess.run(["git", "ls-files", "-z", *patterns], cwd=REPOSITORY, capture_output=True, text=True)
    return [REPOSITORY / name for name in listed.stdout.split("\0") if name and (REPOSITORY / name).is_file()]


def test_make_installs_exactly_the_pins_of_environment_yml():
    made = subprocess.run(["make", "-s", "pins"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert made.stdout.split() == PINS


def test_every_dependency_is_pinned_and_has_a_reason():
    lines = [line for line in (REPOSITORY / "environment.yml").read_text().splitlines() if line.startswith("      - ")]
    assert len(lines) == len(PINS) and all(re.search(r"==\S+\s+# \w+", line) for line in lines)


def test_what_is_installed_is_what_is_pinned():
    for pin in PINS:
        name, wanted = pin.split("==")
        assert version(name).split("+")[0] == wanted


def test_pytorch_is_installed_first_and_alone():
    recipe = subprocess.run(["make", "-n", "-B", "setup"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    installs = [line for line in recipe.stdout.splitlines() if "pip install" in line]
    assert "torch" in installs[0] and "-r" not in installs[0].split() and "requirements.txt" in installs[-1]


def test_the_citation_names_the_paper():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert "2509.24901" in citation["preferred-citation"]["url"] and citation["license"] == "MIT"


def test_no_committed_file_is_audio_or_over_four_mebibytes():
    files = committed()
    assert not [path for path in files if path.suffix.lower() in {".wav", ".ogg", ".flac", ".mp3", ".opus"}]
    assert not [path for path in files if path.stat().st_size > 4 * 2**20]


OF_A_MACHINE = {
    "path": r"(?<![\w.+])/(?:home|root|Users|tmp|work|mnt|opt|var)/\w",  # not in an address, nor in a picture's base64
    "drive": r"(?<!\w)[A-Z]:\\+\w",
    "index": r"index-url\s+http",
}


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *(
            ("path", f"see '/{folder}/me/x'")
            for folder in ("home", "root", "Users", "tmp", "work", "mnt", "opt", "var")
        ),
        ("path", f"file:///{'home'}/me"),
        ("drive", r"at C:\Users"),
        ("drive", r'"C:\\Users"'),
        ("index", "--index-url https://x"),
    ],
)
def test_what_is_of_a_machine_is_recognised(kind, text):
    assert re.search(OF_A_MACHINE[kind], text)
    assert not re.search(OF_A_MACHINE[kind], "https://x.org/opt/a ../opt/b Note:\\n /proc/cpuinfo /tmpfs/c")


@pytest.mark.parametrize("pattern", OF_A_MACHINE.values(), ids=OF_A_MACHINE)
def test_no_committed_text_names_a_path_of_a_machine_or_a_package_index(pattern):
    texts = [path for path in committed() if path.suffix not in {".png", ".pdf", ".safetensors"}]
    assert {"Makefile", "run", "LICENSE", "README.md"} <= {path.name for path in texts}
    for path in texts:
        if path != Path(__file__):  # which has examples
            content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            found = re.search(pattern, content.decode())
            assert not found, f"{path.name}: {found[0]}"


def test_every_torch_load_takes_weights_only():
    code = "".join(path.read_text() for path in committed("lib/*.py"))
    calls = re.findall(r"torch\.load\([^)]*\)", code)
    assert calls and all("weights_only=True" in call for call in calls)
