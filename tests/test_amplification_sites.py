"""Amplification where a dataset gave no probe: said and left out, never the end of the run."""

import pytest

from vlm_spatial.amplification.settings import with_probes
from vlm_spatial.probes.saved import Probes

pytestmark = pytest.mark.unit


def test_sites_whose_data_bore_no_probe_are_left_out_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    probes = Probes({}, {"inconclusive": {"horizontal/connector": "4 training scenes"}})
    # vision.0 was never probed: that is a mistake in the settings, which is told where the probe is asked for.
    assert with_probes(("vision.0", "connector"), probes) == ("vision.0",)
    assert "nothing to amplify at connector: 4 training scenes" in capsys.readouterr().err


def test_a_probe_on_one_axis_is_enough() -> None:
    some = Probes({("vertical", "connector"): None}, {"inconclusive": {"horizontal/connector": "none"}})  # type: ignore[dict-item]
    assert with_probes(("connector",), some) == ("connector",)
