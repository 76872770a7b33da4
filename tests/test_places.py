"""Places that are written wrongly in a list, or in params.yaml: one line says so, with its mend."""

from __future__ import annotations

from pathlib import Path

import pytest

from aigc_tasks import acquire
from aigc_tasks.errors import UserError

UNFINISHED = "http://[::1/pics"  # which Python's own parser of URLs refuses


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"kind": "urls", "source": "list.txt"}, f"list.txt: '{UNFINISHED}' is not a URL; write https://"),
        ({"kind": "urls", "urls": [UNFINISHED]}, f"'{UNFINISHED}' is not a URL; write https://"),
        ({"kind": "store", "source": UNFINISHED}, f"{UNFINISHED}: not a URL; set `source` in params.yaml to one"),
        ({"kind": "parquet", "source": UNFINISHED}, "no such folder or file; set `source` in params.yaml"),
        ({"kind": "folder", "source": "~nobody-of-that-name/pics"}, "~nobody-of-that-name/pics: no such user's home"),
    ],
)
def test_a_place_that_is_none_is_said_in_one_line(
    knobs: dict[str, object], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("list.txt").write_text(f"http://127.0.0.1/a.png\n{UNFINISHED}\n")
    with pytest.raises(UserError) as error:
        list(acquire.source(str(knobs["kind"])).model_validate(knobs).entries(tmp_path / "work"))
    assert said in str(error.value)
    assert "\n" not in str(error.value)
