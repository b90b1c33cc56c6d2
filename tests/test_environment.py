"""The set-up: one place of pins, PyTorch first, and a repository that speaks of the project alone."""

import re
import subprocess
from importlib.metadata import version

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


@pytest.mark.parametrize("pattern", [r"/(?:home|root|Users|tmp)/[a-z]", r"index-url\s+http"])
def test_no_committed_text_names_a_path_of_a_machine_or_a_package_index(pattern):
    for path in committed():
        if path.suffix in {".py", ".ipynb", ".md", ".csv", ".json", ".yml", ".toml", ".cff"}:
            assert not re.search(pattern, path.read_text(encoding="utf-8")), path.name


def test_there_is_one_torch_load_and_it_takes_weights_only():
    code = "".join(path.read_text() for path in committed("lib/*.py"))
    (call,) = re.findall(r"torch\.load\([^)]*\)", code)
    assert "weights_only=True" in call
