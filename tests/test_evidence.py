"""The verdicts of the evidence, as README and pages say them: made of committed tables, profile by profile."""

import pytest

from lib.errors import InputError
from lib.evidence import AUDIT, VERDICTS, evidence, verdict_on
from lib.summary import read_figures

PAGES = [verdict.notebook for verdict in (*VERDICTS, AUDIT)]


@pytest.mark.parametrize("notebook", PAGES)
def test_a_page_says_what_the_committed_tables_of_another_profile_say(notebook):
    real, synthetic = verdict_on("esc10", notebook), verdict_on("pocket", notebook)
    assert real and synthetic and real != synthetic
    doubled = verdict_on("esc10", notebook, lambda path: doubled_numbers(read_figures(path)))
    assert doubled != real


def doubled_numbers(table):
    """Return a table with all its measured numbers twice as large."""
    numbers = table.select_dtypes("float").columns
    return table.assign(**{name: 2 * table[name] for name in numbers})


def test_a_study_that_was_not_run_on_a_profile_is_left_out_of_the_readme():
    def read(path):
        if path.startswith("esc10/dial"):
            raise InputError("not there")
        return read_figures(path)

    titles = [line.split("*")[1] for line in evidence(read).splitlines() if line.startswith("- *")]
    assert titles.count("The polyphony dial") == 1 and titles.count("Controls") == titles.count("Localisation") == 2


def test_a_verdict_that_is_not_there_is_one_clear_sentence():
    with pytest.raises(InputError, match="Unknown notebook with a verdict '18'; choose one of: 15_is"):
        verdict_on("esc10", "18")
    with pytest.raises(InputError, match="controls_effects"):
        verdict_on("smoke-less", "15_is_it_the_pooling")
