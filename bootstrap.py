"""Put uv into .tools/: the one thing `make install` needs before the locked environment.

Standard library only, CPython 3.11+. The wheel of uv is the one that uv.lock pins: its address,
its name and its SHA-256 are read from there. If a package index is configured (UV_DEFAULT_INDEX,
UV_INDEX_URL, PIP_INDEX_URL or pip's configuration) the same file is taken from it instead. An uv
on PATH is used when it satisfies `required-version` of pyproject.toml.
"""

from __future__ import annotations

import configparser
import hashlib
import html.parser
import io
import os
import re
import shutil
import ssl
import subprocess
import sys
import tomllib
import urllib.parse
import urllib.request
import zipfile
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent
TOOLS: Final = ROOT / ".tools"
PLATFORM: Final = re.compile(r"manylinux_2_17_x86_64|manylinux2014_x86_64")
TIMEOUT_S: Final = 120.0


class BootstrapError(Exception):
    """uv cannot be installed; the message says why and what to do."""


def main() -> int:
    """Make sure that .tools/uv is there; print its path."""
    try:
        print(ensure_uv())
    except (BootstrapError, OSError) as exc:
        print(f"bootstrap: {exc}", file=sys.stderr)
        return 1
    return 0


def ensure_uv() -> Path:
    """Return the path of a uv that this project accepts, installing it if need be."""
    target = TOOLS / "uv"
    minimum = required_version()
    if (found := version_of(target)) is not None and found >= minimum:
        return target
    TOOLS.mkdir(exist_ok=True)
    on_path = shutil.which("uv")
    if on_path and (found := version_of(Path(on_path))) is not None and found >= minimum:
        target.unlink(missing_ok=True)
        target.symlink_to(on_path)
        return target
    wheel = locked_wheel()
    content = download(wheel_address(wheel))
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    if digest != wheel["hash"]:
        raise BootstrapError(f"{wheel['url']} has {digest}, uv.lock says {wheel['hash']}")
    unpack(content, target)
    return target


def required_version() -> tuple[int, ...]:
    """Return the lower bound of `tool.uv.required-version`."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    text = settings["tool"]["uv"]["required-version"]
    match = re.fullmatch(r">=\s*([0-9.]+)", text)
    if match is None:
        raise BootstrapError(f"required-version must be a lower bound, got {text!r}")
    return _version(match.group(1))


def version_of(program: Path) -> tuple[int, ...] | None:
    """Return the version a uv reports, or None if it does not run."""
    try:
        done = subprocess.run(
            [str(program), "--version"], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.match(r"uv ([0-9.]+)", done.stdout)
    return _version(match.group(1)) if match else None


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def locked_wheel() -> dict[str, Any]:
    """Return the entry of uv's wheel for this platform in uv.lock: url, hash."""
    lock = tomllib.loads((ROOT / "uv.lock").read_text("utf-8"))
    for package in lock["package"]:
        if package["name"] == "uv":
            for wheel in package["wheels"]:
                if PLATFORM.search(wheel["url"]):
                    return dict(wheel)
    raise BootstrapError("uv.lock pins no manylinux x86-64 wheel of uv; run 'uv lock'")


def wheel_address(wheel: dict[str, Any]) -> str:
    """Return where to fetch the wheel: the configured index, else the lock's address."""
    index = configured_index()
    if index is None:
        return str(wheel["url"])
    name = urllib.parse.unquote(urllib.parse.urlsplit(wheel["url"]).path.rpartition("/")[2])
    page = f"{index.rstrip('/')}/uv/"
    links = _Links()
    links.feed(download(page).decode("utf-8", "replace"))
    for link in links.found:
        address = urllib.parse.urldefrag(urllib.parse.urljoin(page, link)).url
        if urllib.parse.unquote(address.rpartition("/")[2].partition("?")[0]) == name:
            return address
    raise BootstrapError(f"the configured index {_masked(index)} has no {name}")


def configured_index() -> str | None:
    """Return the index set for uv or pip, or None."""
    for variable in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"):
        if value := os.environ.get(variable):
            # uv accepts "name=url".
            return re.sub(r"^[A-Za-z0-9_.-]+=(?=https?://)", "", value)
    return pip_setting("index-url")


def pip_setting(name: str) -> str | None:
    """Return a setting of pip's configuration files; the most personal file wins."""
    home = Path.home()
    personal = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf"
    files = [Path("/etc/pip.conf"), home / ".pip" / "pip.conf", personal]
    if named := os.environ.get("PIP_CONFIG_FILE"):
        files.append(Path(named))
    parser = configparser.RawConfigParser()
    try:
        parser.read(files, "utf-8")
    except configparser.Error as exc:
        raise BootstrapError(f"pip's configuration cannot be read: {exc}") from exc
    for section in ("install", "global"):
        if parser.has_option(section, name):
            return parser.get(section, name)
    return None


def download(address: str) -> bytes:
    """Fetch an address through the configured proxy and certificates."""
    if not address.startswith(("https://", "http://")):
        raise BootstrapError(f"{address!r} is not an http address")
    bundle = os.environ.get("SSL_CERT_FILE") or os.environ.get("PIP_CERT") or pip_setting("cert")
    context = ssl.create_default_context(cafile=bundle or None)
    parts = urllib.parse.urlsplit(address)
    handlers: list[urllib.request.BaseHandler] = [urllib.request.HTTPSHandler(context=context)]
    if parts.username is not None:
        # An index with credentials in its address, as pip and uv accept it.
        passwords = urllib.request.HTTPPasswordMgrWithPriorAuth()
        host = parts.netloc.rpartition("@")[2]
        address = parts._replace(netloc=host).geturl()
        user = urllib.parse.unquote(parts.username)
        secret = urllib.parse.unquote(parts.password or "")
        passwords.add_password(None, address, user, secret, is_authenticated=True)
        handlers.append(urllib.request.HTTPBasicAuthHandler(passwords))
    opener = urllib.request.build_opener(*handlers)
    try:
        with opener.open(address, timeout=TIMEOUT_S) as response:
            return bytes(response.read())
    except OSError as exc:
        raise BootstrapError(
            f"cannot fetch {_masked(address)}: {exc}; check the network, https_proxy, "
            "SSL_CERT_FILE and the configured index"
        ) from exc


def unpack(content: bytes, target: Path) -> None:
    """Write the program inside the wheel to ``target`` by one rename."""
    with zipfile.ZipFile(io.BytesIO(content)) as wheel:
        names = [n for n in wheel.namelist() if n.endswith(".data/scripts/uv")]
        if len(names) != 1:
            raise BootstrapError("the wheel holds no program named uv")
        aside = target.with_name(f"uv.{os.getpid()}.aside")
        aside.write_bytes(wheel.read(names[0]))
    aside.chmod(0o755)
    aside.replace(target)


def _masked(address: str) -> str:
    parts = urllib.parse.urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


class _Links(html.parser.HTMLParser):
    """Collects the links of a simple-index page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the address of each link."""
        if tag == "a":
            self.found += [value for name, value in attrs if name == "href" and value]


if __name__ == "__main__":
    sys.exit(main())
