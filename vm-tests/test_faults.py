# SPDX-License-Identifier: GPL-3.0-or-later
"""A short, seeded part of the fault matrix; ``make faults`` runs the whole."""

import pytest
from faults.all_cells import CELLS
from faults.matrix import BAD, run_cell

SHORT = [chosen for chosen in CELLS if chosen.short]


@pytest.mark.parametrize("chosen", SHORT, ids=[chosen.name for chosen in SHORT])
def test_no_trial_goes_wrong(chosen, fault_dir, out_dir):
    result = run_cell(chosen, seed="test", is_short=True, work_dir=fault_dir, out_dir=out_dir)
    assert result.error is None, result.error
    bad = [trial for trial in result.trials if trial.verdict in BAD]
    assert not bad
    assert len(result.trials) >= chosen.short
