"""What a server accepts as a user's own encoder, and how it refuses others."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.http.app import create_app
from service.settings import Settings

MODULES = {
    "good": "from bandexa_core.encoders import EncoderModule as M\nclass Mine(M):\n    pass\n",
    "broken": "def (\n",
    "needy": "import a_module_that_is_not_there\n",
    "other": "class Mine:\n    pass\nMine2 = Mine()\n",
}


@pytest.fixture(autouse=True)
def _modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in MODULES.items():
        (tmp_path / f"registered_{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("mlp", "registered_good:Mine"),
        ("concat", "registered_good:Mine"),
        ("mine", "registered_good:Yours"),
        ("mine", "registered_good"),
        ("mine", "registered_good:"),
        ("mine", ":Mine"),
        ("mine", ""),
        ("mine", "registered_nothing:Mine"),
        ("mine", "registered_broken:Mine"),
        ("mine", "registered_needy:Mine"),
        ("mine", "registered_other:Mine"),
        ("mine", "registered_other:Mine2"),
        ("mine", "os:system"),
    ],
)
def test_a_registration_that_cannot_work_is_refused_by_name(
    tmp_path: Path, name: str, path: str
) -> None:
    with pytest.raises(ValueError, match=f"^encoders.{name}: "):
        create_app(Settings(data_dir=tmp_path / "data", encoders={name: path}))
    assert not (tmp_path / "data").exists()


def test_a_good_registration_is_accepted(tmp_path: Path) -> None:
    app = create_app(Settings(data_dir=tmp_path, encoders={"mine": "registered_good:Mine"}))
    assert "mine" in app.state.registry.names()
