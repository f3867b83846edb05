from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from segray.pipelines.annotation.run import print_resume_hint


def test_a_second_ctrl_c_still_says_how_to_resume(capsys: pytest.CaptureFixture[str]) -> None:
    class Busy:
        def tally(self) -> None:
            raise KeyboardInterrupt

    prepared: Any = SimpleNamespace(config=SimpleNamespace(out="labels"))
    ledger: Any = Busy()
    with pytest.raises(KeyboardInterrupt):
        print_resume_hint(prepared, ledger)
    assert capsys.readouterr().err == (
        "\nstopped; finished images of this run are safe in labels; run the same command to resume\n"
    )
