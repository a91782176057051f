"""Chromium for the tests of the report: what is installed, else what apt-get installs where tests run as root, else a reason to skip."""

import os
import shutil
import subprocess

PACKAGES = ("chromium", "chromium-driver")


class NoBrowserError(Exception):
    """No browser here, and why."""


def browser_and_driver() -> tuple[str, str]:
    """Paths of Chromium and its driver, installed first if need be.

    Raises:
        NoBrowserError: saying what is missing and why it was not installed.
    """
    found = _found()
    if found is not None:
        return found
    wanted = " and ".join(PACKAGES)
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise NoBrowserError(f"{wanted} are not installed, and it takes root and apt-get to install them")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update"], ["apt-get", "install", "--yes", "--no-install-recommends", *PACKAGES]):
        try:
            subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=True, timeout=400)
        except subprocess.CalledProcessError as error:
            said = (error.stderr or error.stdout or "it failed").strip().splitlines()
            raise NoBrowserError(f"{' '.join(command)}: {said[-1]}") from error
        except subprocess.TimeoutExpired as error:
            raise NoBrowserError(f"{' '.join(command)}: took more than {error.timeout:g} seconds") from error
    found = _found()
    if found is None:
        raise NoBrowserError(f"{wanted} were installed by apt-get, but are not on the path")
    return found


def _found() -> tuple[str, str] | None:
    chromium = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    return None if chromium is None or driver is None else (chromium, driver)
