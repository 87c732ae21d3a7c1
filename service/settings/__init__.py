"""The server's settings: `load_settings` reads them, `Settings` has them all."""

from service.settings.backup import BackupSetting
from service.settings.keys import SCOPES, KeySetting, Scope
from service.settings.personalizer import PersonalizerSetting
from service.settings.reading import CLIENT_KEY, CLIENT_URL, SettingsError, load_settings
from service.settings.server import Settings

__all__ = [
    "CLIENT_KEY",
    "CLIENT_URL",
    "SCOPES",
    "BackupSetting",
    "KeySetting",
    "PersonalizerSetting",
    "Scope",
    "Settings",
    "SettingsError",
    "load_settings",
]
